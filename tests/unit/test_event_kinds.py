"""Any value in any part of an event gets a response, or the exception for events that are not HTTP."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from handler.adapter.detection import NotHttpEvent
from handler.main import handler
from tests.support.event_kinds import KINDS, Request, received

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None), max_size=8),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text(max_size=8), values, max_size=3),
    max_leaves=6,
)
REQUEST = Request("GET", "/health/live", "a=1", [("cookie", "a=1"), ("x", "y")], b"{}")
PARTS = sorted({part for event in KINDS.values() for part in event(REQUEST)} | {"version", "cookies"})


@settings(max_examples=400, deadline=None)
@given(kind=st.sampled_from(sorted(KINDS)), parts=st.dictionaries(st.sampled_from(PARTS), JSON_VALUES, max_size=3))
def test_a_request_with_anything_in_its_parts_is_answered(kind: str, parts: dict[str, Any]) -> None:
    event = KINDS[kind](REQUEST) | parts
    answer = received(event, handler(event, None))
    assert 200 <= answer.status < 500


@settings(max_examples=200, deadline=None)
@given(event=JSON_VALUES | st.dictionaries(st.sampled_from([*PARTS, "Records", "detail"]), JSON_VALUES))
def test_any_event_at_all_is_answered_or_raises_the_named_exception(event: Any) -> None:
    try:
        response = handler(event, None)
    except NotHttpEvent:
        assert not isinstance(event, dict) or event.keys().isdisjoint(("requestContext", "httpMethod", "rawPath"))
    else:
        assert response is not None
        assert 200 <= response["statusCode"] < 500
