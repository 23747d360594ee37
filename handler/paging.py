"""Keyset paging: a cursor says after which row a page starts, so a page costs the same at any depth.

A cursor belongs to its list: the order and the search are in its checksum, and another's is refused. The checksum is
no secret; a cursor that somebody computes starts a page elsewhere, and shows nothing that a list would not.
"""

import hashlib
import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

from fastapi import HTTPException, status
from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic.json_schema import SkipJsonSchema

from handler.text import TEXT_NOT_BLANK, not_blank, storable

CHECKSUM = 6  # bytes

Search = Annotated[
    str,
    Field(
        min_length=3,
        max_length=100,
        json_schema_extra=TEXT_NOT_BLANK,
        description="Only what contains this, in name or description, in upper or lower case; at least 3 characters",
    ),
    AfterValidator(storable),
    AfterValidator(not_blank),
]


class Page(BaseModel):
    """The query parameters of a list."""

    model_config = ConfigDict(extra="forbid")

    limit: Annotated[int, Field(ge=1, le=100, description="Items on the page")] = 50
    order: Annotated[Literal["newest", "name"], Field(description="`newest` first, or by `name`")] = "newest"
    q: Search | SkipJsonSchema[None] = None
    cursor: Annotated[
        str | SkipJsonSchema[None], Field(max_length=2000, description="`next_cursor` of the page before")
    ] = None


def next_cursor(page: Page, *keys: Any) -> str:
    """A cursor for what comes after the row of these `keys`."""
    data = json.dumps(keys).encode()
    return urlsafe_b64encode(_checksum(page, data) + data).decode().rstrip("=")


def start_keys(page: Page, *first: Any) -> list[Any]:
    """The keys that `page` starts after: those in its cursor, or `first`. Raises HTTPException 400."""
    if page.cursor is None:
        return list(first)
    try:
        packed = urlsafe_b64decode(page.cursor.encode("ascii") + b"==")
    except ValueError:
        packed = b""
    checksum, data = packed[:CHECKSUM], packed[CHECKSUM:]
    if not data or checksum != _checksum(page, data) or [*map(type, keys := json.loads(data))] != [*map(type, first)]:
        raise HTTPException(status.HTTP_400_BAD_REQUEST, "The cursor is not one of this list")
    return list(keys)


def link_to_next(path: str, page: Page, cursor: str) -> str:
    """A Link header's value (RFC 8288): the same list, from `cursor` on."""
    parameters = page.model_dump(exclude_defaults=True) | {"cursor": cursor}
    return f'<{path}?{urlencode(parameters)}>; rel="next"'


def _checksum(page: Page, data: bytes) -> bytes:
    belongs_to = json.dumps([page.order, page.q]).encode()
    return hashlib.blake2s(belongs_to + data, digest_size=CHECKSUM).digest()
