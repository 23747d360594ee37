import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pg8000.native
import pytest

from tests.support.database import connect, temporary_database
from tests.support.environment import proxied_process
from tests.support.proxy import Proxy

ROOT = Path(__file__).parents[2]


@dataclass
class Response:
    status: int
    headers: dict[str, str]
    text: str
    round_trips: int

    @property
    def json(self) -> Any:
        return json.loads(self.text)


@dataclass
class Environment:
    """The handler in another process, with a proxy that counts round trips to its database."""

    proxy: Proxy
    requests: IO[str]
    responses: IO[str]

    def call(
        self, method: str, path: str, body: Any = None, *, query: str = "", headers: Iterable[tuple[str, str]] = ()
    ) -> Response:
        with self.proxy.counting() as count:
            print(json.dumps([method, path, body, query, list(headers)]), file=self.requests, flush=True)
            status, returned, text = json.loads(self.responses.readline())
        return Response(status, returned, text, count.round_trips)


def run_migrate(command: str, url: str) -> None:
    """Run tests/examples/migrate.py on a database."""
    environ = os.environ | {"DATABASE_URL": url}
    subprocess.run([sys.executable, "-m", "tests.examples.migrate", command], cwd=ROOT, env=environ, check=True)


@pytest.fixture(scope="module")
def database_url(server_url: str) -> Iterator[str]:
    """The URL of a database with the example's tables."""
    with temporary_database(server_url, f"orders_{os.getpid()}") as url:
        run_migrate("upgrade", url)
        yield url


@pytest.fixture(scope="module")
def environment(database_url: str) -> Iterator[Environment]:
    # Without the check of an idle connection, which would add a round trip on a slow machine.
    command = [sys.executable, "-m", "tests.examples.environment"]
    with proxied_process(command, database_url, DATABASE_IDLE_CHECK="300", AUTH_MODE="none") as process:
        environment = Environment(*process)
        environment.call("GET", "/health/ready")
        yield environment


@pytest.fixture
def orders(database_url: str) -> Iterator[pg8000.native.Connection]:
    """A second connection to the handler's database, whose tables are empty."""
    with connect(database_url) as connection:
        connection.run("TRUNCATE orders CASCADE")
        yield connection
