"""A migrated database for each worker, created when a test needs it, and the real handler in front of it.

Nothing here replaces the session dependency: the production code commits the changes of a test. The tables are emptied
before the next test.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from sqlalchemy import event

from handler import resources
from handler.database.base import Base
from tests.support.database import TEMPLATE, connect, empty_tables, socket_path, temporary_database, url_of
from tests.support.make_run import copy_template, make_template
from tests.support.proxy import Proxy
from tests.support.resources import SHIPPED
from tests.support.server import SharedServer, request_start

SERVER = pytest.StashKey[SharedServer]()
WORKER = os.environ.get("PYTEST_XDIST_WORKER", "main")


def pytest_configure(config: pytest.Config) -> None:
    """Set the variables that the handler reads when a test module imports it. `server_url` starts the server later."""
    workerinput = getattr(config, "workerinput", None)
    if workerinput is None:
        config.stash[SERVER] = SharedServer()
        if config.getoption("numprocesses", None):
            config.stash[SERVER].start_on_request()
            return  # the controller of pytest-xdist runs no tests
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
    """The URL of the server, for tests that create databases."""
    workerinput = getattr(pytestconfig, "workerinput", None)
    if workerinput is None:
        pytestconfig.stash[SERVER].start()
        return pytestconfig.stash[SERVER].url
    request_start(Path(workerinput["server_folder"]))
    return str(workerinput["server_url"])


@pytest.fixture(scope="session")
def worker_database(server_url: str) -> Iterator[str]:
    """DATABASE_URL, the URL of the handler's database."""
    with temporary_database(server_url, f"test_{WORKER}", TEMPLATE) as url:
        yield url


@pytest.fixture
def database(worker_database: str) -> Any:
    """A second connection to the handler's database, whose tables are empty."""
    with connect(worker_database) as connection:
        empty_tables(connection, reversed(Base.metadata.sorted_tables))
        yield connection


@pytest.fixture
def shipped_resources(monkeypatch: pytest.MonkeyPatch) -> None:
    """`create_app` creates the deployed application, without the resource of the tests."""
    monkeypatch.setattr(resources, "RESOURCES", SHIPPED)


@pytest.fixture(scope="session")
def project_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the projects of `project` and `used_project` are copies of."""
    return make_template(tmp_path_factory.mktemp("template"))


@pytest.fixture
def project(project_template: Path, tmp_path: Path) -> Path:
    """A copy of the project in which no command was used, for tests of `make run`."""
    return copy_template(project_template, tmp_path)


@pytest.fixture
def used_project(project_template: Path, tmp_path: Path) -> Path:
    """A copy of the project in which `make run` was used: it has a migrated database."""
    return copy_template(project_template, tmp_path, with_database=True)


@pytest.fixture
def app() -> Iterator[FastAPI]:
    """The handler's own application. Routes that a test adds are removed when the test ends."""
    from handler import main  # not at the top, because the environment is set after pytest has read this file

    before = list(main.app.router.routes)
    yield main.app
    main.app.router.routes[:] = before


@pytest.fixture
def logged_requests(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The records of the request log from now on."""
    from handler.adapter import request_log

    found: list[dict[str, Any]] = []
    monkeypatch.setattr(request_log, "sinks", [found.append])
    return found


@pytest.fixture
def serve_app(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[FastAPI], None]]:
    """A function that makes the handler serve an application of the test."""
    from handler import main
    from handler.adapter.adapter import Adapter

    def start(app: FastAPI) -> None:
        adapter = Adapter(app)
        stack.callback(adapter.close)
        monkeypatch.setattr(main, "adapter", adapter)

    with ExitStack() as stack:
        yield start


@pytest.fixture
def serve(serve_app: Callable[[FastAPI], None]) -> Callable[..., FastAPI]:
    """A function that makes the handler serve a new application with these settings, and returns it.

    `add_routes` gets the application before it is served.
    """
    from tests.support.application import make_app

    def change(add_routes: Callable[[FastAPI], object] | None = None, **values: object) -> FastAPI:
        app = make_app(**values)
        if add_routes:
            add_routes(app)
        serve_app(app)
        return app

    return change


@pytest.fixture
def authorize(serve: Callable[..., FastAPI]) -> Callable[..., FastAPI]:
    """A function that makes the handler serve an application with another AUTH_MODE, and returns it."""

    def change(mode: str, add_routes: Callable[[FastAPI], object] | None = None, **values: object) -> FastAPI:
        return serve(add_routes, auth_mode=mode, **values)

    return change


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A proxy between the handler and its database, which counts round trips and injects faults."""
    from handler.database import connection
    from handler.database.engine import engine

    engine.dispose()
    with Proxy(socket_path(os.environ["DATABASE_URL"])) as proxy:
        monkeypatch.setattr(connection, "address_of", lambda *_: ("127.0.0.1", proxy.port, None))
        yield proxy
        engine.dispose()


@pytest.fixture
def configure(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """A function that changes the handler's database settings and closes its connections."""
    from handler.database.engine import connector, engine

    def change(**values: object) -> None:
        engine.dispose()
        monkeypatch.setattr(connector, "settings", connector.settings.model_copy(update=values))

    yield change
    engine.dispose()


@pytest.fixture
def checkouts() -> Iterator[list[Any]]:
    """A list with an entry for each connection that was taken from the pool of the handler's engine."""
    from handler.database.engine import engine

    taken: list[Any] = []

    def add(*arguments: Any) -> None:
        taken.append(arguments)

    event.listen(engine, "checkout", add)
    yield taken
    event.remove(engine, "checkout", add)
