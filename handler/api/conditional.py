"""Conditional requests: a version as a strong ETag, and the preconditions that clients send (RFC 9110, 8.8 and 13).

The entities have a column `version`. If-Match is evaluated before If-None-Match (13.2.2). A POST that
creates ignores both: a new entity has no earlier version.
"""

import re
from functools import cache
from typing import Any

from fastapi import HTTPException, Request, status
from sqlalchemy import (
    ColumnElement,
    Row,
    Select,
    Table,
    Update,
    bindparam,
    delete,
    false,
    inspect,
    select,
    update,
)
from sqlalchemy.orm import Session

from handler.api.problems import describe_responses
from handler.api.settings import get_settings

# The entity tags of this service are versions. Other tags, and text that is not a list of tags, match no version.
_TAG = re.compile(r'(W/)?"([\x21\x23-\x7e\x80-\xff]*)"')
_LIST = re.compile(rf"[ \t,]*(?:{_TAG.pattern}[ \t]*(?:,[ \t,]*|$))+")
_VERSION = re.compile(r"[1-9][0-9]{0,9}")
MAX_VERSION = 2**31 - 1  # PostgreSQL's integer
ALL = "*"
SAFE_METHODS = ("GET", "HEAD")
MODIFIED = "The resource was modified by another request"
EXCLUDED = "The resource has a version that If-None-Match excludes"


def etag(version: int) -> str:
    """The entity tag of a version, as a header has it."""
    return f'"{version}"'


def check_preconditions(request: Request, version: int) -> None:
    """Compare the request's preconditions with the version of its entity.

    Raises HTTPException 412 where they fail, 304 where a GET or HEAD names this version in If-None-Match, and 428 where
    REQUIRE_IF_MATCH is set and a change has no If-Match.

    Between this check and a change, another request may change the entity: read it with `with_for_update=True`, or give
    its model a `version_id_col`, or use `update_if_match`.
    """
    if_match, if_none_match = _preconditions(request)
    if if_match is not None and not _matches(if_match, version, weak=False):
        raise HTTPException(status.HTTP_412_PRECONDITION_FAILED, MODIFIED)
    if if_none_match is not None and _matches(if_none_match, version, weak=True):
        if request.method in SAFE_METHODS:
            raise HTTPException(status.HTTP_304_NOT_MODIFIED, headers={"ETag": etag(version)})
        raise HTTPException(status.HTTP_412_PRECONDITION_FAILED, EXCLUDED)


def update_if_match(session: Session, entity: Any, ident: Any, values: dict[str, Any], request: Request) -> Row[Any]:
    """Set `values` of an entity and increment its version, in the statement that evaluates the preconditions.

    Only one of several concurrent changes succeeds. Without `values` nothing changes. Returns the new row with all
    columns of the entity's table, not an entity. For a response with relations, or a change that
    depends on what is stored, read the entity with `session.get(..., with_for_update=True)`, call
    `check_preconditions`, and increment its version. An entity that the session has loaded is expired.

    Raises HTTPException 404, 412 or 428.
    """
    statement = _update(entity) if values else _select(entity)
    return _one(session, request, entity, statement, {**values, "ident": ident})


def delete_if_match(session: Session, entity: Any, ident: Any, request: Request) -> None:
    """Delete an entity, in the statement that evaluates the preconditions. Raises HTTPException 404, 412 or 428."""
    _one(session, request, entity, _delete(entity), {"ident": ident})


def _one(session: Session, request: Request, entity: Any, statement: Any, parameters: dict[str, Any]) -> Row[Any]:
    conditions = _where(request, entity.__table__.c.version)
    row: Row[Any] | None = session.execute(
        statement.where(*conditions) if conditions else statement, parameters
    ).one_or_none()
    if row is None:
        if conditions and session.execute(_select(entity), {"ident": parameters["ident"]}).one_or_none():
            detail = MODIFIED if "if-match" in request.headers else EXCLUDED
            raise HTTPException(status.HTTP_412_PRECONDITION_FAILED, detail)
        raise HTTPException(status.HTTP_404_NOT_FOUND, f"{entity.__name__} not found")
    loaded = session.identity_map.get(inspect(entity).identity_key_from_primary_key((parameters["ident"],)))
    if loaded is not None:
        session.expire(loaded)  # its attributes are those before the statement
    return row


def _where(request: Request, version: ColumnElement[int]) -> list[ColumnElement[bool]]:
    if_match, if_none_match = _preconditions(request)
    conditions: list[ColumnElement[bool]] = []
    if if_match is not None and if_match.strip() != ALL:
        conditions.append(version.in_(_versions(if_match, weak=False)))
    if if_none_match is not None:
        is_all = if_none_match.strip() == ALL
        conditions.append(false() if is_all else version.not_in(_versions(if_none_match, weak=True)))
    return conditions


def _preconditions(request: Request) -> tuple[str | None, str | None]:
    if_match, if_none_match = request.headers.get("if-match"), request.headers.get("if-none-match")
    if if_match is None and get_settings(request).require_if_match and request.method not in SAFE_METHODS:
        raise HTTPException(
            status.HTTP_428_PRECONDITION_REQUIRED, "If-Match is required: send the ETag of the version to change"
        )
    return if_match, if_none_match


def _matches(header: str, version: int, *, weak: bool) -> bool:
    return header.strip() == ALL or version in _versions(header, weak=weak)


def _versions(header: str, *, weak: bool) -> list[int]:
    """The versions in a list of entity tags. Only the weak comparison counts weak tags (RFC 9110, 8.8.3.2)."""
    tags = _TAG.findall(header) if _LIST.fullmatch(header) else []
    versions = [int(tag) for is_weak, tag in tags if (weak or not is_weak) and _VERSION.fullmatch(tag)]
    return [version for version in versions if version <= MAX_VERSION]


# Built once for each entity: building and comparing a statement takes SQLAlchemy as long as executing it.
@cache
def _update(entity: Any) -> Update:
    """SQLAlchemy sets the columns that are named by the parameters, and those with `onupdate`."""
    table = _table(entity)
    return update(table).where(_is_ident(table)).values(version=table.c.version + 1).returning(*table.c)


@cache
def _delete(entity: Any) -> Any:
    table = _table(entity)
    return delete(table).where(_is_ident(table)).returning(*table.c)


@cache
def _select(entity: Any) -> Select[Any]:
    table = _table(entity)
    return select(table).where(_is_ident(table))


def _table(entity: Any) -> Table:
    table: Table = inspect(entity).local_table
    return table


def _is_ident(table: Table) -> ColumnElement[bool]:
    (column,) = table.primary_key
    return column == bindparam("ident")


def describe_preconditions(operation: dict[str, Any], method: str, *, require_if_match: bool) -> None:
    """Add to an operation of an OpenAPI document the headers that it reads, and 428 where If-Match is required."""
    is_required = require_if_match and method not in SAFE_METHODS
    if_match = "Entity tags. The request succeeds only if one of them is the current ETag; otherwise 412"
    if_none_match = (
        "Entity tags. The request succeeds only if none of them is the current ETag; otherwise a read gets 304, and"
        " a change 412"
    )
    operation.setdefault("parameters", []).extend(
        [_header("If-Match", if_match, etag(1), is_required), _header("If-None-Match", if_none_match, etag(2), False)]
    )
    if is_required:
        describe_responses(operation, 428)


def _header(name: str, description: str, example: str, required: bool) -> dict[str, Any]:
    header = {"name": name, "in": "header", "required": required, "description": description}
    return header | {"schema": {"type": "string", "examples": [example]}}
