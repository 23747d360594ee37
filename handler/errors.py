"""Every error answer: RFC 9457 problem+json with the request's id, and nothing of SQL, values, hosts or code."""

import logging
from collections.abc import Mapping
from http import HTTPStatus
from itertools import islice
from typing import Annotated, Any, NamedTuple

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field
from pydantic.json_schema import models_json_schema
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.exceptions import HTTPException
from starlette.routing import Match

from handler.database.error_fields import describe, fields_of

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


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """For OpenAPI: that these statuses answer with a Problem. Goes into `responses=` of a route or router."""
    return {
        status: {
            "description": phrase(status),
            "content": {PROBLEM_JSON: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status in statuses
    }


class Refusal(NamedTuple):
    """What the answer to a database error is."""

    status: int
    detail: str


UNAVAILABLE = Refusal(503, "The database is not available right now")
BUSY = Refusal(503, "The database is busy")
UNSTORABLE = Refusal(422, "A value cannot be stored")

# SQLSTATEs and classes of them (their first two characters): PostgreSQL manual, appendix A.
SQLSTATES: dict[str, Refusal] = {
    "23505": Refusal(409, "Something with this value exists already"),
    "23503": Refusal(409, "Something that this refers to, or that refers to this, is in the way"),
    "23": UNSTORABLE,  # integrity constraint violation
    "22": UNSTORABLE,  # data exception
    "25P": UNAVAILABLE,  # idle-in-transaction and transaction timeouts, which end the session
    "25006": UNAVAILABLE,  # read only: this server was the primary before a failover
    "08": UNAVAILABLE,  # connection exception
    "28": UNAVAILABLE,  # the password or the user is refused
    "3D000": UNAVAILABLE,  # the database does not exist
    "53": UNAVAILABLE,  # out of connections, memory or disk
    "57P": UNAVAILABLE,  # the server shuts down or starts up
    "57014": BUSY,  # statement_timeout
    "55P03": BUSY,  # lock_timeout
    "40": BUSY,  # serialization failure, deadlock
}


def sqlstate(error: DBAPIError) -> tuple[str, str | None]:
    """The server's SQLSTATE, or "" when the error is not the server's, and the constraint's name, if any."""
    fields = error.orig.args[0] if error.orig is not None and error.orig.args else None
    if not isinstance(fields, Mapping):
        return "", None
    return fields.get("C", ""), fields.get("n")


def refusal(code: str) -> Refusal | None:
    """The most specific entry of SQLSTATES for `code`; None where the fault is ours."""
    return next((SQLSTATES[code[:n]] for n in (5, 3, 2) if code[:n] in SQLSTATES), None)


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
        allow = {"Allow": ", ".join(_methods(request))}
        return Response(None, 204, allow) if request.method == "OPTIONS" else _answer(request, 405, headers=allow)
    detail = None if error.detail == HTTPStatus(error.status_code).phrase else error.detail
    return _answer(request, error.status_code, detail, error.headers)


def _methods(request: Request) -> list[str]:
    """All that the request's path takes: the framework names those of the first route that matches."""
    routes = request.app.routes
    found = [m for m in METHODS if any(r.matches({**request.scope, "method": m})[0] == Match.FULL for r in routes)]
    return sorted({*found, "OPTIONS", *(["HEAD"] if "GET" in found else [])})


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
    code, constraint = sqlstate(error) if isinstance(error, DBAPIError) else ("", None)
    answer = refusal(code)
    if isinstance(error, PoolTimeoutError) or (isinstance(error, DBAPIError) and not code):
        answer = UNAVAILABLE
    if answer is None:
        return await unexpected_error(request, error)
    if answer.status == 503:
        logger.error("database: %s", describe(fields_of(error)) or type(error).__name__)
        return _answer(request, answer.status, answer.detail, RETRY_AFTER)
    return _answer(request, answer.status, answer.detail, constraint=constraint)


async def unexpected_error(request: Request, error: Exception) -> JSONResponse:
    # Records are redacted where they are made (handler/redaction.py).
    route = f"{request.method} {getattr(request.scope.get('route'), 'path', '-')}"
    logger.error("%s: unexpected %s", route, type(error).__name__, exc_info=error)
    vars(error)["is_logged"] = True
    return _answer(request, 500)


def is_logged(error: BaseException | None) -> bool:
    """Whether `unexpected_error` has logged it. The framework raises on what is answered, to whoever runs it."""
    return getattr(error, "is_logged", False)


def describe_problems(openapi: dict[str, Any]) -> None:
    """Add what `problems` refers to: FastAPI describes by itself only answers that are application/json."""
    _, schemas = models_json_schema([(Problem, "serialization")], ref_template="#/components/schemas/{model}")
    openapi["components"]["schemas"] |= schemas["$defs"]


def add_error_handlers(app: FastAPI) -> None:
    """Every exception that leaves a route has one of these answers."""
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(RequestValidationError, invalid_request)
    app.add_exception_handler(SQLAlchemyError, database_error)
    app.add_exception_handler(Exception, unexpected_error)
