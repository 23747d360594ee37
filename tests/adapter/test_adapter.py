"""One invocation, from the event to the response."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import FastAPI
from hypothesis import given, settings
from hypothesis import strategies as st

from handler import main
from handler.adapter.detection import NotHttpEvent
from tests.support.event_files import FILES, expected_status, load_after_storing, name_of
from tests.support.event_sources import EVENT_SOURCES, Request, http_api_2, parse_response, send

LIST = http_api_2(Request("GET", "/probes/"))
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None), max_size=8),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text(max_size=8), values, max_size=3),
    max_leaves=6,
)
REQUEST = Request("GET", "/health/live", "a=1", [("cookie", "a=1"), ("x", "y")], b"{}")


PARTS = sorted({part for event in EVENT_SOURCES.values() for part in event(REQUEST)} | {"version", "cookies"})


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_every_file_of_events_gets_a_response(path: Path, serve: Callable[..., FastAPI]) -> None:
    event = load_after_storing(path)
    if path.stem == "scheduled":
        assert main.handler(event, None) is None
        return
    if path.stem in ("migration-create", "sqs"):
        with pytest.raises(NotHttpEvent):
            main.handler(event, None)
        return
    if path.stem == "custom-domain-mapping":
        serve(base_path="/shop")
    response = send(event)
    assert response.status == expected_status(event), response.body


def test_the_context_may_have_no_attributes() -> None:
    for context in (None, object(), SimpleNamespace(aws_request_id=None), {}):
        response = main.handler(LIST, context)
        assert response["statusCode"] == 200
        assert response["headers"]["x-request-id"]
    refused = main.handler(LIST | {"body": 7}, None)
    assert json.loads(refused["body"])["request_id"] == refused["headers"]["x-request-id"]


@settings(max_examples=400, deadline=None)
@given(
    source=st.sampled_from(sorted(EVENT_SOURCES)),
    parts=st.dictionaries(st.sampled_from(PARTS), JSON_VALUES, max_size=3),
)
def test_a_request_with_any_value_in_any_part_gets_a_response(source: str, parts: dict[str, Any]) -> None:
    event = EVENT_SOURCES[source](REQUEST) | parts
    response = parse_response(event, main.handler(event, None))
    assert 200 <= response.status < 500


@settings(max_examples=200, deadline=None)
@given(event=JSON_VALUES | st.dictionaries(st.sampled_from([*PARTS, "Records", "detail"]), JSON_VALUES))
def test_any_event_gets_a_response_or_raises_not_http_event(event: Any) -> None:
    try:
        response = main.handler(event, None)
    except NotHttpEvent:
        assert not isinstance(event, dict) or event.keys().isdisjoint(("requestContext", "httpMethod", "rawPath"))
    else:
        assert response is not None
        assert 200 <= response["statusCode"] < 500
