"""One PostgreSQL for the run, a migrated database for each worker, and the real handler in front of it.

Nothing here replaces the session dependency: what a test stores is committed by the code that commits in
production, and the tables are emptied before the next test.
"""

import os
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from handler import resources
from handler.database.base import Base
from handler.migrations.upgrade import upgrade
from handler.settings import read_database_settings
from local.postgres import server
from tests.support.database import connect, url_of

resources.import_models()

CLEANUP = pytest.StashKey[ExitStack]()
SERVER_URL = pytest.StashKey[str]()
# Roles that stand for IAM users have no password: they log in by the unix socket, whose folder is closed to others.
AUTHENTICATION = """
local all postgres scram-sha-256
local all all trust
"""


def pytest_configure(config: pytest.Config) -> None:
    """Start the server once; give this worker its database before a test imports the handler."""
    workerinput = getattr(config, "workerinput", None)
    stack = config.stash[CLEANUP] = ExitStack()
    if workerinput is None:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="items-", ignore_cleanup_errors=True)))
        config.stash[SERVER_URL] = stack.enter_context(server(folder, "-c", "fsync=off"))
        _let_in_roles_without_password(folder, config.stash[SERVER_URL])
        if config.getoption("numprocesses", None):
            return  # the workers run the tests
    else:
        config.stash[SERVER_URL] = workerinput["server_url"]
    name = "test_" + os.environ.get("PYTEST_XDIST_WORKER", "main")
    with connect(config.stash[SERVER_URL]) as admin:
        admin.run(f"CREATE DATABASE {name}")
    os.environ |= {"DATABASE_URL": url_of(config.stash[SERVER_URL], name), "AUTH_MODE": "none"}
    upgrade(read_database_settings(os.environ))


def _let_in_roles_without_password(folder: Path, url: str) -> None:
    (folder / "cluster" / "pg_hba.conf").write_text(AUTHENTICATION)
    with connect(url) as admin:
        admin.run("SELECT pg_reload_conf()")


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    node.workerinput["server_url"] = node.config.stash[SERVER_URL]


def pytest_unconfigure(config: pytest.Config) -> None:
    config.stash[CLEANUP].close()


@pytest.fixture(scope="session")
def server_url(pytestconfig: pytest.Config) -> str:
    """The server's URL, for tests that make databases of their own."""
    return pytestconfig.stash[SERVER_URL]


@pytest.fixture
def database() -> Any:
    """A connection beside the handler's, to the same database, with every table empty."""
    with connect(os.environ["DATABASE_URL"]) as connection:
        tables = ", ".join(Base.metadata.tables)
        connection.run(f"TRUNCATE {tables} RESTART IDENTITY")
        yield connection
