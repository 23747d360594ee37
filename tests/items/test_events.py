"""The files of events/items/ are requests of every route of items, and succeed."""

import json
from typing import Any

import pytest
from fastapi.routing import APIRoute

from handler.items.routes import router
from tests.support.client import invoke
from tests.support.event_files import (
    EVENTS,
    assert_rows_changed,
    count_rows,
    expected_status,
    load,
    load_after_storing,
)

FILES = sorted((EVENTS / "items").glob("*.json"))


def test_every_route_of_items_has_an_event() -> None:
    events = [load(path)["requestContext"]["http"] for path in FILES]
    routes = [route for route in router.routes if isinstance(route, APIRoute)]
    assert len(events) == len(routes) == 6
    for route in routes:
        assert [
            one for one in events if {one["method"]} <= (route.methods or set()) and route.path_regex.match(one["path"])
        ]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_event_of_items_succeeds(path: Any, database: Any) -> None:
    event, before = load_after_storing(path), count_rows(database)
    response = invoke(event)
    assert response.status == expected_status(event), response.body
    assert_rows_changed(event, before, count_rows(database))
    if "body" in event and response.body:
        sent = json.loads(event["body"]).items()
        # Nested objects may have ids too.
        scalars = {name: value for name, value in sent if not isinstance(value, dict | list)}
        assert response.json | scalars == response.json
