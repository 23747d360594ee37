"""A client that is generated from the committed contract calls the routes of items."""

from collections.abc import Iterator
from importlib import import_module
from typing import Any
from uuid import uuid4

import pytest

from tests.support.service import PACKAGE, generated_client, running_service


@pytest.fixture(scope="module")
def client(server_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("client")
    with running_service(server_url, folder) as url, generated_client(url, folder) as client:
        yield client


def operation(name: str) -> Any:
    return import_module(f"{PACKAGE}.api.items.{name}").sync_detailed


def test_a_generated_client_creates_reads_and_changes_an_item(client: Any) -> None:
    models = import_module(f"{PACKAGE}.models")
    body, key = models.ItemCreate(name="Lamp"), str(uuid4())
    created = operation("create_item")(client=client, body=body, idempotency_key=key)
    assert created.status_code == 201
    assert isinstance(created.parsed, models.ItemRead)
    assert (created.parsed.name, created.parsed.description, created.parsed.version) == ("Lamp", None, 1)
    assert created.parsed.created_at.tzinfo is not None
    item_id, etag = created.parsed.id, created.headers["etag"]

    repeated = operation("create_item")(client=client, body=body, idempotency_key=key)
    assert repeated.parsed == created.parsed

    assert operation("read_item")(item_id, client=client).parsed == created.parsed
    unchanged = operation("read_item")(item_id, client=client, if_none_match=etag)
    assert (unchanged.status_code, unchanged.parsed) == (304, None)

    change = models.ItemUpdate(description="A desk lamp")
    changed = operation("update_item")(item_id, client=client, body=change, if_match=etag)
    assert (changed.parsed.name, changed.parsed.description, changed.parsed.version) == ("Lamp", "A desk lamp", 2)
    assert operation("read_item")(item_id, client=client).parsed == changed.parsed

    late = operation("update_item")(item_id, client=client, body=change, if_match=etag)
    assert late.status_code == 412
    assert isinstance(late.parsed, models.Problem)
    assert late.parsed.status == 412

    invalid = operation("replace_item")(item_id, client=client, body=models.ItemCreate(name=" "))
    assert [error.pointer for error in invalid.parsed.errors] == ["#/name"]
    gone = operation("delete_item")(item_id, client=client, if_match=changed.headers["etag"])
    assert (gone.status_code, gone.parsed) == (204, None)
    assert operation("read_item")(item_id, client=client).parsed.title == "Not Found"


def test_a_generated_client_reads_a_list_page_by_page(client: Any) -> None:
    models = import_module(f"{PACKAGE}.models")
    names = ["a page", "b page", "c page"]
    for name in reversed(names):
        operation("create_item")(client=client, body=models.ItemCreate(name=name))
    query: dict[str, Any] = {"limit": 2, "order": models.ListItemsOrder.NAME, "q": " page"}
    first = operation("list_items")(client=client, **query).parsed
    rest = operation("list_items")(client=client, **query, cursor=first.next_cursor).parsed
    assert isinstance(first, models.ItemPage)
    assert [item.name for item in first.items + rest.items] == names
    assert rest.next_cursor is None
