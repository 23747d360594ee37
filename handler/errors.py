"""Every error answer: RFC 9457 problem+json with the request's id, and nothing of SQL, values, hosts or code."""

import logging
from collections.abc import Mapping
from http import HTTPStatus
from itertools import islice
from typing import Annotated, Any, NamedTuple

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from fastapi.routing import iter_route_contexts
from pydantic import BaseModel, Field
from pydantic.json_schema import models_json_schema
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm.exc import StaleDataError
from starlette.exceptions import HTTPException
from starlette.routing import Match

from handler.database.error_fields import describe, ends_session, fields_of
from handler.database.session import ReadOnlySession, SessionEndedByRoute

PROBLEM_JSON = "application/problem+json"
# RFC 9110's names, where http.HTTPStatus before Python 3.13 has older ones.
PHRASES = {413: "Content Too Large", 422: "Unprocessable Content"}
METHODS = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")
MAX_ERRORS = 20  # in an answer
RETRY_AFTER = {"Retry-After": "1"}

logger = logging.getLogger(__name__)


class Invalid(BaseModel):
    """One thing that is wrong with a request."""

    where: Annotated[str, Field(examples=["body.name"])]
    detail: Annotated[str, Field(examples=["String should have at least 1 character"])]


class Problem(BaseModel):
    """An error, as RFC 9457 describes it."""

    type: Annotated[str, Field(examples=["about:blank"])]
    title: Annotated[str, Field(examples=["Not Found"])]
    status: Annotated[int, Field(examples=[404])]
    detail: Annotated[str | None, Field(examples=["Item not found"])] = None
    request_id: Annotated[str | None, Field(examples=["c6af9ac6-7b61-11e6-9a41-93e8deadbeef"])] = None
    errors: list[Invalid] | None = None
    constraint: Annotated[str | None, Field(description="The database constraint that refused")] = None


def phrase(status: int) -> str:
    return PHRASES.get(status) or HTTPStatus(status).phrase


