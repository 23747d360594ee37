"""Cursors of the list of items, as a client can compute them from handler/api/pagination.py."""

import hashlib
from base64 import urlsafe_b64encode
from typing import Any

from handler.api.pagination import CHECKSUM
from handler.items.schemas import ItemListQuery


def items_cursor(keys: bytes, **query: Any) -> str:
    """The cursor of a page after the row with these keys, a JSON array; `query` has the list's order and search."""
    parameters = ItemListQuery.model_validate(query)
    columns = ["name", "id"] if parameters.order == "name" else ["id"]
    filters = parameters.model_dump_json(exclude={"limit", "cursor"})
    position = f"/items/ {columns} {parameters.order != 'name'} {filters}".encode() + b"\x00" + keys
    packed = hashlib.blake2s(position, digest_size=CHECKSUM).digest() + keys
    return urlsafe_b64encode(packed).decode().rstrip("=")
