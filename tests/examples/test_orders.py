"""The resource of examples/ works as docs/adding-a-resource.md describes it, with the same round trips."""

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import pytest

from tests.examples.conftest import ROOT, Environment, Response, run_migrate
from tests.support.database import connect, temporary_database

pytestmark = pytest.mark.usefixtures("orders")

LINES = [
    {"product": "Desk lamp", "quantity": 2, "unit_price": "12.5"},
    {"product": "Bulb", "quantity": 10, "unit_price": "0.99"},
    {"product": "Cable", "quantity": 1, "unit_price": "3"},
]
ORDER = {"number": "A-1001", "deliver_at": "2026-12-01T09:00:00+01:00", "lines": LINES}
AMOUNT = (
    'Must be an amount in a string, such as "12.50": at most 6 digits before the point and 2 after it, without a sign'
)
MISSING = "01980d5c-3c5e-7cc0-8000-6d8f3a1b2c4d"


@pytest.fixture
def order(environment: Environment) -> Any:
    """A stored order, as the API returned it."""
    return create(environment).json


def create(environment: Environment, **changes: Any) -> Response:
    response = environment.call("POST", "/orders/", ORDER | changes)
    assert response.status == 201, response.text
    return response


def change(environment: Environment, order: Any, status: str, etag: str | None = None) -> Response:
    headers = [("If-Match", etag)] if etag else []
    return environment.call("PATCH", f"/orders/{order['id']}", {"status": status}, headers=headers)


def wait_until_blocked(admin: Any) -> None:
    """Wait until a session of this database waits for the lock of another."""
    deadline = time.monotonic() + 5
    waiting = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    while not admin.run(waiting):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_an_order_is_created_with_its_lines_in_three_round_trips(environment: Environment, orders: Any) -> None:
    response = create(environment)
    assert response.round_trips == 3
    created = response.json
    assert (response.headers["etag"], response.headers["location"]) == ('"1"', f"/orders/{created['id']}")
    assert str(UUID(created["id"])) == created["id"]
    assert created["number"] == "A-1001"
    assert created["status"] == "draft"
    assert created["deliver_at"] == "2026-12-01T08:00:00Z"
    assert created["total"] == "37.90"
    assert [line["unit_price"] for line in created["lines"]] == ["12.50", "0.99", "3.00"]
    assert [line["product"] for line in created["lines"]] == ["Desk lamp", "Bulb", "Cable"]
    assert orders.run("SELECT count(*), sum(quantity * unit_price)::text FROM order_lines") == [[3, "37.90"]]


@pytest.mark.parametrize("lines", [1, 100])
def test_the_number_of_lines_changes_no_round_trip(lines: int, environment: Environment) -> None:
    created = create(environment, lines=LINES[:1] * lines)
    read = environment.call("GET", f"/orders/{created.json['id']}")
    assert (created.round_trips, read.round_trips) == (3, 1)
    assert len(read.json["lines"]) == lines


def test_the_highest_total_can_be_stored(environment: Environment) -> None:
    line = {"product": "Ship", "quantity": 1000, "unit_price": "999999.99"}
    assert create(environment, lines=[line] * 100).json["total"] == "99999999000.00"


def test_an_order_is_read_with_its_lines_in_one_round_trip(environment: Environment, order: Any) -> None:
    response = environment.call("GET", f"/orders/{order['id']}")
    assert response.round_trips == 1
    assert response.json == order, "the response to POST is what GET returns"
    assert response.headers["etag"] == '"1"'
    unchanged = environment.call("GET", f"/orders/{order['id']}", headers=[("If-None-Match", '"1"')])
    assert (unchanged.status, unchanged.text, unchanged.round_trips) == (304, "", 1)


@pytest.mark.parametrize("id_", [MISSING.upper(), MISSING.replace("-", ""), f"{{{MISSING}}}", "1"])
def test_an_id_that_is_not_a_canonical_uuid_costs_no_round_trip(id_: str, environment: Environment) -> None:
    response = environment.call("GET", f"/orders/{id_}")
    assert (response.status, response.round_trips) == (422, 0)


