"""A pytest plugin that runs pg8000's own DBAPI tests on `handler.database.driver`, and judges their outcome."""

import os
import ssl
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pg8000 import dbapi

from handler.database.driver.connection import Connection
from handler.database.driver.stream import TlsSocket

EXPECTED: dict[str, str] = tomllib.loads(Path(__file__).with_name("expected.toml").read_text())

_failed: dict[str, str] = {}
_ran: set[str] = set()


def connect(
    user: str,
    host: str = "localhost",
    port: int = 5432,
    unix_sock: str | None = None,
    ssl_context: ssl.SSLContext | None = None,
    **login: Any,
) -> Connection:
    """pg8000.dbapi.connect with the arguments that the tests use."""
    if ssl_context:
        ssl_context.sslsocket_class = TlsSocket
    return Connection((unix_sock or host, port, ssl_context), {"user": user, **login}, timeout=5, idle_check=1)


def pytest_configure() -> None:
    assert os.environ["PGPORT"]
    dbapi.connect = connect


@pytest.fixture
def benchmark() -> Callable[[Callable[[], Any]], Any]:
    """A replacement for the fixture of pytest-benchmark, which only runs the function."""
    return lambda function: function()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    _ran.add(report.nodeid)
    if not report.passed:
        _failed[report.nodeid] = f"{_failed.get(report.nodeid, '')}\n{report.when}: {report.longreprtext}"


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    session.exitstatus = int(not _ran or set(_failed) != set(EXPECTED))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    write = terminalreporter.write_line
    for test in sorted(_failed.keys() - EXPECTED.keys()):
        write(f"\nUNEXPECTED FAILURE {test}\n{_failed[test]}")
    for test in sorted(EXPECTED.keys() - _failed.keys()):
        write(f"\nUNEXPECTED PASS, or no such test: {test}\n    {EXPECTED[test]}")
    write(f"\n{len(_ran - _failed.keys())} passed, {len(_failed.keys() & EXPECTED.keys())} failed as expected")
