"""Optimistic concurrency: a version as a strong ETag, and the conditions that clients set (RFC 9110, 8.8 and 13)."""

import re
from collections.abc import Collection
from typing import Any

from fastapi import HTTPException, Request, status

from handler.settings import settings

# Our tags are versions. What is another's, or no list of entity tags at all, matches nothing: a change is not made.
_EACH = re.compile(r'(W/)?"([\x21\x23-\x7e\x80-\xff]*)"')
_LIST = re.compile(rf"[ \t,]*(?:{_EACH.pattern}[ \t]*(?:,[ \t,]*|$))+")


def etag(version: int) -> str:
    return f'"{version}"'


def expected_versions(request: Request) -> list[int] | None:
    """The versions that a change may be made to, or None for any. Strong comparison: a weak tag matches none.

    Raises HTTPException 428 where the setting wants a condition, and there is none.
    """
    if_match = request.headers.get("if-match")
    if if_match is None and settings().require_if_match:
        raise HTTPException(status.HTTP_428_PRECONDITION_REQUIRED, "Say with If-Match which version is to be changed")
    if if_match is None or if_match.strip() == "*":
        return None
    return [int(tag) for weak, tag in _tags(if_match) if not weak and _is_version(tag)]


def known_versions(request: Request) -> Collection[int]:
    """The versions that If-None-Match names, all of them for "*": a GET of one is 304, a change to one 412.

    Weak comparison.
    """
    if_none_match = request.headers.get("if-none-match")
    if if_none_match is None:
        return ()
    if if_none_match.strip() == "*":
        return range(2**31)
    return [int(tag) for _, tag in _tags(if_none_match) if _is_version(tag)]


def _tags(header: str) -> list[tuple[str, str]]:
    """The entity tags in a list of them, as (weak or not, opaque tag)."""
    return _EACH.findall(header) if _LIST.fullmatch(header) else []


def _is_version(tag: str) -> bool:
    return re.fullmatch(r"[1-9][0-9]{0,8}", tag) is not None


def _described(name: str, description: str) -> dict[str, Any]:
    header = {"name": name, "in": "header", "required": False, "description": description}
    return header | {"schema": {"type": "string", "examples": [etag(1)]}}


# For `openapi_extra=` of the routes that call the functions above.
CONDITIONS_OF_READ: dict[str, Any] = {
    "parameters": [_described("If-None-Match", "The ETags that the client has: 304 when the item's is among them")]
}
CONDITIONS_OF_CHANGE: dict[str, Any] = {
    "parameters": [
        _described("If-Match", "The change is made only to a version whose ETag is here; else 412"),
        _described("If-None-Match", "The change is made to no version whose ETag is here, with * to none; else 412"),
    ]
}
