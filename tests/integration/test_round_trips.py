"""The exact number of round trips to the database for each request, because latency multiplies them."""

import io
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import pytest
from pg8000 import dbapi

from handler.database.connection import connect
from handler.database.driver.stream import Stream
from handler.settings import read_database_settings
from tests.support.client import probe_path
from tests.support.environment import proxied_process
from tests.support.proxy import Count, Proxy

ROOT = Path(__file__).parents[2]
# A Lambda environment: the handler in another process, which reaches its database through the proxy.
ENVIRONMENT = """
import json, sys
from tests.support.client import call
for line in sys.stdin:
    print(call(*json.loads(line)).status, flush=True)
"""
NEVER = "300"  # seconds of DATABASE_IDLE_CHECK, long enough that a slow machine does not cause a check
PROBE = {"name": "Lamp"}


class Environment:
    def __init__(self, proxy: Proxy, requests: IO[str], statuses: IO[str]) -> None:
        self._proxy = proxy
        self._requests = requests
        self._statuses = statuses

    def count(self, method: str, path: str, body: Any = None, *, status: int = 200) -> Count:
        """Send one request, and return the connections and round trips that the proxy counted."""
        with self._proxy.counting() as count:
            print(json.dumps([method, path, body]), file=self._requests, flush=True)
            assert self._statuses.readline() == f"{status}\n"
        return count


@contextmanager
def environment(idle_check: str = NEVER) -> Iterator[Environment]:
    """A new environment, which has handled no request."""
    command = [sys.executable, "-c", ENVIRONMENT]
    with proxied_process(command, os.environ["DATABASE_URL"], DATABASE_IDLE_CHECK=idle_check) as process:
        yield Environment(*process)


@pytest.fixture(scope="module")
def warm() -> Iterator[Environment]:
    with environment() as found:
        found.count("GET", "/health/ready")
        yield found


@pytest.mark.parametrize(
    ("round_trips", "status", "request_"),
    [
        pytest.param(1, 200, ("GET", probe_path(1)), id="read: 1"),
        pytest.param(1, 404, ("GET", probe_path(99)), id="read a missing probe: 1"),
        pytest.param(1, 200, ("GET", "/probes/"), id="list: 1"),
        pytest.param(2, 201, ("POST", "/probes/", PROBE), id="create: 2"),
        pytest.param(3, 200, ("PUT", probe_path(1), PROBE), id="replace, with its relationship: 3"),
        pytest.param(2, 404, ("PUT", probe_path(99), PROBE), id="replace a missing probe: 2"),
        pytest.param(2, 200, ("PATCH", probe_path(1), PROBE), id="change: 2"),
        pytest.param(2, 404, ("PATCH", probe_path(99), PROBE), id="change a missing probe: 2"),
        pytest.param(2, 204, ("DELETE", probe_path(1)), id="delete: 2"),
        pytest.param(2, 404, ("DELETE", probe_path(99)), id="delete a missing probe: 2"),
        pytest.param(1, 200, ("GET", "/health/ready"), id="ready: 1"),
        pytest.param(0, 200, ("GET", "/health/live"), id="live: 0"),
        pytest.param(0, 422, ("POST", "/probes/", {"name": ""}), id="create with an invalid body: 0"),
        pytest.param(0, 422, ("GET", "/probes/0"), id="read an invalid id: 0"),
    ],
)
def test_a_warm_request_costs_exactly(
    round_trips: int, status: int, request_: tuple[Any, ...], warm: Environment, database: Any
) -> None:
    database.run("INSERT INTO probes (name) SELECT 'Lamp ' || n FROM generate_series(1, 60) AS n")
    assert warm.count(*request_, status=status).round_trips == round_trips


def test_a_warm_request_opens_no_connection(warm: Environment) -> None:
    assert sum(warm.count("POST", "/probes/", PROBE, status=201).connections for _ in range(10)) == 0


def test_the_first_request_of_an_environment_costs_three_round_trips_more_to_log_in_by_scram() -> None:
    with environment() as cold:
        first = cold.count("GET", "/probes/")
        assert (first.connections, first.round_trips) == (1, 4)
        second = cold.count("GET", "/probes/")
        assert (second.connections, second.round_trips) == (0, 1)


def test_an_environment_that_responds_without_the_database_does_not_connect() -> None:
    with environment() as cold:
        assert cold.count("GET", "/health/live").connections == 0
        assert cold.count("POST", "/probes/", {}, status=422).connections == 0


@pytest.mark.parametrize(
    ("round_trips", "status", "request_"),
    [(1, 200, ("GET", "/probes/")), (2, 201, ("POST", "/probes/", PROBE))],
    ids=["read", "create"],
)
def test_after_an_idle_time_the_first_request_costs_one_more_and_the_second_does_not(
    round_trips: int, status: int, request_: tuple[Any, ...]
) -> None:
    with environment(idle_check="1") as idle:
        idle.count("GET", "/health/ready")
        time.sleep(1.1)
        seen = [idle.count(*request_, status=status).round_trips for _ in range(2)]
    assert seen == [round_trips + 1, round_trips]


