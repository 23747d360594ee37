"""Run the application for a request, with Mangum, on one event loop for the process that also runs the lifespan."""

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from threading import Lock
from typing import Any

from fastapi import FastAPI
from mangum import Mangum
from mangum.types import LambdaConfig
from mangum.types import Response as MangumResponse

from handler.adapter.event_source import Response
from handler.adapter.requests import Request
from handler.adapter.responses import format_response
from handler.api.errors import is_logged
from handler.app import add_middleware
from handler.database.session import IS_WRITING

# Mangum logs a line for every request, and one for every exception that leaves the application.
logging.getLogger("mangum").setLevel(logging.WARNING)
logging.getLogger("mangum.http").addFilter(lambda record: not (record.exc_info and is_logged(record.exc_info[1])))


class MangumHandler:
    """Mangum's handler for a Request: provides its scope and body, and formats the response."""

    @classmethod
    def infer(cls, request: Any, context: Any, config: LambdaConfig) -> bool:  # noqa: ARG003 - Mangum's interface
        return True

    def __init__(self, request: Any, context: Any, config: LambdaConfig) -> None:  # noqa: ARG002 - Mangum's interface
        self.request: Request = request
        self.scope, self.body = request.scope, request.body

    def __call__(self, response: MangumResponse) -> dict[str, Any]:
        headers: dict[str, str] = {}
        cookies: list[str] = []
        for name, value in response["headers"]:
            key, text = name.decode("latin-1").lower(), value.decode("latin-1")
            if key == "set-cookie":
                cookies.append(text)
            else:
                headers[key] = f"{headers[key]}, {text}" if key in headers else text
        source, method, scope, _, request_id = self.request
        # The request may run again with fewer items only where it changes nothing.
        is_safe = scope["method"] == "GET" and IS_WRITING not in scope
        page_items = scope.get("page_items") if is_safe else None
        received = Response(response["status"], headers, cookies, response["body"])
        return format_response(source, method, received, request_id, page_items=page_items)


class Runner:
    """Runs `app` and its middleware on a separate event loop. The lifespan starts once for each environment."""

    def __init__(self, app: FastAPI) -> None:
        with_middleware = add_middleware(app)
        self._loop = asyncio.new_event_loop()
        self._lock = Lock()  # an event loop runs one request at a time, as Lambda does
        asyncio.set_event_loop(self._loop)  # otherwise Mangum creates one
        # Mangum would start and shut down the lifespan on every invocation.
        self._mangum = Mangum(with_middleware, lifespan="off", custom_handlers=[MangumHandler])
        self._lifespan = app.router.lifespan_context(app)
        started: Any = self._lifespan.__aenter__()
        try:
            self._state: dict[str, Any] = dict(self._loop.run_until_complete(started) or {})
        except BaseException:
            self._loop.close()
            raise

    def run(self, request: Request, context: Any, max_items: int | None) -> tuple[dict[str, Any], dict[str, Any]]:
        """The formatted response, and the scope as the application left it.

        `max_items` limits the items of a page. Raises ResponseTooLarge, and any exception of formatting.
        """
        scope = {**request.scope, "state": self._state.copy(), "max_items": max_items}
        event: Any = request._replace(scope=scope)  # as MangumHandler takes it
        with self._lock:
            asyncio.set_event_loop(self._loop)
            return self._mangum(event, context), scope

    def close(self) -> None:
        """Shut down the lifespan and close the event loop."""
        try:
            self._loop.run_until_complete(self._lifespan.__aexit__(None, None, None))
        finally:
            self._loop.close()


def outside_running_loop(function: Any, *arguments: Any) -> Any:
    """Call `function` and return its result. Where this thread already runs an event loop, use another thread."""
    if not _is_loop_running():
        return function(*arguments)
    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(copy_context().run, function, *arguments).result()


def _is_loop_running() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
