"""One invocation: an event becomes an ASGI request to the application, and its response what the event source takes."""

import asyncio
import logging
import math
import random
import re
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from threading import Lock
from time import perf_counter
from typing import Any, NamedTuple

from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from mangum import Mangum
from mangum.types import LambdaConfig, Response

from handler.adapter.events import (
    HTTP_API_2,
    Answer,
    Kind,
    is_warmup,
    kind_of,
    read_authorizer,
    read_body,
    read_scope,
)
from handler.adapter.request_log import log_request
from handler.adapter.responses import ResponseTooLarge, format_response, problem_response
from handler.api.auth import with_authorization
from handler.api.errors import is_logged
from handler.app import with_cors, with_limit
from handler.database.deadline import sleep, timeout_after
from handler.database.session import IS_ENDED, IS_WRITING
from handler.database.usage import track_usage
from handler.settings import settings

TIME_TO_RESPOND = 0.5  # seconds of the invocation that the database does not get
REPEATS = 8  # of a request that lost a race, at most
# Where events name their source: Lambda developer guide, "Invoking Lambda with events from other AWS services".
SOURCES = ("eventSource", "EventSource", "source", "triggerSource")
FIRST_PAUSE, LONGEST_PAUSE = 0.01, 0.2  # seconds before a repeat; the pauses double, and are jittered

# Mangum logs a line for every request, and one for every exception that leaves the application.
logging.getLogger("mangum").setLevel(logging.WARNING)
logging.getLogger("mangum.http").addFilter(lambda record: not (record.exc_info and is_logged(record.exc_info[1])))
logger = logging.getLogger(__name__)


class NotHttpEvent(Exception):
    """The event is no HTTP request, and this function handles nothing else."""


class Request(NamedTuple):
    """An event as the HTTP request that it carries. The application changes `scope` as it handles the request."""

    kind: Kind
    method: str
    scope: dict[str, Any]
    body: bytes
    request_id: str


class Outcome(NamedTuple):
    """A formatted response, the endpoint that made it, and how often the request was repeated."""

    response: dict[str, Any]
    endpoint: Any = None
    repeats: int = 0


class MangumHandler:
    """Mangum's view of a Request: the scope and body that go in, and the formatting of the response."""

    @classmethod
    def infer(cls, request: Any, context: Any, config: LambdaConfig) -> bool:  # noqa: ARG003 - Mangum's interface
        return True

    def __init__(self, request: Any, context: Any, config: LambdaConfig) -> None:  # noqa: ARG002 - Mangum's interface
        self.request: Request = request
        self.scope, self.body = request.scope, request.body

    def __call__(self, response: Response) -> dict[str, Any]:
        headers: dict[str, str] = {}
        cookies: list[str] = []
        for name, value in response["headers"]:
            key, text = name.decode("latin-1").lower(), value.decode("latin-1")
            if key == "set-cookie":
                cookies.append(text)
            else:
                headers[key] = f"{headers[key]}, {text}" if key in headers else text
        kind, method, scope, _, request_id = self.request
        answer = Answer(response["status"], headers, cookies, response["body"])
        # Only a request that is safe may be sent to the application once more, for fewer items.
        is_safe = scope["method"] == "GET" and IS_WRITING not in scope
        page_items = scope.get("page_items") if is_safe else None
        return format_response(kind, method, answer, request_id, page_items=page_items)


