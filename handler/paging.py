"""Keyset paging: a cursor says after which row a page starts, so a page costs the same at any depth."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Annotated

from fastapi import HTTPException, status
from pydantic import BaseModel, ConfigDict, Field

MAX_KEY = 2**63 - 1


class Page(BaseModel):
    """The query parameters of a list."""

    model_config = ConfigDict(extra="forbid")

    limit: Annotated[int, Field(ge=1, le=100)] = 50
    cursor: Annotated[str | None, Field(max_length=64, description="`next_cursor` of the page before")] = None


def encode_cursor(key: int) -> str:
    return urlsafe_b64encode(str(key).encode()).decode().rstrip("=")


def decode_cursor(cursor: str | None) -> int:
    """The key that the page starts after: 0, below every key, for the first page. Raises HTTPException 400."""
    if cursor is None:
        return 0
    try:
        key = int(urlsafe_b64decode(cursor.encode("ascii") + b"=="))
    except ValueError:
        key = 0
    if not 0 < key <= MAX_KEY or encode_cursor(key) != cursor:
        raise HTTPException(status.HTTP_400_BAD_REQUEST, "The cursor was not made by this service")
    return key
