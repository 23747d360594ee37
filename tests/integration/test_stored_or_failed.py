"""For any route, a 2xx is stored, an error response stores nothing, and no request reads another request's replies."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Depends, FastAPI, HTTPException
from fastapi.responses import JSONResponse
from sqlalchemy import func, select, text
from sqlalchemy.orm import Session
from starlette.types import ASGIApp, Receive, Scope, Send

from handler.api.auth import PUBLIC
from handler.api.routing import ApiRoute, RepeatableRoute
from handler.database.engine import engine
from handler.database.session import ReadSessionDep, SessionDep, get_session
from tests.support.client import call, create_probe, probe_id, probe_names, probe_path
from tests.support.probe.models import Probe

ServeApp = Callable[[FastAPI], None]
DEFERRED = "INSERT INTO children VALUES (1)"


@pytest.fixture
def refuses_at_commit(database: Any) -> Any:
    database.run("CREATE TABLE parents (id int PRIMARY KEY)")
    database.run("CREATE TABLE children (id int REFERENCES parents DEFERRABLE INITIALLY DEFERRED)")
    yield
    database.run("DROP TABLE children, parents")


class Impatient:
    """A typical timeout middleware, which abandons a thread that still waits for its statement."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith("/test/slow"):
            await self.app(scope, receive, send)
            return
        try:
            async with asyncio.timeout(0.05):
                await self.app(scope, receive, send)
        except TimeoutError:
            await JSONResponse({}, 504)(scope, receive, send)


@pytest.fixture
def slow(serve_app: ServeApp) -> None:
    from tests.support.application import make_app

    app = make_app()
    app.add_middleware(Impatient)

    @app.get("/test/slow/read", dependencies=[PUBLIC])
    def _read(session: ReadSessionDep) -> str:
        statement = select(Probe.name).where(Probe.id == probe_id(2), func.pg_sleep(0.2).is_not(None))
        return session.scalars(statement).one()

    @app.post("/test/slow/write", dependencies=[PUBLIC])
    def _write(session: SessionDep) -> None:
        session.execute(text("INSERT INTO probes (name) SELECT 'ghost' FROM pg_sleep(0.2)"))

    serve_app(app)


@pytest.mark.usefixtures("slow")
def test_the_reply_to_an_abandoned_statement_reaches_no_other_request() -> None:
    one = create_probe("one")
    create_probe("two")
    for _ in range(5):
        assert call("GET", "/test/slow/read").status == 504
        read = call("GET", probe_path(1))
        assert (read.status, read.json) == (200, one)
    assert engine.pool.checkedout() == 0  # type: ignore[attr-defined] # QueuePool has it


@pytest.mark.usefixtures("slow")
def test_an_abandoned_write_is_not_committed_by_the_next_request(database: Any) -> None:
    assert call("POST", "/test/slow/write").status == 504
    create_probe("mine")
    time.sleep(0.3)
    assert probe_names(database) == ["mine"]


async def swallow() -> AsyncIterator[None]:
    try:
        yield
    except Exception:  # noqa: BLE001 - as dependencies that log errors do
        logging.getLogger("test").info("swallowed")


@pytest.mark.usefixtures("refuses_at_commit")
@pytest.mark.parametrize("statement", [DEFERRED, "INSERT INTO probes (name) VALUES ('kept')"])
def test_a_failed_commit_is_an_error_response_if_a_dependency_catches_it(
    statement: str, app: FastAPI, database: Any, caplog: pytest.LogCaptureFixture
) -> None:
    @app.post("/test/swallow", status_code=201, dependencies=[Depends(swallow, scope="function")])
    async def _route(session: SessionDep) -> None:
        session.execute(text(statement))

    fails = statement == DEFERRED
    assert call("POST", "/test/swallow").status == (500 if fails else 201)
    assert ("was not committed" in caplog.text) == fails
    assert database.run("SELECT * FROM children") == []


@pytest.mark.usefixtures("refuses_at_commit")
def test_a_failed_commit_after_the_response_is_an_error_response(app: FastAPI, database: Any) -> None:
    """`Depends(get_session)` without a scope commits after FastAPI's response, but before Lambda sends it."""

    @app.post("/test/late")
    async def _route(session: Annotated[Session, Depends(get_session)]) -> str:
        session.execute(text(DEFERRED))
        return "stored"

    assert call("POST", "/test/late").status == 500
    assert database.run("SELECT * FROM children") == []


def test_a_2xx_that_is_raised_as_an_exception_is_an_error_response(app: FastAPI, database: Any) -> None:
    @app.post("/test/accepted")
    async def _route(session: SessionDep) -> None:
        session.add(Probe(name="lost"))
        session.flush()
        raise HTTPException(202)

    assert call("POST", "/test/accepted").status == 500
    assert probe_names(database) == []


@pytest.mark.parametrize("status", [409, 500, 503])
def test_an_error_response_that_is_returned_stores_nothing(status: int, serve_app: ServeApp, database: Any) -> None:
    from tests.support.application import make_app

    app, router = make_app(), APIRouter(route_class=ApiRoute, dependencies=[PUBLIC])

    @router.post("/test/refused")
    async def _route(session: SessionDep) -> JSONResponse:
        session.add(Probe(name="lost"))
        session.flush()
        return JSONResponse({}, status)

    app.include_router(router)
    serve_app(app)
    assert call("POST", "/test/refused").status == status
    assert probe_names(database) == []


def test_an_error_of_a_route_that_a_dependency_catches_stores_nothing(serve_app: ServeApp, database: Any) -> None:
    from tests.support.application import make_app

    app, router = make_app(), APIRouter(route_class=ApiRoute, dependencies=[PUBLIC])

    async def forgiving(session: SessionDep) -> AsyncIterator[Session]:
        with contextlib.suppress(ValueError):
            yield session

    @router.post("/test/forgiven")
    async def _route(session: Annotated[Session, Depends(forgiving, scope="function")]) -> None:
        session.add(Probe(name="lost"))
        session.flush()
        raise ValueError

    app.include_router(router)
    serve_app(app)
    assert call("POST", "/test/forgiven").status == 500
    assert probe_names(database) == []


def test_a_request_that_was_committed_is_not_repeated(serve_app: ServeApp, database: Any) -> None:
    from tests.support.application import make_app

    app, router = make_app(), APIRouter(route_class=RepeatableRoute, dependencies=[PUBLIC])

    async def audit() -> AsyncIterator[None]:
        yield
        with engine.connect() as connection:
            connection.execute(text("DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '40001'; END $$"))

    @router.post("/test/audited", dependencies=[Depends(audit, scope="function")])
    async def _route(session: SessionDep) -> None:
        session.add(Probe(name="once"))

    app.include_router(router)
    serve_app(app)
    assert call("POST", "/test/audited").status == 503
    assert probe_names(database) == ["once"]
