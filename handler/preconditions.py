"""Optimistic concurrency: a version as a strong ETag, and the conditions that clients set (RFC 9110, 8.8 and 13)."""

import re
from collections.abc import Collection
from typing import Annotated

from fastapi import Depends, Header, HTTPException, status
from pydantic.json_schema import SkipJsonSchema

from handler.settings import settings

# Our tags are versions. What is another's, or no entity tag at all, matches nothing: a change is not made.
_EACH = re.compile(r'(W/)?"([^"]*)"')


def etag(version: int) -> str:
    return f'"{version}"'


IfMatch = Annotated[
    str | SkipJsonSchema[None],
    Header(
        description="The change is made only to a version whose ETag is here; else 412",
        examples=['"1"'],
    ),
]
IfNoneMatch = Annotated[
    str | SkipJsonSchema[None],
    Header(
        description="The ETags that the client has: 304 when the item's is among them",
        examples=['"1"'],
    ),
]


async def _expected_versions(if_match: IfMatch = None) -> list[int] | None:
    """The versions that a change may be made to, or None for any. Strong comparison: a weak tag matches none."""
    if if_match is None and settings().require_if_match:
        raise HTTPException(status.HTTP_428_PRECONDITION_REQUIRED, "Say with If-Match which version is to be changed")
    if if_match is None or if_match.strip() == "*":
        return None
    return [int(tag) for weak, tag in _EACH.findall(if_match) if not weak and _is_version(tag)]


async def _known_versions(if_none_match: IfNoneMatch = None) -> Collection[int]:
    """The versions that the client has, for a 304. Weak comparison."""
    if if_none_match is None:
        return ()
    if if_none_match.strip() == "*":
        return range(2**31)
    return [int(tag) for _, tag in _EACH.findall(if_none_match) if _is_version(tag)]


def _is_version(tag: str) -> bool:
    return re.fullmatch(r"[1-9][0-9]{0,8}", tag) is not None


ExpectedVersionsDep = Annotated[list[int] | None, Depends(_expected_versions)]
KnownVersionsDep = Annotated[Collection[int], Depends(_known_versions)]
