"""Items are created, read, changed, replaced and deleted, through the handler and on real PostgreSQL."""

import re

import pytest

from tests.items.client import create
from tests.support.client import call

PROBLEM = "application/problem+json"


def test_a_created_item_has_a_location_and_can_be_read() -> None:
    created = call("POST", "/items/", {"name": "Lamp", "description": "A desk lamp"})
    assert created.status == 201
    assert created.headers["location"] == f"/items/{created.json['id']}"
    assert created.json["name"] == "Lamp"
    assert created.json["description"] == "A desk lamp"
    assert created.json["version"] == 1
    read = call("GET", created.headers["location"])
    assert (read.status, read.json) == (200, created.json)


def test_times_are_utc_with_their_zone() -> None:
    item = create()
    for field in ("created_at", "updated_at"):
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", item[field])


def test_a_missing_item_is_404_with_every_method() -> None:
    for method, body in [
        ("GET", None),
        ("PATCH", {"name": "x"}),
        ("PATCH", {}),
        ("PUT", {"name": "x"}),
        ("DELETE", None),
    ]:
        response = call(method, "/items/12", body)
        assert response.status == 404
        assert response.headers["content-type"] == PROBLEM
        assert response.json["detail"] == "Item not found"


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
def test_the_collection_without_its_slash_is_a_redirect_that_keeps_method_and_query(method: str) -> None:
    response = call(method, "/items", {"name": "Lamp"} if method == "POST" else None, query="limit=1&order=name")
    assert (response.status, response.body) == (307, b"")
    assert response.headers["location"] == "https://localhost/items/?limit=1&order=name"
    assert call("GET", "/items/").json["items"] == []


def test_patch_changes_only_the_given_fields() -> None:
    item = create("Lamp", "A desk lamp")
    changed = call("PATCH", f"/items/{item['id']}", {"name": "Torch"})
    assert changed.status == 200
    assert changed.json["name"] == "Torch"
    assert changed.json["description"] == "A desk lamp"
    assert changed.json["version"] == 2
    assert changed.json["created_at"] == item["created_at"]
    assert changed.json["updated_at"] > item["updated_at"]
    assert call("GET", f"/items/{item['id']}").json == changed.json


def test_patch_with_null_removes_the_description() -> None:
    item = create("Lamp", "A desk lamp")
    assert call("PATCH", f"/items/{item['id']}", {"description": None}).json["description"] is None


def test_an_empty_patch_changes_nothing() -> None:
    item = create("Lamp", "A desk lamp")
    unchanged = call("PATCH", f"/items/{item['id']}", {})
    assert (unchanged.status, unchanged.json) == (200, item)


def test_put_replaces_the_whole_item() -> None:
    item = create("Lamp", "A desk lamp")
    replaced = call("PUT", f"/items/{item['id']}", {"name": "Torch"})
    assert replaced.status == 200
    assert (replaced.json["name"], replaced.json["description"]) == ("Torch", None)
    assert replaced.json["version"] == 2


def test_a_deleted_item_is_gone() -> None:
    item = create()
    deleted = call("DELETE", f"/items/{item['id']}")
    assert (deleted.status, deleted.body) == (204, b"")
    assert call("GET", f"/items/{item['id']}").status == 404
