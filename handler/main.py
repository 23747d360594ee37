"""The Lambda entry: `handler.main.handler`."""

import gc
import sys

# Nothing that an import makes is garbage, and looking for it takes a tenth of a cold start. Until the end of this file.
gc.disable()
# FastAPI imports these 23 modules to refuse their models, which nobody has, and does without where they are not.
sys.modules.setdefault("pydantic.v1", None)  # type: ignore[arg-type] # None: as if it were not installed

import asyncio
import logging
import math
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from time import perf_counter
from typing import Any, NamedTuple

from fastapi import FastAPI
from mangum import Mangum
from mangum.types import LambdaConfig, Response

from handler.answers import refusal, write
from handler.app import create_app, with_cors, with_limit
from handler.auth import with_guard
from handler.database.deadline import within
from handler.database.spent import count
from handler.errors import is_logged
from handler.events import HTTP_API_2, Answer, Kind, kind_of, read_body, read_scope
from handler.observability import tell
from handler.redaction import redact_log_records
from handler.settings import settings

TIME_TO_ANSWER = 0.5  # seconds of the invocation that the database does not get

redact_log_records()
logging.getLogger().setLevel(settings().log_level)
# It has a line for every request too, and one for every exception that leaves the application.
logging.getLogger("mangum").setLevel(logging.WARNING)
logging.getLogger("mangum.http").addFilter(lambda record: not (record.exc_info and is_logged(record.exc_info[1])))
logger = logging.getLogger(__name__)


class _Loop:
    """An event loop that is closed when its thread ends."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()

    def __del__(self) -> None:
        self.loop.close()


class Request(NamedTuple):
    """An event as the HTTP request that it is."""

    kind: Kind
    method: str
    scope: dict[str, Any]
    body: bytes
    request_id: str


def _read(kind: Kind, event: Any, context: Any, request_id: str) -> Request:
    """Raises what `read_body` and `read_scope` raise on what cannot be read."""
    body, scope = read_body(event), read_scope(kind, event)
    method = scope["method"]
    # Every GET answers HEAD too: the body goes when the answer is written.
    scope |= {
        "method": "GET" if method == "HEAD" else method,
        "request_id": request_id,
        "body_size": len(body),
        "aws.event": event,
        "aws.context": context,
    }
    return Request(kind, method, scope, body, request_id)


class Exchange:
    """What Mangum calls a handler, of a Request: the scope and body that it sends in, and the writing of the answer."""

    @classmethod
    def infer(cls, request: Any, context: Any, config: LambdaConfig) -> bool:  # noqa: ARG003 - Mangum's
        return True

    def __init__(self, request: Any, context: Any, config: LambdaConfig) -> None:  # noqa: ARG002 - Mangum's
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
        answer = Answer(response["status"], headers, cookies, response["body"])
        return write(self.request.kind, self.request.method, answer, self.request.request_id)


_thread = threading.local()


def _use_own_loop() -> None:
    """Mangum takes the thread's current loop, which may be none, closed, or somebody else's."""
    own = getattr(_thread, "own", None)
    if own is None or own.loop.is_closed():
        own = _thread.own = _Loop()
    asyncio.set_event_loop(own.loop)


def _in_running_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def adapt(app: FastAPI) -> Mangum:
    """`app` behind what holds for every request, whoever sent it."""
    # Mangum runs startup and shutdown on every invocation unless lifespan is off.
    return Mangum(with_cors(with_limit(with_guard(app))), lifespan="off", custom_handlers=[Exchange])


_use_own_loop()  # before Mangum, which makes one where there is none
app = create_app()
_adapter = adapt(app)


def handler(event: Any, context: Any) -> dict[str, Any]:
    """Answer an HTTP request of any kind in `events.py`, as its sender takes it. Never raises for one.

    What cannot be read as the request that it looks like is answered 400, before CORS and authorization. What is no
    HTTP request touches nothing: a scheduled event (which keeps the environment warm), `{}`, `null` or a test event of
    the console is answered `{"ok": false, "reason": "not an HTTP request"}`. A batch of SQS has, besides, all of its
    messages in `batchItemFailures`, so that they stay in the queue where the event source mapping has
    ReportBatchItemFailures.
    """
    kind = kind_of(event)
    if kind is None:
        return _answer_no_request(event)
    if not _in_running_loop():
        return _answer(kind, event, context)
    # A thread runs one loop at a time.
    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(copy_context().run, _answer, kind, event, context).result()


def _answer(kind: Kind, event: Any, context: Any) -> dict[str, Any]:
    started, spent, request_id = perf_counter(), count(), _request_id(context)
    method = route = None
    try:
        request = _read(kind, event, context, request_id)
    except Exception as error:  # noqa: BLE001 - a broken event can fail in any way, and is answered
        logger.info("the event is no request that can be read: %s", type(error).__name__)
        method = _method(kind, event)
        answer = write(kind, method or "GET", refusal(400, "The request cannot be read", request_id), request_id)
    else:
        answer = _answer_request(request, context)
        method, route = request.method, request.scope.get("route")
    status, seconds = answer["statusCode"], perf_counter() - started
    tell(context, request_id, method=method, route=route, status=status, seconds=seconds, spent=spent)
    return answer


def _method(kind: Kind, event: Any) -> str | None:
    try:
        method: Any = kind.method(event)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
    return method if isinstance(method, str) else None


def _answer_request(request: Request, context: Any) -> dict[str, Any]:
    _use_own_loop()
    event: Any = request  # Exchange's
    try:
        with within(_time_left(context) - TIME_TO_ANSWER):
            return _adapter(event, context)
    except Exception:  # the application's own errors are answered inside Mangum
        logger.exception("the answer cannot be written")
        kind, method, _, _, request_id = request
        return write(kind, method, refusal(500, None, request_id), request_id)


def _answer_no_request(event: Any) -> dict[str, Any]:
    logger.warning("the event is no HTTP request, and nothing was done for it")
    answer: dict[str, Any] = {"ok": False, "reason": "not an HTTP request"}
    records = event.get("Records") if isinstance(event, dict) else None
    if isinstance(records, list):
        messages = [one["messageId"] for one in records if isinstance(one, dict) and "messageId" in one]
        answer["batchItemFailures"] = [{"itemIdentifier": message} for message in messages]
    return answer


def _request_id(context: Any) -> str:
    return getattr(context, "aws_request_id", None) or str(uuid.uuid4())


def _time_left(context: Any) -> float:
    """Seconds until Lambda ends the invocation; no end where nobody says."""
    remaining = getattr(context, "get_remaining_time_in_millis", None)
    return remaining() / 1000 if remaining else math.inf


def _prime() -> None:
    """Send one request through the application, refused by its query before the database is asked.

    The first request imports, compiles and caches what all others use. Here that is done with the whole processor that
    Lambda gives to init, and with SnapStart before the snapshot.
    """
    http = {"method": "GET", "path": "/health/ready"}
    mark = {"jwt": {"claims": {"sub": "prime"}}, "iam": {"userArn": "prime"}}  # let in, whatever AUTH_MODE says
    context = {"http": http, "authorizer": mark}
    event = {"version": "2.0", "rawPath": http["path"], "rawQueryString": "prime", "requestContext": context}
    _answer_request(_read(HTTP_API_2, event, None, "prime"), None)


_prime()
gc.freeze()  # no later collection looks at all this again
gc.enable()
