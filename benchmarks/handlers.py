"""A Lambda handler in another process, which measures its own times."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from local.events import Context, http_event, http_response
from tests.support.environments import process

JSON_TYPE = [("content-type", "application/json")]
Event = dict[str, Any]


class Timed(NamedTuple):
    """A response, its elapsed time, and the processor time of all threads of the process, in seconds."""

    seconds: float
    cpu: float
    status: int
    body: bytes


class Handler:
    """A handler in another process, to which this process sends API Gateway events."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def run(self, *events: Event) -> list[Timed]:
        """Return the response to each event. Raises RuntimeError if one is not 2xx or 304."""
        self._connection.send(events)
        responses: list[Timed] = self._connection.recv()
        for event, response in zip(events, responses, strict=True):
            if response.status not in (200, 201, 304):
                raise RuntimeError(f"{event['rawPath']}: {response.status} {response.body!r}")
        return responses


@contextmanager
def handler(module: str, url: str) -> Iterator[Handler]:
    """Start a process that imports the handler of `module`, with DATABASE_URL, during the block."""
    with process(_handle, module, url) as connection:
        yield Handler(connection)


def configure(url: str) -> None:
    """Set the environment variables of the handler, in its process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ |= {"DATABASE_URL": url, "AUTH_MODE": "none"}


def _handle(connection: Connection, module: str, url: str) -> None:
    configure(url)
    handle = import_module(module).handler
    with suppress(EOFError):
        while True:
            responses = []
            for event in connection.recv():
                context = Context()
                cpu, start = time.process_time(), time.perf_counter()
                returned = handle(event, context)
                end, cpu = time.perf_counter(), time.process_time() - cpu
                response = http_response(returned)
                responses.append(Timed(end - start, cpu, response.status, response.body))
            connection.send(responses)


def get(path: str, query: str = "", headers: tuple[tuple[str, str], ...] = (), method: str = "GET") -> Event:
    return http_event(method, path, query, headers, b"")


def post(name: str, description: str = "A desk lamp") -> Event:
    return http_event(
        "POST", "/items/", "", JSON_TYPE, f'{{"name": "{name}", "description": "{description}"}}'.encode()
    )


def patch(path: str, description: str) -> Event:
    return http_event("PATCH", path, "", JSON_TYPE, f'{{"description": "{description}"}}'.encode())
