import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from fastapi import FastAPI

from tests.support.database import socket_path
from tests.support.proxy import Proxy


@pytest.fixture(autouse=True, scope="session")
def _server(worker_database: object) -> None:
    """Modules of this folder have fixtures that use the database, and come before `_clean`."""


@pytest.fixture(autouse=True)
def _clean(database: object) -> None:
    """Every test of this folder starts with empty tables."""


@pytest.fixture
def app() -> Iterator[FastAPI]:
    """The handler's own application, for a test to add routes to; they go when the test ends."""
    from handler import main  # this file is read before the environment is set

    before = list(main.app.router.routes)
    yield main.app
    main.app.router.routes[:] = before


@pytest.fixture
def request_lines(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the handler logs of each request from here on."""
    from handler.adapter import request_log

    found: list[dict[str, Any]] = []
    monkeypatch.setattr(request_log, "sinks", [found.append])
    return found


@pytest.fixture
def serve_app(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[FastAPI], None]]:
    """Puts the handler in front of an application of the test, as an environment does that starts with it."""
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
    """Makes the handler serve an application that is made with these settings, and returns it.

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
    """Makes the handler one of another AUTH_MODE, and returns its application."""

    def change(mode: str, add_routes: Callable[[FastAPI], object] | None = None, **values: object) -> FastAPI:
        return serve(add_routes, auth_mode=mode, **values)

    return change


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A network between the handler and its database that can be measured and broken."""
    from handler.database import connection
    from handler.database.engine import engine

    engine.dispose()
    with Proxy(socket_path(os.environ["DATABASE_URL"])) as proxy:
        monkeypatch.setattr(connection, "address_of", lambda *_: ("127.0.0.1", proxy.port, None))
        yield proxy
        engine.dispose()


@pytest.fixture
def configure(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Changes the handler's database settings, and lets go of the connections that were made by the old ones."""
    from handler.database.engine import connector, engine

    def change(**values: object) -> None:
        engine.dispose()
        monkeypatch.setattr(connector, "settings", connector.settings.model_copy(update=values))

    yield change
    engine.dispose()
