"""Responses to exceptions: problem+json with the request's id, without SQL, values, hosts or code."""

import logging
import re
from collections.abc import Mapping
from http import HTTPStatus
from itertools import islice
from typing import Any
from urllib.parse import quote

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm.exc import StaleDataError
from starlette.exceptions import HTTPException

from handler.api.conditional import MODIFIED
from handler.api.problems import PROBLEM_JSON, problem
from handler.api.route_table import allow_headers, path_templates
from handler.api.sqlstates import LOST_RACES, OURS, READ_ONLY_TRANSACTION, UNAVAILABLE, Outcome, outcome_of
from handler.database.error_fields import describe, ends_session, fields_of
from handler.database.request_session import ReadOnlySession, SessionEndedByRoute

MAX_ERRORS = 20  # in a response
PLAIN_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,39}", re.ASCII)
RETRY_AFTER = {"Retry-After": "1"}

logger = logging.getLogger(__name__)


def _response(
    request: Request,
    status: int,
    detail: str | None = None,
    headers: Mapping[str, str] | None = None,
    **extensions: Any,
) -> JSONResponse:
    members = problem(status, detail, request.scope.get("request_id"), **extensions)
    return JSONResponse(members, status, headers, PROBLEM_JSON)


async def http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        headers = allow_headers(request)
        return Response(None, 204, headers) if request.method == "OPTIONS" else _response(request, 405, headers=headers)
    if error.status_code == 304:
        return Response(None, 304, error.headers)
    detail = None if error.detail == HTTPStatus(error.status_code).phrase else error.detail
    return _response(request, error.status_code, detail, error.headers)


async def invalid_request(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    found = error.errors()
    if any(one["type"] == "json_invalid" for one in found):
        return _response(request, 400, "The body is not JSON")
    # Undeclared fields are not named, so a thousand of them are one error.
    different = dict.fromkeys((error["msg"], *_part(error)) for error in found)
    errors = [
        {"detail": detail, "in": location} | ({member: name} if name else {})
        for detail, location, member, name in islice(different, MAX_ERRORS)
    ]
    return _response(request, 422, "The request is not valid", errors=errors)


def _part(error: Mapping[str, Any]) -> tuple[str, str, str]:
    """The location of a validation error (docs/adr/0036): `in`, the member that names the part, and its value."""
    location, *names = map(str, error["loc"])
    # The client chose the name of an undeclared part, so responses do not repeat it. The exception is a query parameter
    # in plain letters, which is usually a spelling mistake.
    if error["type"] == "extra_forbidden" and not (location == "query" and PLAIN_NAME.fullmatch(names[-1])):
        del names[-1]
    if location == "body":
        # RFC 6901, 3 and 6.
        tokens = (quote(name.replace("~", "~0").replace("/", "~1")) for name in names)
        return location, "pointer", "/".join(("#", *tokens))
    return location, "name", names[0] if names else ""


async def database_error(request: Request, error: Exception) -> JSONResponse:
    is_read = request.method in ("GET", "HEAD")
    if isinstance(error, StaleDataError) and not is_read:
        return _response(request, 412 if "if-match" in request.headers else 409, MODIFIED)
    fields = fields_of(error) if isinstance(error, DBAPIError) else {}
    outcome = _outcome(error, fields, is_read=is_read)
    if outcome is None:
        return await unexpected_error(request, error)
    if fields.get("C") in LOST_RACES:
        request.scope["lost_race"] = True  # the adapter may run the request again
    if outcome.status == 503:
        logger.error("database: %s", describe(fields) or type(error).__name__)
        return _response(request, outcome.status, outcome.detail, RETRY_AFTER)
    return _response(request, outcome.status, outcome.detail, constraint=fields.get("n"))


def _outcome(error: Exception, fields: Mapping[str, str], *, is_read: bool) -> Outcome | None:
    if isinstance(error, PoolTimeoutError):
        return UNAVAILABLE
    if not isinstance(error, DBAPIError):
        return OURS
    # The driver closes a connection to a server that is read-only since a failover (25006). It keeps a connection that
    # the session itself made read-only. An error that only reports a closed connection has no SQLSTATE.
    if not fields or fields["C"] == READ_ONLY_TRANSACTION:
        return UNAVAILABLE if error.connection_invalidated else OURS
    outcome = outcome_of(fields["C"], is_read=is_read)
    # An error that ends the session concerns the connection: 42501 is then a user without the right to connect.
    return UNAVAILABLE if ends_session(fields) and (outcome is None or outcome.status < 500) else outcome


async def unexpected_error(request: Request, error: Exception) -> JSONResponse:
    # handler/adapter/redaction.py redacts the record.
    route = f"{request.method} {path_templates(request.app).get(request.scope.get('endpoint'), '-')}"
    logger.error("%s: %s", route, _summary(error), exc_info=error)
    vars(error)["is_logged"] = True
    return _response(request, 500)


def _summary(error: Exception) -> str:
    if isinstance(error, DBAPIError) and fields_of(error).get("C") == READ_ONLY_TRANSACTION:
        return "a statement writes in a ReadSessionDep, use SessionDep"
    if isinstance(error, ReadOnlySession | SessionEndedByRoute):
        return str(error)
    return f"unexpected {type(error).__name__}"


def is_logged(error: BaseException | None) -> bool:
    """Whether `unexpected_error` logged the exception. Starlette raises it again after the response."""
    return getattr(error, "is_logged", False)


def add_error_handlers(app: FastAPI) -> None:
    """Add the handlers that turn every exception of a route into a problem response."""
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(RequestValidationError, invalid_request)
    app.add_exception_handler(SQLAlchemyError, database_error)
    app.add_exception_handler(Exception, unexpected_error)
