"""The session's contract, through routes that are added to the real application for a test."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI, HTTPException
from fastapi.exceptions import DependencyScopeError
from sqlalchemy import func, insert, select, text
from sqlalchemy.orm import Session

from handler.database.engine import engine
from handler.database.session import ReadOnlySession, ReadSessionDep, SessionDep
from handler.items.models import Item
from tests.client import call, create


def names(database: Any) -> list[str]:
    return [row[0] for row in database.run("SELECT name FROM items ORDER BY id")]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (HTTPException(409), 409),
        (RuntimeError("boom"), 500),
        (asyncio.CancelledError(), 500),
        (KeyboardInterrupt(), 500),
    ],
    ids=lambda value: type(value).__name__,
)
def test_any_exception_rolls_back(error: BaseException, status: int, app: FastAPI, database: Any) -> None:
    @app.post("/test/raise")
    async def _route(session: SessionDep) -> None:
        session.execute(insert(Item).values(name="lost"))
        raise error

    assert call("POST", "/test/raise").status == status
    assert names(database) == []
    assert engine.pool.checkedout() == 0  # type: ignore[attr-defined] # QueuePool has it
    assert create("after")["name"] == "after"


def test_a_commit_that_fails_is_no_2xx(app: FastAPI, database: Any) -> None:
    """A deferred constraint lets the insert pass and refuses at COMMIT, when the route has long returned."""
    database.run("CREATE TABLE parents (id int PRIMARY KEY)")
    database.run("CREATE TABLE children (id int REFERENCES parents DEFERRABLE INITIALLY DEFERRED)")
    try:

        @app.post("/test/commit")
        async def _route(session: SessionDep) -> dict[str, str]:
            session.execute(text("INSERT INTO children VALUES (1)"))
            return {"stored": "it says"}

        response = call("POST", "/test/commit")
        assert response.status == 409
        assert response.json["constraint"] == "children_id_fkey"
        assert database.run("SELECT * FROM children") == []
        assert create("after")["name"] == "after"
    finally:
        database.run("DROP TABLE children, parents")


def test_what_is_answered_is_stored_already(database: Any) -> None:
    assert [create("one")["name"]] == names(database)


def test_sub_dependencies_of_a_request_share_its_session(app: FastAPI) -> None:
    async def sub(session: SessionDep) -> Session:
        return session

    @app.get("/test/share")
    async def _route(session: SessionDep, other: Annotated[Session, Depends(sub)]) -> bool:
        return session is other

    assert call("GET", "/test/share").json is True


@pytest.mark.parametrize("fails", [False, True])
def test_what_follows_a_yield_of_scope_function_is_in_the_transaction(fails: bool, app: FastAPI, database: Any) -> None:
    async def audit(session: SessionDep) -> AsyncIterator[None]:
        yield
        session.execute(insert(Item).values(name="audited"))
        if fails:
            raise HTTPException(429)

    @app.post("/test/audit", dependencies=[Depends(audit, scope="function")])
    async def _route(session: SessionDep) -> None:
        session.execute(insert(Item).values(name="changed"))

    assert call("POST", "/test/audit").status == (429 if fails else 200)
    assert names(database) == ([] if fails else ["changed", "audited"])


@pytest.mark.parametrize("dependency", [SessionDep, ReadSessionDep])
def test_what_follows_a_yield_after_the_answer_has_no_session(app: FastAPI, dependency: Any) -> None:
    async def late(session: dependency) -> AsyncIterator[None]:
        yield
        session.execute(select(1))

    with pytest.raises(DependencyScopeError):

        @app.post("/test/late")
        async def _route(_: Annotated[None, Depends(late)]) -> None: ...


def test_an_override_that_no_route_would_see_is_refused(app: FastAPI) -> None:
    with pytest.raises(TypeError):
        app.dependency_overrides[SessionDep] = lambda: None


def test_every_request_has_a_session_of_its_own(app: FastAPI) -> None:
    seen = []

    @app.get("/test/own")
    async def _route(session: SessionDep, reads: ReadSessionDep) -> None:
        seen.extend([session, reads])

    call("GET", "/test/own")
    call("GET", "/test/own")
    assert len({id(session) for session in seen}) == 4


@pytest.mark.parametrize(
    "write",
    [
        lambda session: session.execute(insert(Item).values(name="x")),
        lambda session: session.execute(text("DELETE FROM items")),
        lambda session: (session.add(Item(name="x")), session.flush()),
        lambda session: (session.add(Item(name="x")), session.commit()),
    ],
    ids=["insert", "text", "flush", "commit"],
)
def test_a_read_session_refuses_to_write(write: Any, app: FastAPI, database: Any) -> None:
    raised = []

    @app.get("/test/write")
    async def _route(session: ReadSessionDep) -> None:
        with pytest.raises(ReadOnlySession) as error:
            write(session)
        raised.append(error)

    assert call("GET", "/test/write").status == 200
    assert raised
    assert names(database) == []


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT write_item()",
        "WITH written AS (INSERT INTO items (name) VALUES ('x') RETURNING id) SELECT id FROM written",
        "INSERT INTO items (name) VALUES ('x') RETURNING id",
    ],
)
def test_the_server_refuses_what_a_read_session_does_not_see_through(
    statement: str, app: FastAPI, database: Any
) -> None:
    database.run(
        "CREATE OR REPLACE FUNCTION write_item() RETURNS bigint LANGUAGE sql"
        " AS 'INSERT INTO items (name) VALUES (''x'') RETURNING id'"
    )

    @app.get("/test/write")
    async def _route(session: ReadSessionDep) -> None:
        session.connection().exec_driver_sql(statement)

    assert call("GET", "/test/write").status == 500
    assert names(database) == []
    assert create("after")["name"] == "after"
    database.run("DROP FUNCTION write_item")


def test_a_read_session_s_objects_are_not_stored_when_they_are_changed(app: FastAPI, database: Any) -> None:
    create("before")

    @app.get("/test/change")
    async def _route(session: ReadSessionDep) -> None:
        session.scalars(select(Item)).one().name = "after"

    assert call("GET", "/test/change").status == 200
    assert names(database) == ["before"]


def test_a_read_session_reads_one_snapshot_where_an_isolation_level_is_asked_for(app: FastAPI, database: Any) -> None:
    seen = []

    @app.get("/test/snapshot")
    async def _route(session: ReadSessionDep) -> None:
        session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
        seen.append(session.scalar(select(func.count()).select_from(Item)))
        database.run("INSERT INTO items (name) VALUES ('between')")
        seen.append(session.scalar(select(func.count()).select_from(Item)))

    assert call("GET", "/test/snapshot").status == 200
    assert seen == [0, 0]


@pytest.mark.parametrize("disposed", [False, True], ids=["", "after a snapshot"])
def test_a_session_writes_on_the_connection_that_a_read_session_had(
    disposed: bool, app: FastAPI, database: Any
) -> None:
    if disposed:
        engine.dispose()

    @app.get("/test/reads")
    async def _route(session: ReadSessionDep) -> None:
        session.connection()
        raise HTTPException(418)

    @app.get("/test/undone")
    async def _undone(session: SessionDep) -> None:
        session.add(Item(name="undone"))
        session.flush()
        raise HTTPException(418)

    create("before")
    assert call("GET", "/test/reads").status == 418
    create("after")
    assert call("GET", "/test/reads").status == 418
    assert call("GET", "/test/undone").status == 418
    assert names(database) == ["before", "after"]


def test_the_engine_is_one_and_is_made_without_connecting() -> None:
    code = (
        "from handler.database import engine, session; import handler.main;"
        "assert session._write_sessions.kw['bind'] is engine.engine;"
        "assert session._read_sessions.kw['bind'].pool is engine.engine.pool;"
        "assert engine.engine.pool.checkedin() == engine.engine.pool.checkedout() == 0"
    )
    environment = {"DATABASE_URL": "postgresql://nobody@192.0.2.1/nothing", "AUTH_MODE": "none"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
