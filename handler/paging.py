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

from handler.text import OR_ABSENT, TEXT_NOT_BLANK, not_blank, storable

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
    q: Annotated[Search | None, OR_ABSENT] = None
    cursor: Annotated[str | None, OR_ABSENT, Field(max_length=2000, description="`next_cursor` of the page before")] = (
        None
    )


def next_cursor(page: Page, *keys: Any) -> str:
    """A cursor for what comes after the row of these `keys`."""
    # As short as it can be: the longest name, of whatever characters, stays below the cursor's max_length.
    data = json.dumps(keys, ensure_ascii=False, separators=(",", ":")).encode()
    return _encoded(_checksum(page, data) + data)


def start_keys(page: Page, *first: Any) -> list[Any]:
    """The keys that `page` starts after: those in its cursor, or `first`. Raises HTTPException 400."""
    if page.cursor is None:
        return list(first)
    keys = _keys(page, page.cursor)
    if [*map(type, keys)] != [*map(type, first)] or not all(map(_is_stored, keys)):
        raise HTTPException(status.HTTP_400_BAD_REQUEST, "The cursor is not one of this list")
    return keys


def _keys(page: Page, cursor: str) -> list[Any]:
    """What is in a cursor of this list; nothing in any other text."""
    try:
        packed = urlsafe_b64decode(cursor.encode("ascii") + b"==")
        checksum, data = packed[:CHECKSUM], packed[CHECKSUM:]
        # The decoder passes over what is not of its alphabet.
        if _encoded(packed) != cursor or checksum != _checksum(page, data):
            return []
        keys = json.loads(data)
    except (ValueError, RecursionError):
        return []
    return keys if isinstance(keys, list) else []


def _is_stored(key: Any) -> bool:
    """Whether a column may hold it: a bigint, or text that PostgreSQL takes."""
    if isinstance(key, int):
        return abs(key) < 2**63
    return "\x00" not in key and key.encode(errors="ignore").decode() == key


def _encoded(packed: bytes) -> str:
    return urlsafe_b64encode(packed).decode().rstrip("=")


def link_to_next(path: str, page: Page, cursor: str) -> str:
    """A Link header's value (RFC 8288): the same list, from `cursor` on."""
    parameters = page.model_dump(exclude_defaults=True) | {"cursor": cursor}
    return f'<{path}?{urlencode(parameters)}>; rel="next"'


def _checksum(page: Page, data: bytes) -> bytes:
    belongs_to = json.dumps([page.order, page.q]).encode()
    return hashlib.blake2s(belongs_to + data, digest_size=CHECKSUM).digest()