def test_an_order_that_is_missing_is_404(environment: Environment) -> None:
    assert environment.call("GET", f"/orders/{MISSING}").status == 404
    assert change(environment, {"id": MISSING}, "placed").status == 404


def test_a_list_has_orders_without_lines_newest_first_in_one_round_trip(environment: Environment) -> None:
    numbers = [create(environment, number=f"A-{n}").json["number"] for n in range(5)]
    first = environment.call("GET", "/orders/", query="limit=2")
    assert first.round_trips == 1
    assert "lines" not in first.json["items"][0]
    found = first.json["items"]
    while cursor := first.json["next_cursor"]:
        first = environment.call("GET", "/orders/", query=f"limit=2&cursor={cursor}")
        assert first.round_trips == 1
        found += first.json["items"]
    assert [one["number"] for one in found] == numbers[::-1]


def test_a_list_can_be_of_one_status(environment: Environment) -> None:
    placed = create(environment, number="A-1").json
    create(environment, number="A-2")
    change(environment, placed, "placed")
    response = environment.call("GET", "/orders/", query="status=placed")
    assert (response.round_trips, [one["id"] for one in response.json["items"]]) == (1, [placed["id"]])
    unknown = environment.call("GET", "/orders/", query="status=lost")
    assert unknown.status == 422
    assert unknown.json["errors"][0]["detail"] == "Input should be 'draft', 'placed', 'shipped' or 'cancelled'"


def test_a_list_can_be_in_the_order_of_the_totals(environment: Environment) -> None:
    for n, quantity in enumerate((1, 3, 3, 2)):
        create(environment, number=f"A-{n}", lines=[LINES[1] | {"quantity": quantity}])
    found: list[Any] = []
    cursor: str | None = ""
    while cursor is not None:
        page = environment.call("GET", "/orders/", query=f"order=total&limit=1{cursor and f'&cursor={cursor}'}")
        assert (page.status, page.round_trips) == (200, 1)
        found += page.json["items"]
        cursor = page.json["next_cursor"]
    assert [one["total"] for one in found] == ["2.97", "2.97", "1.98", "0.99"]
    assert len({one["id"] for one in found}) == 4


def test_a_cursor_belongs_to_the_list_of_its_status(environment: Environment) -> None:
    for n in range(2):
        create(environment, number=f"A-{n}")
    cursor = environment.call("GET", "/orders/", query="status=draft&limit=1").json["next_cursor"]
    assert environment.call("GET", "/orders/", query=f"status=draft&limit=1&cursor={cursor}").status == 200
    assert environment.call("GET", "/orders/", query=f"limit=1&cursor={cursor}").status == 400


def test_a_number_that_exists_is_409_and_names_the_constraint(
    environment: Environment, order: Any, orders: Any
) -> None:
    response = environment.call("POST", "/orders/", ORDER)
    assert (response.status, response.json["constraint"]) == (409, "uq_orders_number")
    assert orders.run("SELECT count(*) FROM orders") == [[1]]
    assert order["number"] == ORDER["number"]


def test_a_status_is_changed_in_three_round_trips_and_the_version_is_incremented(
    environment: Environment, order: Any
) -> None:
    response = change(environment, order, "placed", '"1"')
    assert (response.status, response.round_trips, response.headers["etag"]) == (200, 3, '"2"')
    assert (response.json["status"], response.json["version"], response.json["lines"]) == ("placed", 2, order["lines"])
    assert response.json["updated_at"] > order["updated_at"]
    assert environment.call("GET", f"/orders/{order['id']}").json == response.json


def test_a_change_of_an_earlier_version_is_412(environment: Environment, order: Any) -> None:
    assert change(environment, order, "placed", '"1"').status == 200
    assert change(environment, order, "shipped", '"1"').status == 412
    assert environment.call("GET", f"/orders/{order['id']}").json["status"] == "placed"


