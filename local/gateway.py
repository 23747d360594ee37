"""A local API Gateway: HTTP in, Lambda event, `handler.main.handler`, HTTP out. Started by `local/run.py`."""

import asyncio
import json
import os
import socket
import sys
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any
from urllib.parse import quote

import uvicorn

from local.events import Context, HttpResponse, http_event, http_response

SETTINGS_REFUSED = 78  # the exit status for it: EX_CONFIG of sysexits.h
# API Gateway's own answer when a function fails, and its limit of 10 MB for a request.
FAILED = HttpResponse(500, [("content-type", "application/json")], b'{"message":"Internal Server Error"}')
TOO_LARGE = HttpResponse(413, [("content-type", "application/json")], b'{"message":"Request Entity Too Large"}')
MAX_REQUEST = 10 * 1024 * 1024

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


async def respond(send: Send, answer: HttpResponse) -> None:
    headers = [(name.encode("latin-1"), value.encode("utf-8")) for name, value in answer.headers]
    headers.append((b"content-length", str(len(answer.body)).encode()))
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})


def for_own_hosts(app: App, port: int) -> App:
    """Refuse requests whose Host header does not name `port` of this machine; `app` serves the others.

    A web page can have its own name lead to 127.0.0.1 (DNS rebinding) and then read what this server answers, but its
    requests carry that name. The status is RFC 9110's, 15.5.20.
    """
    names = ["127.0.0.1", "localhost", "[::1]"]
    own = [f"{name}:{port}" for name in names] + (names if port == 80 else [])  # clients leave out port 80
    problem = {
        "type": "about:blank",
        "title": "Misdirected Request",
        "status": 421,
        "detail": f"The Host header must be one of: {', '.join(own)}",
    }
    refused = HttpResponse(421, [("content-type", "application/problem+json")], json.dumps(problem).encode())

    async def checked(scope: Scope, receive: Receive, send: Send) -> None:
        found = [value.decode("latin-1").lower() for name, value in scope["headers"] if name == b"host"]
        if len(found) == 1 and found[0] in own:
            await app(scope, receive, send)
        else:
            await respond(send, refused)

    return checked


class Gateway:
    """An ASGI app in front of a Lambda handler. One thread: a Lambda environment serves one request at a time."""

    def __init__(self, handler: Callable[[Any, Any], dict[str, Any]]) -> None:
        self._handler = handler
        self._environment = ThreadPoolExecutor(max_workers=1)
        self._path = ""  # of the request that is served

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = bytearray()
        more = True
        while more and len(body) <= MAX_REQUEST:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            more = message.get("more_body", False)
        if len(body) > MAX_REQUEST:
            answer = TOO_LARGE
        else:
            run = asyncio.get_running_loop().run_in_executor
            answer = await run(self._environment, self._invoke, scope, bytes(body))
        await respond(send, answer)

    def _invoke(self, scope: Scope, body: bytes) -> HttpResponse:
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]]
        query = scope["query_string"].decode("latin-1")
        self._path = quote(scope["path"])
        event = http_event(scope["method"], scope["path"], query, headers, body)
        try:
            return http_response(self._handler(event, Context()))
        except Exception as error:  # noqa: BLE001 - whatever a function raises, API Gateway answers 500
            print(f"handler raised {type(error).__name__}: {error}", file=sys.stderr)
            return FAILED

    def show(self, line: dict[str, Any]) -> None:
        """The handler's line for a request as a person reads it, with the path, which no log of a deployment has."""
        cost = f"{line['Duration']:.1f} ms, round trips {line['RoundTrips']}"
        print(f"{line['method']} {self._path} {line['status']} {cost}", flush=True)


def _stop_with_parent() -> None:
    """End when the supervisor has gone, however it went: standard input is a pipe whose other end it holds."""
    os.read(0, 1)
    os._exit(1)


def main() -> None:
    """Serve the listening socket whose file descriptor is the first argument; print the second when ready."""
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    from handler.settings import SettingsError  # noqa: PLC0415 - what is served is imported when all else stands

    try:
        from handler.adapter.request_log import sinks  # noqa: PLC0415
        from handler.main import handler  # noqa: PLC0415
    except SettingsError as error:
        print(error, file=sys.stderr)
        sys.exit(SETTINGS_REFUSED)
    listener = socket.socket(fileno=int(sys.argv[1]))
    gateway = Gateway(handler)
    sinks.append(gateway.show)
    app = for_own_hosts(gateway, listener.getsockname()[1])
    config = uvicorn.Config(
        app, lifespan="off", log_level="warning", access_log=False, server_header=False,
        date_header=False, timeout_graceful_shutdown=5,
    )  # fmt: skip
    print(sys.argv[2], flush=True)
    with suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
