"""The files of events/: a folder for each resource, and beside them the events of each event source."""

import json
from pathlib import Path
from typing import Any

from handler.database.base import Base
from tests.support.client import Response, invoke

EVENTS = Path(__file__).parents[2] / "events"
FILES = sorted(EVENTS.rglob("*.json"))
# One event for each route, as the template's API sends it: payload 2.0, from its own domain and the $default stage.
ROUTE_FILES = [path for path in FILES if path.parent != EVENTS or path.stem.startswith("health-")]
# What a request of this method does to the number of stored rows.
ROWS = {"POST": 1, "DELETE": -1}


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
    return {"POST": 201, "DELETE": 204}.get(method_of(event) or "", 200)


def store_one_of_each() -> list[Response]:
    """What the events of resources are about: the first row of each resource."""
    responses = [invoke(load(path)) for path in sorted(EVENTS.glob("*/create.json"))]
    assert all(response.status == 201 for response in responses), [response.body for response in responses]
    return responses


def count_rows(database: Any) -> int:
    """The rows of all tables."""
    counts = [f"(SELECT count(*) FROM {table.fullname})" for table in Base.metadata.sorted_tables]
    return int(database.run(f"SELECT {' + '.join(counts)}")[0][0])


def assert_rows_changed(event: Any, before: int, after: int) -> None:
    """A POST has added rows, a DELETE has removed some, and every other request has kept their number."""
    change = after - before
    assert (change > 0) - (change < 0) == ROWS.get(method_of(event) or "", 0), (before, after)