@pytest.mark.parametrize("etag", ['"1"', None])
def test_one_of_two_concurrent_changes_succeeds(
    etag: str | None, environment: Environment, order: Any, orders: Any, database_url: str
) -> None:
    """The request has read the order, and waits for another transaction that has locked it."""
    orders.run("BEGIN")
    orders.run("UPDATE orders SET version = version + 1, status = 'cancelled'")
    with ThreadPoolExecutor(1) as executor, connect(database_url) as admin:
        request = executor.submit(change, environment, order, "placed", etag)
        try:
            wait_until_blocked(admin)
        finally:
            orders.run("COMMIT")
        assert request.result().status == (412 if etag else 409)
    assert environment.call("GET", f"/orders/{order['id']}").json["status"] == "cancelled"


@pytest.mark.parametrize(
    ("before", "after", "status"),
    [
        (("placed",), "shipped", 200),
        (("placed",), "cancelled", 200),
        ((), "cancelled", 200),
        ((), "draft", 409),
        ((), "shipped", 409),
        (("placed",), "draft", 409),
        (("placed", "shipped"), "cancelled", 409),
        (("cancelled",), "placed", 409),
        ((), "lost", 422),
        ((), 1, 422),
    ],
)
def test_a_status_follows_only_those_before_it(
    before: tuple[str, ...], after: Any, status: int, environment: Environment, order: Any
) -> None:
    for step in before:
        assert change(environment, order, step).status == 200
    response = change(environment, order, after)
    assert response.status == status
    if status == 409:
        present = before[-1] if before else "draft"
        assert response.json["detail"] == f"An order that is {present} cannot become {after}"


@pytest.mark.parametrize(
    ("changes", "detail"),
    [
        ({"number": " "}, "Must not be blank"),
        ({"lines": []}, "List should have at least 1 item after validation, not 0"),
        ({"lines": LINES[:1] * 101}, "List should have at most 100 items after validation, not 101"),
        ({"lines": [LINES[0] | {"quantity": True}]}, "Must be a whole number"),
        ({"lines": [LINES[0] | {"quantity": 0}]}, "Input should be greater than or equal to 1"),
        (
            {"lines": [LINES[0] | {"unit_price": 12.5}]},
            AMOUNT,
        ),
        (
            {"deliver_at": "2026-12-01T09:00:00"},
            "Must be a date and time with a zone and at most six digits of a second, such as 2026-01-31T12:00:00.5Z",
        ),
    ],
)
def test_an_order_that_is_not_valid_costs_no_round_trip(
    changes: dict[str, Any], detail: str, environment: Environment
) -> None:
    response = environment.call("POST", "/orders/", ORDER | changes)
    assert (response.status, response.round_trips) == (422, 0)
    assert [error["detail"] for error in response.json["errors"]] == [detail]


def test_a_retry_creates_one_order(environment: Environment, orders: Any) -> None:
    responses = [environment.call("POST", "/orders/", ORDER, headers=[("Idempotency-Key", "a-key")]) for _ in range(2)]
    assert responses[0].json == responses[1].json
    assert orders.run("SELECT count(*) FROM orders") == [[1]]


def test_every_request_gets_a_response_that_openapi_describes(database_url: str) -> None:
    command = [sys.executable, "-m", "tests.examples.openapi_requests"]
    environ = os.environ | {"DATABASE_URL": database_url, "AUTH_MODE": "none"}
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    tested = {line for line in done.stdout.splitlines() if "/orders/" in line}
    assert tested == {"GET /orders/", "POST /orders/", "GET /orders/{order_id}", "PATCH /orders/{order_id}"}


def test_the_migration_creates_what_the_models_describe(database_url: str) -> None:
    run_migrate("compare", database_url)


def test_the_migration_can_be_undone_and_done_again(server_url: str) -> None:
    with temporary_database(server_url, f"orders_again_{os.getpid()}") as url:
        for command in ("upgrade", "downgrade", "upgrade", "compare"):
            run_migrate(command, url)
        with connect(url) as connection:
            assert connection.run("SELECT enum_range(NULL::order_status)::text") == [
                ["{draft,placed,shipped,cancelled}"]
            ]
