"""A MemoryError or a RecursionError anywhere in the connection costs at most its request."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import pytest
from fastapi import FastAPI
from sqlalchemy import insert, text

from handler.database.driver import connection, protocol, statements, stream, synchronized
from handler.database.session import SessionDep
from tests.support.client import Response, call, create_probe, probe_path
from tests.support.probe.models import Probe

IN_TRANSACTION = (
    "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%' AND datname = current_database()"
)
FILES = {module.__file__ for module in (connection, protocol, statements, stream, synchronized)}


@contextmanager
def failing(error: type[Exception], number: int) -> Iterator[list[str]]:
    """During the block, call number `number` of the connection's functions raises. Yields the names of the calls."""
    names: list[str] = []

    def profile(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_filename in FILES:
            names.append(frame.f_code.co_qualname)
            if len(names) == number:
                raise error

    sys.setprofile(profile)
    try:
        yield names
    finally:
        sys.setprofile(None)


@pytest.fixture
def requests(app: FastAPI) -> dict[str, Callable[[], Response]]:
    @app.post("/test/fails")
    async def _fails(session: SessionDep) -> None:
        session.execute(insert(Probe).values(name="undone"))
        raise ValueError

    @app.post("/test/refused")
    async def _refused(session: SessionDep) -> None:
        session.execute(insert(Probe).values(name="undone"))
        session.execute(text("select 1 / 0"))

    return {
        "a route that fails": lambda: call("POST", "/test/fails"),
        "a statement that is refused": lambda: call("POST", "/test/refused"),
        "a read": lambda: call("GET", probe_path(1)),
        "a write": lambda: call("POST", "/probes/", {"name": "new"}),
    }


@pytest.mark.parametrize("error", [MemoryError, RecursionError])
@pytest.mark.parametrize("name", ["a route that fails", "a statement that is refused", "a read", "a write"])
def test_after_a_memory_error_in_any_call_the_next_request_has_a_connection_and_no_change_is_partly_stored(
    name: str, error: type[Exception], requests: dict[str, Callable[[], Response]], database: Any
) -> None:
    create_probe()
    with failing(error, 0) as names:
        expected = requests[name]().status
    assert len(names) > 3
    for number in range(1, len(names) + 1):
        before = database.run("SELECT count(*) FROM probes")[0][0]
        with failing(error, number):
            response = requests[name]()
        stored = database.run("SELECT count(*) FROM probes")[0][0] - before
        # If the reply to COMMIT was not read, its result is unknown (503). If it was read, the response is a 500.
        possible = {201: (1,)}.get(response.status, (0, 1) if expected == 201 else (0,))
        assert stored in possible, f"{names[number - 1]}, call {number}: {response.status}"
        assert response.status in (expected, 500, 503)
        assert call("GET", probe_path(1)).status == 200, f"after {names[number - 1]}, call {number}"
        assert call("POST", "/probes/", {"name": "next"}).status == 201
        assert database.run(IN_TRANSACTION) == [[0]]
