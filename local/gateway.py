"""A local API Gateway in front of `handler.main.handler`. `local/service.py` starts it."""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import Any
from urllib.parse import quote

import uvicorn

from local.events import FUNCTION_TIMEOUT, Context, HttpResponse, http_event, http_response

# API Gateway's limit for a request, and Lambda's limits for an event and a returned value, as JSON: API Gateway
# developer guide, "Quotas for HTTP APIs"; Lambda developer guide, "Lambda quotas".
GATEWAY_LIMIT = 10 * 1024 * 1024
EVENT_LIMIT = 6 * 1024 * 1024
RETURN_LIMIT = EVENT_LIMIT + 100
SMALL = 512 * 1024  # bytes; a smaller body cannot exceed the limits of Lambda as JSON

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
# Takes the method, path and headers of a request. Returns the authorizer context, or the response to a refused request.
Authorizer = Callable[[str, str, Mapping[str, str]], dict[str, Any] | HttpResponse | None]
# A context manager around each request. Its argument is the id of the invocation.
Around = Callable[[str], AbstractContextManager[None]]


def gateway_response(status: int, message: str, **headers: str) -> HttpResponse:
    """A response of API Gateway itself, without an invocation of the function."""
    sent = [("content-type", "application/json"), *((name.replace("_", "-"), text) for name, text in headers.items())]
    return HttpResponse(status, sent, json.dumps({"message": message}, separators=(",", ":")).encode())


FAILED = gateway_response(500, "Internal Server Error")
TOO_LARGE = gateway_response(413, "Request Entity Too Large")


def problem(status: int, title: str, detail: str) -> HttpResponse:
    """An error response of `make run` itself, in the format of the application's errors."""
    members = {"type": "about:blank", "title": title, "status": status, "detail": detail}
    return HttpResponse(status, [("content-type", "application/problem+json")], json.dumps(members).encode())


async def respond(send: Send, method: str, response: HttpResponse) -> None:
    """Send `response` with one Content-Length, or without one if it has no content (RFC 9110, 8.6)."""
    given = [text for name, text in response.headers if name.lower() == "content-length"]
    headers = [(name, text) for name, text in response.headers if name.lower() != "content-length"]
    has_content = method != "HEAD" and response.status not in (204, 304)
    if has_content:
        headers.append(("content-length", str(len(response.body))))
    elif method == "HEAD" and response.status not in (204, 304):
        headers.append(("content-length", given[0] if given else str(len(response.body))))
    encoded = [(name.encode("latin-1"), text.encode()) for name, text in headers]
    await send({"type": "http.response.start", "status": response.status, "headers": encoded})
    await send({"type": "http.response.body", "body": response.body if has_content else b""})


def for_own_hosts(app: App, port: int) -> App:
    """Refuse requests whose Host header does not name `port` of this machine. `app` serves all others.

    The name of a web page can lead to 127.0.0.1 (DNS rebinding), and the page could then read responses of this server.
    Its requests have that name in the Host header. The status is that of RFC 9110, 15.5.20.
    """
    names = ["127.0.0.1", "localhost", "[::1]"]
    own = [f"{name}:{port}" for name in names] + (names if port == 80 else [])  # clients leave out port 80
    refused = problem(421, "Misdirected Request", f"The Host header must be one of: {', '.join(own)}")

    async def checked(scope: Scope, receive: Receive, send: Send) -> None:
        found = [value.decode("latin-1").lower() for name, value in scope["headers"] if name == b"host"]
        if len(found) == 1 and found[0] in own:
            await app(scope, receive, send)
        else:
            await respond(send, scope["method"], refused)

    return checked


def always(response: HttpResponse) -> App:
    """An app that sends the same response to every request."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await _body(receive)
        await respond(send, scope["method"], response)

    return app


def with_files(app: App, files: Mapping[str, HttpResponse]) -> App:
    """`app`, with `files` at their paths for GET and HEAD."""

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] in files and scope["method"] in ("GET", "HEAD"):
            await respond(send, scope["method"], files[scope["path"]])
        else:
            await app(scope, receive, send)

    return serve


class Gateway:
    """An ASGI app in front of a Lambda handler. Like a Lambda environment, it serves one request at a time.

    `timeout` is the number of seconds that an invocation may take.
    """

    def __init__(
        self,
        handler: Callable[[Any, Any], dict[str, Any]],
        *,
        authorizer: Authorizer | None = None,
        around: Around = lambda _: nullcontext(),
        timeout: float = FUNCTION_TIMEOUT,
    ) -> None:
        self._handler = handler
        self._authorizer = authorizer
        self._around = around
        self._timeout = timeout
        self._environment = ThreadPoolExecutor(max_workers=1)
        self.path = ""  # the path of the current request, percent-encoded
        self.request_id = ""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await _body(receive)
        if body is None:
            return
        if len(body) > GATEWAY_LIMIT:
            response = TOO_LARGE
        else:
            run = asyncio.get_running_loop().run_in_executor
            response = await run(self._environment, self._respond, scope, body)
        await respond(send, scope["method"], response)

    def _respond(self, scope: Scope, body: bytes) -> HttpResponse:
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]]
        # API Gateway writes this header. There is no TLS here, so redirects must lead to http.
        headers = [(name, value) for name, value in headers if name.lower() != "x-forwarded-proto"]
        headers.append(("x-forwarded-proto", "http"))
        method, path, query = scope["method"], scope["path"], scope["query_string"].decode("latin-1")
        authorized = self._authorizer(method, path, dict(headers)) if self._authorizer else None
        if isinstance(authorized, HttpResponse):
            print(f"{method} {quote(path)} {authorized.status} by the authorizer", flush=True)
            return authorized
        event = http_event(method, path, query, headers, body, authorizer=authorized)
        if len(body) > SMALL and _size(event) > EVENT_LIMIT:
            return TOO_LARGE
        context = Context(self._timeout)
        self.path, self.request_id = quote(path), context.aws_request_id
        try:
            with self._around(context.aws_request_id):
                return self._invoke(event, context)
        finally:
            self.request_id = ""

    def _invoke(self, event: dict[str, Any], context: Context) -> HttpResponse:
        try:
            returned = self._handler(event, context)
            response = http_response(returned)
        except Exception as error:  # noqa: BLE001 - API Gateway responds with 500 to any exception
            print(f"handler raised {type(error).__name__}: {error}", file=sys.stderr)
            return FAILED
        if len(response.body) > SMALL and _size(returned) > RETURN_LIMIT:
            print(f"handler returned more than Lambda's limit of {RETURN_LIMIT} bytes", file=sys.stderr)
            return FAILED
        return response


async def _body(receive: Receive) -> bytes | None:
    """The body of a request; one byte more than GATEWAY_LIMIT of a larger body; None if the client has disconnected.

    The rest of a larger body is read too, because a client that is still sending would not read the response.
    """
    body, more = bytearray(), True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        del body[GATEWAY_LIMIT + 1 :]
        more = message.get("more_body", False)
    return bytes(body)


def _size(value: Any) -> int:
    return len(json.dumps(value, ensure_ascii=False).encode())


def http_server(app: App) -> uvicorn.Server:
    """A server of `app`, which adds no headers."""
    config = uvicorn.Config(
        app, lifespan="off", log_config=None, log_level="warning", access_log=False, server_header=False,
        date_header=False, timeout_graceful_shutdown=5,
    )  # fmt: skip
    return uvicorn.Server(config)
