"""The files of events/: a folder for each resource, and beside them the events of each event source."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from handler.database.base import Base
from tests.support.client import invoke, openapi
from tests.support.event_sources import parse_response

EVENTS = Path(__file__).parents[2] / "events"
FILES = sorted(EVENTS.rglob("*.json"))
# One event for each route, as the template's API sends it: payload 2.0, default domain and stage $default.
ROUTE_FILES = [path for path in FILES if path.parent != EVENTS or path.stem.startswith("health-")]
# The keys that PostgreSQL generates, in a path: a number or a UUID. No file of events/ has them.
GENERATED_KEY = re.compile(r"(?<=/)(?:\d+|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})(?=/|$)")


def name_of(path: Path) -> str:
    """`orders/create` for events/orders/create.json."""
    return str(path.relative_to(EVENTS).with_suffix(""))


def load(path: Path) -> Any:
    return json.loads(path.read_text())


def method_of(event: Any) -> str | None:
    """None for events that are not HTTP requests."""
    found: str | None = event.get("httpMethod") or event.get("requestContext", {}).get("http", {}).get("method")
    return found


def expected_status(event: Any) -> int:
    """The status of success that the OpenAPI document has for the event's operation; 200 for a path that it has not."""
    method, path = (method_of(event) or "").lower(), event.get("rawPath") or event.get("path")
    for template, operations in openapi()["paths"].items():
        if method in operations and re.fullmatch(re.sub(r"{\w+}", "[^/]+", template), path):
            statuses = [int(status) for status in operations[method]["responses"] if status.startswith("2")]
            return min(statuses, default=200)
    return 200


def load_after_storing(path: Path) -> Any:
    """Stores a row of each resource with its create.json, and returns the event of the file `path`.

    The first generated key in the event's path is replaced by the one of the stored row of its resource. A create.json
    is not sent before it is tested itself: a unique column would refuse the same body the second time.
    """
    event = load(path)
    for create in sorted(EVENTS.glob("*/create.json")):
        if create == path:
            continue
        response = invoke(load(create))
        assert response.status == expected_status(load(create)), (name_of(create), response.body)
        if create.parent == path.parent and "location" in response.headers:
            put_key(event, response.headers["location"])
    return event


def put_key(event: Any, location: str) -> None:
    """Puts the key at the end of `location`, the path of a stored row, into the path of `event`."""
    key = location.rpartition("/")[2]
    event["rawPath"] = GENERATED_KEY.sub(key, event["rawPath"], count=1)
    event["requestContext"]["http"]["path"] = event["rawPath"]


def count_rows(database: Any) -> int:
    """The rows of all tables."""
    counts = [f"(SELECT count(*) FROM {table.fullname})" for table in Base.metadata.sorted_tables]
    return int(database.run(f"SELECT {' + '.join(counts)}")[0][0])


def assert_rows_changed(event: Any, before: int, after: int) -> None:
    """A 201 of a POST has added rows, a DELETE has removed some, another POST may do either, and all else neither."""
    method, change = method_of(event), after - before
    if method != "POST" or expected_status(event) == 201:
        assert (change > 0) - (change < 0) == {"POST": 1, "DELETE": -1}.get(method or "", 0), (before, after)


def check_event(path: Path, function: Callable[[Any], Any], database: Any) -> None:
    """Call `function` with the event of the file `path`. Check what it returns, and the number of stored rows."""
    event = load_after_storing(path)
    before = count_rows(database)
    returned = function(event)
    if path.stem == "scheduled":
        assert returned is None
    elif method_of(event) is None:
        assert returned["errorType"] == "NotHttpEvent"
    else:
        response = parse_response(event, returned)
        assert response.status == expected_status(event), response
        assert_rows_changed(event, before, count_rows(database))
