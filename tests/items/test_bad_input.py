"""Invalid input is a 4xx that names the problem and repeats no input. No row is stored, and the next request works."""

import json
from typing import Any

import pytest

from tests.items.client import create
from tests.support.client import call

SECRET = "ECHO-ME-NOT"
NAME, DESCRIPTION = 200, 10_000


def stored(database: Any) -> int:
    return int(database.run("SELECT count(*) FROM items")[0][0])


def assert_refused(response: Any, database: Any, *statuses: int) -> None:
    assert response.status in statuses, response.body
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json["status"] == response.status
    assert SECRET not in response.body.decode()
    assert stored(database) == 0
    assert create("after")["name"] == "after"


BODIES: dict[str, bytes] = {
    "empty": b"",
    "not json": SECRET.encode(),
    "cut short": b'{"name": "ECHO-ME-NOT"',
    "an array": b'["ECHO-ME-NOT"]',
    "a string": b'"ECHO-ME-NOT"',
    "a number": b"1",
    "null": b"null",
    "no name": b"{}",
    "null name": b'{"name": null}',
    "number as name": b'{"name": 1}',
    "object as name": b'{"name": {"ECHO-ME-NOT": 1}}',
    "NaN as name": b'{"name": NaN}',
    "Infinity as description": b'{"name": "x", "description": Infinity}',
    "unknown field": b'{"name": "x", "ECHO-ME-NOT": 1}',
    "unknown field NaN": b'{"name": "x", "ECHO-ME-NOT": NaN}',
    "id given": b'{"name": "x", "id": 7}',
    "empty name": b'{"name": ""}',
    "blank name": b'{"name": " \\t\\n"}',
    "name of control characters": b'{"name": "\\u0001\\u001f\\u007f\\u0085"}',
    "name of no width": b'{"name": "\\u200b\\u200d\\ufeff\\u00ad\\u3164 \\u2060"}',
    "no-break spaces as name": '{"name": "\u00a0\u2003"}'.encode(),
    "name too long": json.dumps({"name": "x" * (NAME + 1)}).encode(),
    "description too long": json.dumps({"name": "x", "description": "x" * (DESCRIPTION + 1)}).encode(),
    "NUL in name": b'{"name": "ECHO-ME-NOT\\u0000"}',
    "NUL in description": b'{"name": "x", "description": "\\u0000"}',
    "high surrogate": b'{"name": "ECHO-ME-NOT\\ud800"}',
    "low surrogate": b'{"name": "\\udc00"}',
    "surrogate in description": b'{"name": "x", "description": "\\ud83d"}',
    "surrogate in a key": b'{"name": "x", "\\ud800": 1}',
    "not UTF-8": b'{"name": "\xff\xfe"}',
    "very deep": b"[" * 100_000,
    "a number of 5,000 digits": b'{"name": ' + b"9" * 5_000 + b"}",
    "oversized": b'{"name": "' + b"x" * 300_000 + b'"}',
}


@pytest.mark.parametrize("name", BODIES)
def test_an_invalid_body_is_422(name: str, database: Any) -> None:
    expected = (413,) if name == "oversized" else (400, 422)
    assert_refused(call("POST", "/items/", BODIES[name]), database, *expected)


def test_repeated_errors_are_reported_once() -> None:
    body = {"name": "Lamp"} | {f"{number:x}": 1 for number in range(20_000)}
    response = call("POST", "/items/", body)
    assert response.status == 422
    assert len(response.json["errors"]) == 1


@pytest.mark.parametrize("method", ["PATCH", "PUT"])
@pytest.mark.parametrize("name", [n for n in BODIES if n != "no name"])
def test_an_invalid_change_does_not_change_the_item(method: str, name: str) -> None:
    item = create()
    response = call(method, f"/items/{item['id']}", BODIES[name])
    assert response.status in (400, 413, 422), response.body
    assert call("GET", f"/items/{item['id']}").json == item


@pytest.mark.parametrize(
    "item_id",
    [
        "0",
        "-1",
        "-0",
        "9223372036854775808",
        "9" * 30,
        "9" * 5000,
        "1.5",
        "1e3",
        "abc",
        "%00",
        "é",
        "0x1",
        "NaN",
        "null",
    ],
)
def test_an_id_out_of_range_is_refused(item_id: str, database: Any) -> None:
    for method, body in [("GET", None), ("PATCH", {"name": "x"}), ("PUT", {"name": "x"}), ("DELETE", None)]:
        response = call(method, f"/items/{item_id}", body)
        assert response.status == 422, method
    assert stored(database) == 0


def test_the_longest_valid_body_is_stored_in_every_spelling() -> None:
    body = json.dumps({"name": "\U0001f4a1" * NAME, "description": "\U0001f4a1" * DESCRIPTION}).encode()
    response = call("POST", "/items/", body)
    assert response.status == 201
    assert response.json["description"] == "\U0001f4a1" * DESCRIPTION