# Poolers rely on this: each flush has one batch, whose replies end with one ReadyForQuery.


def _messages(data: bytes) -> str:
    """The type bytes of the messages in `data`: PostgreSQL manual, 54.7 "Message Formats"."""
    codes, start = "", 0
    while start < len(data):
        codes += chr(data[start])
        start += 1 + int.from_bytes(data[start + 1 : start + 5])
    return codes


class Batches:
    """The flushes of a new connection to the tests' database, and the number of ReadyForQuery for each."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.flushes: list[str] = []
        self.ready = 0
        self.connection = connect(read_database_settings(os.environ))
        flush, read_message = Stream.flush, Stream.read_message

        def recorded_flush(stream: Stream) -> None:
            self.flushes.append(_messages(bytes(stream._out)))
            flush(stream)

        def recorded_read(stream: Stream) -> tuple[bytes, bytes]:
            code, data = read_message(stream)
            self.ready += code == b"Z"
            return code, data

        monkeypatch.setattr(Stream, "flush", recorded_flush)
        monkeypatch.setattr(Stream, "read_message", recorded_read)


READ_ONLY = {"autocommit": True, "read_only": True}
AUTOCOMMIT = {"autocommit": True}
NUMBERED = {"numbered": True}


@pytest.mark.parametrize("begin", ["SELECT 1", None], ids=["in a transaction", "first of a connection"])
@pytest.mark.parametrize(
    ("options", "statement", "values"),
    [
        pytest.param({}, "SELECT 1", (), id="no parameters"),
        pytest.param(NUMBERED, "SELECT $1::int", (1,), id="parameters"),
        pytest.param({}, "SELECT %s::int", (1,), id="parameters in the format style"),
        pytest.param({}, "SELECT 1; SELECT 2", (), id="several statements"),
        pytest.param({}, "", (), id="no statement"),
        pytest.param({}, "INSERT INTO probes (name) VALUES (%s)", ("Lamp",), id="a write"),
        pytest.param({}, "SAVEPOINT one", (), id="a savepoint"),
        pytest.param({}, "SELECT 1 / %s::int", (0,), id="an error with parameters"),
        pytest.param({}, "SELECT 1 / 0", (), id="an error without parameters"),
        pytest.param({}, "SELECT FROM missing", (), id="an error of the parser"),
        pytest.param(AUTOCOMMIT, "SELECT %s::int", (1,), id="autocommit"),
        pytest.param(AUTOCOMMIT, "SELECT 1", (), id="autocommit without parameters"),
        pytest.param(READ_ONLY, "SELECT %s::int", (1,), id="read-only"),
        pytest.param(READ_ONLY, "SELECT 1", (), id="read-only without parameters"),
        pytest.param(READ_ONLY, "SELECT 1; SELECT 2", (), id="read-only, several statements"),
        pytest.param({}, "COMMIT", (), id="commit"),
        pytest.param({}, "ROLLBACK", (), id="rollback"),
    ],
)
def test_each_flush_has_one_sync_and_gets_one_ready_for_query(
    options: dict[str, Any], statement: str, values: tuple[Any, ...], begin: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = Batches(monkeypatch)
    with closing(batches.connection) as connection:
        if begin:
            connection.run(begin)
            connection.commit() if options.get("autocommit") else None
            batches.flushes.clear()
            batches.ready = 0
        for name, value in options.items():
            setattr(connection, name, value)
        with suppress(dbapi.Error):
            connection.run(statement, values)
        assert batches.flushes
        for codes in batches.flushes:
            assert codes == "Q" or (codes.count("S"), codes[-1]) == (1, "S"), codes
        assert batches.ready == len(batches.flushes)


def test_a_copy_ends_with_one_ready_for_query_after_its_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """While it waits for rows, the server ignores the Sync of the first flush (manual, 54.2.6 "COPY Operations")."""
    batches = Batches(monkeypatch)
    with closing(batches.connection) as connection:
        connection.run("SELECT 1")
        batches.flushes.clear()
        batches.ready = 0
        connection.run("COPY probes (name) FROM STDIN", stream=io.BytesIO(b"Lamp\n"))
        assert ("".join(batches.flushes), batches.ready) == ("PBDESdcS", 1)
        batches.flushes.clear()
        connection.run("COPY probes (name) TO STDOUT", stream=io.BytesIO())
        assert (batches.flushes, batches.ready) == (["PBDES"], 2)


def test_the_ends_of_a_transaction_and_the_idle_check_are_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    batches = Batches(monkeypatch)
    with closing(batches.connection) as connection:
        for end in (connection.commit, connection.rollback):
            connection.run("SELECT 1")
            batches.flushes.clear()
            batches.ready = 0
            end()
            assert (batches.flushes, batches.ready) == (["Q"], 1)
        connection._idle_check = 0
        assert connection.is_alive()
        assert (batches.flushes, batches.ready) == (["Q", "Q"], 2)