class Adapter:
    """`app` behind Mangum, and behind what holds for every request.

    The lifespan of `app` starts here, once for each environment, on the event loop that handles its requests. Lambda
    does not say when an environment ends, so on Lambda the lifespan is not shut down: see `close`.
    """

    def __init__(self, app: FastAPI) -> None:
        layers = with_cors(with_limit(with_authorization(app)))
        self._loop = asyncio.new_event_loop()
        self._lock = Lock()  # a loop runs one request at a time, as Lambda does
        asyncio.set_event_loop(self._loop)  # Mangum looks for one, and makes one where there is none
        # Mangum would start and shut down the lifespan on every invocation.
        self._mangum = Mangum(layers, lifespan="off", custom_handlers=[MangumHandler])
        self._lifespan = app.router.lifespan_context(app)
        started: Any = self._lifespan.__aenter__()
        try:
            self._state: dict[str, Any] = dict(self._loop.run_until_complete(started) or {})
        except BaseException:
            self._loop.close()
            raise
        # With the prefixes of include_router(), which a route itself does not know.
        self._paths = {context.endpoint: context.path for context in iter_route_contexts(app.routes)}

    def handle(self, event: Any, context: Any) -> dict[str, Any] | None:
        """The response to an event, as its source takes it. Raises NotHttpEvent."""
        kind = kind_of(event)
        if kind is None:
            if is_warmup(event):
                return None
            raise NotHttpEvent(_describe(event))
        if not _in_running_loop():
            return self._handle_http(kind, event, context)
        # A thread runs one loop at a time.
        with ThreadPoolExecutor(max_workers=1) as thread:
            return thread.submit(copy_context().run, self._handle_http, kind, event, context).result()

    def close(self) -> None:
        """Shut down the lifespan and close the event loop. The adapter handles no event afterwards.

        For tests, and for programs that embed the handler and end.
        """
        try:
            self._loop.run_until_complete(self._lifespan.__aexit__(None, None, None))
        finally:
            self._loop.close()

    def prime(self) -> None:
        """Send one request through the application that needs no database.

        The first request imports, compiles and caches what all others use. Here that is done with the whole processor
        that Lambda gives to init, and with SnapStart before the snapshot.
        """
        http = {"method": "GET", "path": "/health/live"}
        authorizer = {"jwt": {"claims": {"sub": "prime"}}, "iam": {"userArn": "prime"}}  # for every AUTH_MODE
        context = {"http": http, "authorizer": authorizer}
        event = {"version": "2.0", "rawPath": http["path"], "requestContext": context}
        self._respond(parse_request(HTTP_API_2, event, None, "prime"), None)

    def _handle_http(self, kind: Kind, event: Any, context: Any) -> dict[str, Any]:
        started, usage, request_id = perf_counter(), track_usage(), _request_id(context)
        try:
            request = parse_request(kind, event, context, request_id)
        except Exception as error:  # noqa: BLE001 - a broken event can fail in any way, and gets a response
            logger.info("the event is no request that can be parsed: %s", type(error).__name__)
            method = _method(kind, event)
            problem = problem_response(400, "The request cannot be read", request_id)
            outcome = Outcome(format_response(kind, method or "GET", problem, request_id))
        else:
            method, outcome = request.method, self._respond(request, context)
        response, endpoint, repeats = outcome
        log_request(
            context,
            request_id,
            method=method,
            route=self._paths.get(endpoint),
            status=response["statusCode"],
            seconds=perf_counter() - started,
            usage=usage,
            repeats=repeats,
        )
        return response

    def _respond(self, request: Request, context: Any) -> Outcome:
        max_items = None
        with timeout_after(_time_left(context) - TIME_TO_RESPOND):
            while True:
                try:
                    return self._repeat_lost_races(request, context, max_items)
                except ResponseTooLarge as error:
                    if error.max_items is None:
                        logger.error(error.detail)  # noqa: TRY400 - where it was raised says nothing
                        return Outcome(_failed(request, error.detail, error.headers))
                    max_items = error.max_items
                except Exception:  # the application's own errors get their response inside Mangum
                    logger.exception("the response cannot be formatted")
                    return Outcome(_failed(request, None, {}))

    def _repeat_lost_races(self, request: Request, context: Any, max_items: int | None) -> Outcome:
        """Run the request until it has lost no race; a RepeatableRoute does nothing but what its session undoes."""
        for repeats, pause in enumerate(_pauses()):
            attempt = request._replace(scope={**request.scope, "state": self._state.copy(), "max_items": max_items})
            response = self._call_mangum(attempt, context)
            repeatable = getattr(attempt.scope.get("route"), "repeatable", False)
            is_ended = attempt.scope.get(IS_ENDED)
            if is_ended is False and 200 <= response["statusCode"] < 300:
                logger.error("%s: a 2xx, but the session of the request was not committed", attempt.scope.get("path"))
                response = _failed(attempt, None, {})
            # What was committed is not done once more.
            lost_race = "lost_race" in attempt.scope and is_ended is False
            if not (lost_race and repeatable) or pause is None or not sleep(pause):
                return Outcome(response, attempt.scope.get("endpoint"), repeats)
        raise AssertionError("the last attempt returns")

    def _call_mangum(self, attempt: Request, context: Any) -> dict[str, Any]:
        event: Any = attempt  # as MangumHandler takes it
        with self._lock:
            asyncio.set_event_loop(self._loop)
            return self._mangum(event, context)


def parse_request(kind: Kind, event: Any, context: Any, request_id: str) -> Request:
    """Raises what `read_body` and `read_scope` raise for an event that cannot be parsed."""
    body, scope = read_body(event), read_scope(kind, event)
    method = scope["method"]
    # Every GET route serves HEAD too; `format_response` removes the body.
    scope |= {
        "method": "GET" if method == "HEAD" else method,
        "request_id": request_id,
        "body_size": len(body),
        "authorizer": read_authorizer(kind, event) if settings().auth_mode != "none" else {},
        "aws.event": event,
        "aws.context": context,
    }
    return Request(kind, method, scope, body, request_id)


def _failed(request: Request, detail: str | None, headers: dict[str, str]) -> dict[str, Any]:
    problem = problem_response(500, detail, request.request_id)
    answer = problem._replace(headers=problem.headers | headers)
    return format_response(request.kind, request.method, answer, request.request_id)


def _pauses() -> Iterator[float | None]:
    """The seconds to wait after each attempt that lost a race; None after the last attempt."""
    for number in range(REPEATS):
        yield min(FIRST_PAUSE * 2**number, LONGEST_PAUSE) * random.uniform(0.5, 1)  # noqa: S311 - jitter
    yield None


def _in_running_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _method(kind: Kind, event: Any) -> str | None:
    try:
        method: Any = kind.method(event)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
    return method if isinstance(method, str) else None


def _describe(event: Any) -> str:
    """Which event source sent `event`, without its contents, which may be secret."""
    records = event.get("Records") if isinstance(event, dict) else None
    record = records[0] if isinstance(records, list) and records else event
    found = [record.get(name) for name in SOURCES] if isinstance(record, dict) else []
    source = next((text for text in found if isinstance(text, str) and re.fullmatch(r"[\w.:/-]{1,256}", text)), None)
    sender = f"an event of {source}" if source else f"an event of type {type(event).__name__} without a known source"
    return f"{sender} is no HTTP request, and nothing was done for it: connect its source to a function of its own"


def _request_id(context: Any) -> str:
    return getattr(context, "aws_request_id", None) or str(uuid.uuid4())


def _time_left(context: Any) -> float:
    """Seconds until Lambda ends the invocation; infinite where the context does not say."""
    left = getattr(context, "get_remaining_time_in_millis", None)
    return left() / 1000 if left else math.inf
