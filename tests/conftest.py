"""A migrated database for each worker, made when a test asks for it, and the real handler in front of it.

Nothing here replaces the session dependency: what a test stores is committed by the code that commits in
production, and the tables are emptied before the next test.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from handler import resources
from handler.database.base import Base
from tests.support.database import TEMPLATE, connect, temporary_database, url_of
from tests.support.make_run import copy_project
from tests.support.resources import SHIPPED
from tests.support.server import SharedServer, request_start

SERVER = pytest.StashKey[SharedServer]()
WORKER = os.environ.get("PYTEST_XDIST_WORKER", "main")


def pytest_configure(config: pytest.Config) -> None:
    """Set what the handler reads when a test module imports it. The server is started later (`server_url`)."""
    workerinput = getattr(config, "workerinput", None)
    if workerinput is None:
        config.stash[SERVER] = SharedServer()
        if config.getoption("numprocesses", None):
            config.stash[SERVER].start_on_request()
            return  # the workers run the tests
    url = workerinput["server_url"] if workerinput else config.stash[SERVER].url
    os.environ |= {"DATABASE_URL": url_of(url, f"test_{WORKER}"), "AUTH_MODE": "none"}


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    shared = node.config.stash[SERVER]
    node.workerinput |= {"server_url": shared.url, "server_folder": str(shared.folder)}


def pytest_unconfigure(config: pytest.Config) -> None:
    if SERVER in config.stash:
        config.stash[SERVER].close()


@pytest.fixture(scope="session")
def server_url(pytestconfig: pytest.Config) -> str:
    """The URL of the run's server, for tests that make databases of their own."""
    workerinput = getattr(pytestconfig, "workerinput", None)
    if workerinput is None:
        pytestconfig.stash[SERVER].start()
        return pytestconfig.stash[SERVER].url
    request_start(Path(workerinput["server_folder"]))
    return str(workerinput["server_url"])


@pytest.fixture(scope="session")
def worker_database(server_url: str) -> Iterator[str]:
    """The URL of the handler's database, which is DATABASE_URL."""
    with temporary_database(server_url, f"test_{WORKER}", TEMPLATE) as url:
        yield url


@pytest.fixture
def database(worker_database: str) -> Any:
    """A connection beside the handler's, to the same database, with every table empty."""
    with connect(worker_database) as connection:
        tables = ", ".join(Base.metadata.tables)
        connection.run(f"TRUNCATE {tables} RESTART IDENTITY")
        yield connection


@pytest.fixture
def shipped_resources(monkeypatch: pytest.MonkeyPatch) -> None:
    """`create_app` makes the application that is deployed, without the resource of the tests."""
    monkeypatch.setattr(resources, "RESOURCES", SHIPPED)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the project, for tests of `make run`."""
    return copy_project(tmp_path)
