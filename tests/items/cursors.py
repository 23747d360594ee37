"""Cursors of the list of items, as a client can compute them that knows handler/api/pagination.py."""

from typing import Any

from fastapi import Request

from handler.api.pagination import Keyset, _encode
from handler.items.models import Item
from handler.items.schemas import ItemListQuery


def items_cursor(keys: bytes, **query: Any) -> str:
    """The cursor of a page after the row with these keys, a JSON array; `query` has the list's order and search."""
    parameters: Any = ItemListQuery.model_validate(query)
    request = Request({"type": "http", "path": "/items/", "root_path": ""})
    if parameters.order == "name":
        keyset = Keyset(parameters, request, Item.name, Item.id)
    else:
        keyset = Keyset(parameters, request, Item.id, descending=True)
    return _encode(keyset._checksum(keys) + keys)