def problem_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """For OpenAPI: that these statuses answer with a Problem. Goes into `responses=` of a route or router."""
    return {
        status: {
            "description": phrase(status),
            "content": {PROBLEM_JSON: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status in statuses
    }


def describe_responses(operation: dict[str, Any], *statuses: int) -> None:
    """Add these statuses to an operation of an OpenAPI document, where it does not declare them itself."""
    for status, response in problem_responses(*statuses).items():
        operation["responses"].setdefault(str(status), response)


class Outcome(NamedTuple):
    """The response to a database error."""

    status: int
    detail: str


UNAVAILABLE = Outcome(503, "The database is not available right now")
BUSY = Outcome(503, "The database is busy")
VALUE = Outcome(422, "A value cannot be stored")
EXISTS = Outcome(409, "Something with this value exists already")
IN_USE = Outcome(409, "Something that this refers to, or that refers to this, is in the way")
MODIFIED = "The resource was modified by another request"
OURS = None  # a mistake in the program, the schema or the server's configuration: a 500 and a traceback in the log

READ_ONLY_TRANSACTION = "25006"

# What a SQLSTATE, its first three characters or its class means: PostgreSQL manual, appendix A. The longest wins. Where
# both a client and the program can be the cause, it is OURS: a 500 is logged and sets off an alarm, a 422 does neither.
SQLSTATES: dict[str, Outcome | None] = {
    "08": UNAVAILABLE,  # connection exception; a pooler's own errors
    "22": OURS,  # data exception, of an operation that the program chose: 22012 is a division by zero
    **dict.fromkeys(
        (
            "22000",  # a range whose bounds are in the wrong order; a parameter that the driver cannot send
            "22001",  # a string that is too long
            "22003",  # a number that is out of range
            *("22007", "22008", "22009", "22015"),  # a date, time, time zone displacement or interval
            "22018",  # a character that cannot be cast
            *("22021", "22P05"),  # a character that the database cannot store: NUL, or one that its encoding lacks
            "22026",  # a bit string of the wrong length
            "22P02",  # a text that is not a value of the type
            *("2200L", "2200M", "2200N", "2200S", "2200T"),  # a text that is not XML
            *("22030", "22032", "22037", "2203D", "2203E"),  # a text that is not JSON, or has a key twice, or too much
        ),
        VALUE,
    ),
    "23": VALUE,  # integrity constraint violation: NOT NULL, CHECK
    "23505": EXISTS,
    "23P01": EXISTS,  # an exclusion constraint: a UNIQUE constraint of other operators than =
    **dict.fromkeys(("23503", "23001"), IN_USE),  # a foreign key; 23001 is ON DELETE RESTRICT since PostgreSQL 18
    "25": OURS,  # invalid transaction state. 25P02: the program went on after a statement had failed
    "25P03": UNAVAILABLE,  # idle_in_transaction_session_timeout, which ends the session
    "25P04": BUSY,  # transaction_timeout
    "28": UNAVAILABLE,  # the server refuses the user or the password
    "3D": UNAVAILABLE,  # the database does not exist
    "40": BUSY,  # serialization failure, deadlock
    "40003": UNAVAILABLE,  # it is not known whether a statement happened
    "44": VALUE,  # a view's WITH CHECK OPTION, which is a CHECK
    "53": UNAVAILABLE,  # no connection, memory or disk space left
    "53400": OURS,  # a limit of the configuration that a statement exceeds: temp_file_limit
    "54": OURS,  # a statement too complex, with too many columns or arguments
    "54000": VALUE,  # a value too large for an index, a row, an array or a tsvector
    "55": OURS,  # an object is not in the state that the statement needs
    "55P03": BUSY,  # lock_timeout, NOWAIT
    "57": UNAVAILABLE,  # the server shuts down or starts up, or an operator ended the session
    "57014": BUSY,  # statement_timeout, or the request's own deadline
    **dict.fromkeys(("58000", "58030"), UNAVAILABLE),  # the server's operating system or storage failed
    "58": OURS,  # a file that a statement names
    "HV": OURS,  # a foreign data wrapper
    **dict.fromkeys(("HV001", "HV00N"), UNAVAILABLE),  # whose server has no memory, or cannot be reached
    # Success and warnings, which a function can raise as errors; the SQL standard's classes for statements, cursors,
    # savepoints, roles and routines that are wrong; syntax, names and privileges (42); PL/pgSQL's RAISE (P0); internal
    # errors and corruption (XX). None of them can be helped by another value or by another attempt.
    **dict.fromkeys(("00", "01", "02", "03", "09", "0A", "0B", "0F", "0L", "0P", "0Z", "10", "20", "21", "24"), OURS),
    **dict.fromkeys(("26", "27", "2B", "2D", "2F", "34", "38", "39", "3B", "3F", "42", "F0", "P0", "XX"), OURS),
}


LOST_RACES = ("40001", "40P01")  # serialization failure, deadlock: PostgreSQL has undone the transaction


def outcome_of(sqlstate: str, *, is_read: bool) -> Outcome | None:
    """The most specific entry of SQLSTATES, or None where the fault is ours: on a read, the client stores no value."""
    outcome = next((SQLSTATES[sqlstate[:n]] for n in (5, 3, 2) if sqlstate[:n] in SQLSTATES), OURS)
    return OURS if is_read and outcome and outcome.status < 500 else outcome


def problem(status: int, detail: str | None, request_id: str | None, **extensions: Any) -> dict[str, Any]:
    """The members of an answer. `type` is about:blank: the title says what the status says (RFC 9457, 4.2.1)."""
    members = {"type": "about:blank", "title": phrase(status), "status": status, "detail": detail}
    members |= {"request_id": request_id, **extensions}
    return {name: value for name, value in members.items() if value is not None}


def _answer(
    request: Request,
    status: int,
    detail: str | None = None,
    headers: Mapping[str, str] | None = None,
    **extensions: Any,
) -> JSONResponse:
    members = problem(status, detail, request.scope.get("request_id"), **extensions)
    return JSONResponse(members, status, headers, PROBLEM_JSON)


def too_large(request_id: str, limit: int) -> Response:
    detail = f"The body is larger than {limit} bytes"
    return JSONResponse(problem(413, detail, request_id), 413, media_type=PROBLEM_JSON)


async def http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        headers = _allowed(request)
        return Response(None, 204, headers) if request.method == "OPTIONS" else _answer(request, 405, headers=headers)
    if error.status_code == 304:
        return Response(None, 304, error.headers)
    detail = None if error.detail == HTTPStatus(error.status_code).phrase else error.detail
    return _answer(request, error.status_code, detail, error.headers)


def accept_headers(media_types: tuple[str, ...]) -> dict[str, str]:
    """The header that names the media types of a body (RFC 9110, 12.5.1 "Accept"; RFC 5789, 3.1 "Accept-Patch")."""
    name = "Accept-Patch" if "application/merge-patch+json" in media_types else "Accept"
    return {name: ", ".join(media_types)} if media_types else {}


def _allowed(request: Request) -> dict[str, str]:
    """Every method of the request's path, and the media types of their bodies, as headers.

    The framework names the methods of the first route that matches (RFC 9110, 10.2.1 "Allow"). Only an OPTIONS says
    the media types (RFC 5789, 3.1; RFC 9110, 12.5.1).
    """
    methods = {"OPTIONS"}
    media_types: dict[str, str] = {}
    for context in iter_route_contexts(request.app.routes):
        if context.matches(request.scope)[0] != Match.NONE:
            methods |= context.methods or set()
            media_types |= accept_headers(getattr(context.original_route, "media_types", ()))
    methods |= {"HEAD"} if "GET" in methods else set()
    allow = {"Allow": ", ".join(sorted(methods))}
    return allow | media_types if request.method == "OPTIONS" else allow


async def invalid_request(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    found = error.errors()
    if any(one["type"] == "json_invalid" for one in found):
        return _answer(request, 400, "The body is not JSON")
    # Unknown fields are not named, so a thousand of them say the same.
    different = dict.fromkeys((_where(one), one["msg"]) for one in found)
    errors = [{"where": where, "detail": detail} for where, detail in islice(different, MAX_ERRORS)]
    return _answer(request, 422, "The request is not valid", errors=errors)


def _where(error: Mapping[str, Any]) -> str:
    # The name of an unknown field is the client's own text, which no answer repeats.
    location = error["loc"][:-1] if error["type"] == "extra_forbidden" else error["loc"]
    return ".".join(str(part) for part in location)


async def database_error(request: Request, error: Exception) -> JSONResponse:
    is_read = request.method in ("GET", "HEAD")
    if isinstance(error, StaleDataError) and not is_read:
        return _answer(request, 412 if "if-match" in request.headers else 409, MODIFIED)
    fields = fields_of(error) if isinstance(error, DBAPIError) else {}
    outcome = _outcome(error, fields, is_read=is_read)
    if outcome is None:
        return await unexpected_error(request, error)
    if fields.get("C") in LOST_RACES:
        request.scope["lost_race"] = True  # the adapter may run the request again
    if outcome.status == 503:
        logger.error("database: %s", describe(fields) or type(error).__name__)
        return _answer(request, outcome.status, outcome.detail, RETRY_AFTER)
    return _answer(request, outcome.status, outcome.detail, constraint=fields.get("n"))


def _outcome(error: Exception, fields: Mapping[str, str], *, is_read: bool) -> Outcome | None:
    if isinstance(error, PoolTimeoutError):
        return UNAVAILABLE
    if not isinstance(error, DBAPIError):
        return OURS
    # The driver closes a connection that it can no longer use, among them one to a server that was the primary until
    # a failover (25006). It keeps one that the session itself has made read-only. Where it reports nothing but that a
    # connection is closed, there is no SQLSTATE.
    if not fields or fields["C"] == READ_ONLY_TRANSACTION:
        return UNAVAILABLE if error.connection_invalidated else OURS
    outcome = outcome_of(fields["C"], is_read=is_read)
    # What ends the session is about the connection: 42501 is then a user without the right to connect.
    return UNAVAILABLE if ends_session(fields) and (outcome is None or outcome.status < 500) else outcome


async def unexpected_error(request: Request, error: Exception) -> JSONResponse:
    # Records are redacted where they are made (handler/redaction.py).
    route = f"{request.method} {getattr(request.scope.get('route'), 'path', '-')}"
    logger.error("%s: %s", route, _summary(error), exc_info=error)
    vars(error)["is_logged"] = True
    return _answer(request, 500)


def _summary(error: Exception) -> str:
    if isinstance(error, DBAPIError) and fields_of(error).get("C") == READ_ONLY_TRANSACTION:
        return "a statement writes in a ReadSessionDep, use SessionDep"
    if isinstance(error, ReadOnlySession | SessionEndedByRoute):
        return str(error)
    return f"unexpected {type(error).__name__}"


def is_logged(error: BaseException | None) -> bool:
    """Whether `unexpected_error` has logged it. The framework raises on what is answered, to whoever runs it."""
    return getattr(error, "is_logged", False)


def describe_problems(openapi: dict[str, Any]) -> None:
    """Add what `problem_responses` refers to: FastAPI describes by itself only answers that are application/json."""
    _, schemas = models_json_schema([(Problem, "serialization")], ref_template="#/components/schemas/{model}")
    openapi["components"]["schemas"] |= schemas["$defs"]


def add_error_handlers(app: FastAPI) -> None:
    """Every exception that leaves a route has one of these answers."""
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(RequestValidationError, invalid_request)
    app.add_exception_handler(SQLAlchemyError, database_error)
    app.add_exception_handler(Exception, unexpected_error)
