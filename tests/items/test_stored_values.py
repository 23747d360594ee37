"""Every row that PostgreSQL accepts from another program can be read, listed and changed through the API."""

from typing import Any

import pytest
from pg8000.exceptions import DatabaseError

from tests.items.client import create
from tests.support.client import call

INSERT = "INSERT INTO items (name, {0}) OVERRIDING SYSTEM VALUE VALUES ('Lamp', {1})"
TIMES_REFUSED = ["'infinity'", "'-infinity'", "'0001-12-31 23:59:59.999999+00 BC'", "'4713-01-01 BC'"]
TIMES_REFUSED += ["'10000-01-01 00:00:00+00'", "'9999-12-31 23:59:59-01'", "'294276-12-31'"]
REFUSED = {
    "id": ["0", "-1", "-9223372036854775808"],
    "version": ["0", "-1", "-2147483648"],
    "created_at": TIMES_REFUSED,
    "updated_at": TIMES_REFUSED,
    "name": ["''", "' '", "repeat('x', 201)", "NULL"],
    "description": ["repeat('x', 10001)"],
}
TIMES_SHOWN = ["'0001-01-01 00:00:00+00'", "'9999-12-31 23:59:59.999999+00'", "'epoch'", "'2026-03-29 02:30+01:00'"]
SHOWN = {
    "id": ["1", "9223372036854775807"],
    "version": ["1", "999999999", "1000000000", "2147483646"],
    "created_at": TIMES_SHOWN,
    "updated_at": TIMES_SHOWN,
    "description": ["''", "NULL", "E'\\u0001\\uFFFF'", "repeat(U&'\\+01F4A1', 10000)"],
}


@pytest.mark.parametrize(("column", "value"), [(name, value) for name, values in REFUSED.items() for value in values])
def test_postgresql_rejects_a_row_that_the_api_cannot_represent(column: str, value: str, database: Any) -> None:
    insert = INSERT.format(column, value) if column != "name" else f"INSERT INTO items (name) VALUES ({value})"
    statements = [insert] if column == "id" else [insert, f"UPDATE items SET {column} = {value}"]
    item = create()
    for statement in statements:
        with pytest.raises(DatabaseError) as error:
            database.run(statement)
        assert error.value.args[0]["C"] in ("23514", "23502")  # check_violation, not_null_violation
    assert call("GET", "/items/").json["items"] == [item]


@pytest.mark.parametrize(("column", "value"), [(name, value) for name, values in SHOWN.items() for value in values])
def test_a_row_that_postgresql_accepts_can_be_read_listed_and_changed(column: str, value: str, database: Any) -> None:
    database.run(INSERT.format(column, value))
    listed = call("GET", "/items/")
    assert listed.status == 200
    (item,) = listed.json["items"]
    read = call("GET", f"/items/{item['id']}")
    assert (read.status, read.json, read.headers["etag"]) == (200, item, f'"{item["version"]}"')
    changed = call("PATCH", f"/items/{item['id']}", {"name": "Torch"}, headers=[("if-match", read.headers["etag"])])
    assert (changed.status, changed.json["version"]) == (200, item["version"] + 1)


def test_the_largest_version_can_be_read_and_deleted(database: Any) -> None:
    database.run(INSERT.format("version", "2147483647"))
    item = call("GET", "/items/").json["items"][0]
    assert call("PATCH", f"/items/{item['id']}", {"name": "Torch"}).status == 422
    etag = call("GET", f"/items/{item['id']}").headers["etag"]
    assert call("DELETE", f"/items/{item['id']}", headers=[("if-match", etag)]).status == 204
