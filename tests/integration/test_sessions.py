"""The contract of the session dependencies, tested with routes that are added to the real application."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI, HTTPException
from fastapi.exceptions import DependencyScopeError
from sqlalchemy import ForeignKey, delete, func, insert, select, text, update
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship

from handler.database.engine import engine
from handler.database.session import ReadSessionDep, SessionDep, get_read_session, get_session
from tests.support.client import call, create_probe, probe_id, probe_names
from tests.support.probe.models import Probe
from tests.support.proxy import Proxy

Write = Callable[[Any], object]


class Base(DeclarativeBase):
    """The base class of this file's tables, which no migration creates."""


class Shelf(Base):
    __tablename__ = "session_shelves"

    id: Mapped[int] = mapped_column(primary_key=True)
    books: Mapped[list["Book"]] = relationship(back_populates="shelf", cascade="all, delete-orphan")


class Book(Base):
    __tablename__ = "session_books"

    id: Mapped[int] = mapped_column(primary_key=True)
    shelf_id: Mapped[int | None] = mapped_column(ForeignKey(Shelf.id))
    shelf: Mapped[Shelf | None] = relationship(back_populates="books")


@pytest.fixture
def tables(database: Any) -> Iterator[Any]:
    """The tables of this file, with two shelves and one book."""
    Base.metadata.create_all(engine)
    database.run("INSERT INTO session_shelves VALUES (1), (2)")
    database.run("INSERT INTO session_books VALUES (1, 1)")
    yield database
    engine.dispose()
    Base.metadata.drop_all(engine)


def assert_stored(database: Any, *expected: str) -> None:
    """Check that exactly these probes are stored, also after the next request."""
    assert probe_names(database) == [*expected]
    assert engine.pool.checkedout() == 0  # type: ignore[attr-defined] # QueuePool has it
    create_probe("after")
    assert probe_names(database) == [*expected, "after"]


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
        session.execute(insert(Probe).values(name="lost"))
        raise error

    assert call("POST", "/test/raise").status == status
    assert_stored(database)


def test_a_commit_that_fails_is_an_error_response(app: FastAPI, database: Any) -> None:
    """A deferred constraint fails at COMMIT, after the route has returned."""
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
        assert_stored(database)
    finally:
        database.run("DROP TABLE children, parents")


def test_a_change_is_committed_before_the_response(database: Any) -> None:
    assert [create_probe("one")["name"]] == probe_names(database)


def test_sub_dependencies_of_a_request_share_its_session(app: FastAPI) -> None:
    async def sub(session: SessionDep) -> Session:
        return session

    @app.get("/test/share")
    async def _route(session: SessionDep, other: Annotated[Session, Depends(sub)]) -> bool:
        return session is other

    assert call("GET", "/test/share").json is True


@pytest.mark.parametrize("fails", [False, True])
def test_code_after_the_yield_of_a_function_scope_is_in_the_transaction(
    fails: bool, app: FastAPI, database: Any
) -> None:
    async def audit(session: SessionDep) -> AsyncIterator[None]:
        yield
        session.execute(insert(Probe).values(name="audited"))
        if fails:
            raise HTTPException(429)

    @app.post("/test/audit", dependencies=[Depends(audit, scope="function")])
    async def _route(session: SessionDep) -> None:
        session.execute(insert(Probe).values(name="changed"))

    assert call("POST", "/test/audit").status == (429 if fails else 200)
    assert probe_names(database) == ([] if fails else ["changed", "audited"])


@pytest.mark.parametrize("dependency", [SessionDep, ReadSessionDep])
def test_code_that_runs_after_the_response_cannot_use_the_session(app: FastAPI, dependency: Any) -> None:
    async def late(session: dependency) -> AsyncIterator[None]:
        yield
        session.execute(select(1))

    with pytest.raises(DependencyScopeError):

        @app.post("/test/late")
        async def _route(_: Annotated[None, Depends(late)]) -> None: ...


def test_every_request_has_a_session_of_its_own(app: FastAPI) -> None:
    seen = []

    @app.get("/test/own")
    async def _route(session: SessionDep) -> None:
        seen.append(session)

    @app.get("/test/own-reads")
    async def _reads(session: ReadSessionDep) -> None:
        seen.append(session)

    for path in ("/test/own", "/test/own", "/test/own-reads", "/test/own-reads"):
        assert call("GET", path).status == 200
    assert len({id(session) for session in seen}) == 4


# A request has one session: its dependencies share it, and one connection.

READ, WRITE = Depends(get_read_session, scope="function"), Depends(get_session, scope="function")
READ_AGAIN = Depends(get_read_session, use_cache=False, scope="function")
WRITE_AGAIN = Depends(get_session, use_cache=False, scope="function")


@pytest.mark.parametrize(
    ("of_dependency", "of_route"),
    [(READ, WRITE), (WRITE, READ), (READ_AGAIN, WRITE_AGAIN), (WRITE_AGAIN, READ_AGAIN), (WRITE_AGAIN, WRITE_AGAIN)],
    ids=["read, write", "write, read", "read, write, uncached", "write, read, uncached", "write, write, uncached"],
)
def test_a_dependency_and_its_route_share_one_session_and_one_connection(
    of_dependency: Any, of_route: Any, app: FastAPI, proxy: Proxy, database: Any
) -> None:
    create_probe("before")

    async def audit(session: Session = of_dependency) -> AsyncIterator[Session]:
        session.scalars(select(Probe)).one()
        yield session
        assert session.scalar(select(func.count()).select_from(Probe)) == 2

    @app.post("/test/share")
    async def _route(
        audited: Annotated[Session, Depends(audit, scope="function")], session: Session = of_route
    ) -> list[bool]:
        session.add(Probe(name="new"))
        return [session is audited, engine.pool.checkedout() <= 1]  # type: ignore[attr-defined] # QueuePool has it

    with proxy.counting() as count:
        response = call("POST", "/test/share")
    assert (response.status, response.json) == (200, [True, True])
    # The read before, the INSERT that the later read flushes, that read, and COMMIT. BEGIN is sent with the first of
    # them.
    assert (count.round_trips, count.connections) == (4, 0)
    assert_stored(database, "before", "new")


@pytest.mark.parametrize("session_dep", [SessionDep, ReadSessionDep], ids=["SessionDep", "ReadSessionDep"])
@pytest.mark.parametrize("fails", [False, True], ids=["", "fails"])
def test_a_dependency_that_changes_something_after_its_yield_is_in_the_transaction_of_the_route(
    session_dep: Any, fails: bool, app: FastAPI, database: Any
) -> None:
    """The dependency was entered before the route's SessionDep, and the first dependency ends the session."""

    async def audit(session: session_dep) -> AsyncIterator[None]:
        yield
        session.add(Probe(name="audited"))
        if fails:
            raise HTTPException(429)

    @app.post("/test/audit", dependencies=[Depends(audit, scope="function")])
    async def _route(session: SessionDep) -> None:
        session.add(Probe(name="changed"))

    assert call("POST", "/test/audit").status == (429 if fails else 200)
    assert_stored(database, *([] if fails else ["changed", "audited"]))


def test_changes_of_a_read_dependency_are_an_error_if_the_route_writes(
    app: FastAPI, database: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async def touch(session: ReadSessionDep) -> None:
        session.add(Probe(name="lost"))

    @app.post("/test/touch", dependencies=[Depends(touch)])
    async def _route(session: SessionDep) -> None:
        session.add(Probe(name="new"))

    assert call("POST", "/test/touch").status == 500
    (message,) = (record.getMessage() for record in caplog.records if record.levelname == "ERROR")
    assert message.startswith("POST /test/touch: a ReadSessionDep stores no objects")
    assert message.endswith("use SessionDep")
    assert_stored(database)


# ReadSessionDep: changes of a route are an error.


def add_and_catch(session: Any) -> None:
    session.add(Probe(name="x"))
    with suppress(Exception):
        session.flush()


def append_book(shelf: Shelf) -> None:
    shelf.books.append(Book())


def remove_books(shelf: Shelf) -> None:
    shelf.books.clear()


WRITES: dict[str, Write] = {
    "add": lambda session: session.add(Probe(name="x")),
    "add and flush": lambda session: (session.add(Probe(name="x")), session.flush()),
    "add and catch": add_and_catch,
    "add and read": lambda session: (session.add(Probe(name="x")), session.scalars(select(Probe)).all()),
    "merge": lambda session: session.merge(Probe(id=probe_id(1), name="x")),
    "change": lambda session: setattr(session.get(Probe, probe_id(1)), "name", "x"),
    "change what was selected": lambda session: setattr(session.scalars(select(Probe)).one(), "name", "x"),
    "delete": lambda session: session.delete(session.get(Probe, probe_id(1))),
    "append to a relationship": lambda session: append_book(session.get(Shelf, 1)),
    "remove from a relationship": lambda session: remove_books(session.get(Shelf, 1)),
    "point elsewhere": lambda session: setattr(session.get(Book, 1), "shelf", session.get(Shelf, 2)),
    "insert": lambda session: session.execute(insert(Probe).values(name="x")),
    "insert returning": lambda session: session.scalars(insert(Probe).returning(Probe), [{"name": "x"}]).all(),
    "update": lambda session: session.execute(update(Probe).values(name="x")),
    "delete statement": lambda session: session.execute(delete(Probe)),
    "bulk": lambda session: session.bulk_save_objects([Probe(name="x")]),
    "text": lambda session: session.execute(text("DELETE FROM probes")),
    "several in a text": lambda session: session.execute(text("SELECT 1; DELETE FROM probes")),
    "a text that ends the transaction": lambda session: session.execute(text("COMMIT; DELETE FROM probes")),
    "driver": lambda session: session.connection().exec_driver_sql("DELETE FROM probes"),
    "cte": lambda session: session.scalars(select(insert(Probe).values(name="x").returning(Probe.id).cte())).all(),
    "function": lambda session: session.scalar(select(func.write_probe())),
    "lock": lambda session: session.get(Probe, probe_id(1), with_for_update=True),
    "lock statement": lambda session: session.scalars(select(Probe).with_for_update()).all(),
    "sequence": lambda session: session.scalar(select(func.setval("probes_id_seq", 1000))),
    "in a snapshot": lambda session: (
        session.connection(execution_options={"isolation_level": "REPEATABLE READ"}),
        session.connection().exec_driver_sql("DELETE FROM probes"),
    ),
}


@pytest.mark.parametrize("write", WRITES)
def test_a_write_with_a_read_session_is_a_500_whose_log_names_session_dep(
    write: str, app: FastAPI, tables: Any, caplog: pytest.LogCaptureFixture
) -> None:
    tables.run(
        "CREATE OR REPLACE FUNCTION write_probe() RETURNS uuid LANGUAGE sql"
        " AS 'INSERT INTO probes (name) VALUES (''x'') RETURNING id'"
    )
    create_probe("before")

    @app.get("/test/{kind}")
    async def _route(kind: str, session: ReadSessionDep) -> None:
        assert kind == "write"
        WRITES[write](session)

    response = call("GET", "/test/write")
    assert (response.status, response.headers["content-type"]) == (500, "application/problem+json")
    (message,) = (record.getMessage() for record in caplog.records if record.levelname == "ERROR")
    assert message.startswith("GET /test/{kind}: ")
    if write == "a text that ends the transaction":
        assert "COMMIT is not allowed in a route" in message
    else:
        assert "ReadSessionDep" in message
        assert message.endswith("use SessionDep")
    assert tables.run("SELECT shelf_id FROM session_books") == [[1]]
    assert_stored(tables, "before")


def set_again(probe: Probe) -> str:
    probe.name = str(probe.name)
    return probe.name


@pytest.mark.parametrize(
    "read",
    [
        lambda session: session.get(Probe, probe_id(1)).name,
        lambda session: session.get(Probe, probe_id(1), populate_existing=True).name,
        lambda session: session.scalars(select(Probe)).one().name,
        lambda session: session.query(Probe).one().name,
        lambda session: session.scalar(text("SELECT name FROM probes")),
        lambda session: session.scalars(select(Probe).from_statement(text("SELECT * FROM probes"))).one().name,
        lambda session: session.connection().exec_driver_sql("SELECT name FROM probes").scalar_one(),
        lambda session: vars(session.get(Probe, probe_id(1)))["name"],
        lambda session: set_again(session.get(Probe, probe_id(1))),
    ],
    ids=["get", "get again", "select", "query", "text", "from_statement", "driver", "vars", "no change"],
)
def test_a_read_session_reads_in_every_way(read: Callable[[Any], str], app: FastAPI) -> None:
    create_probe("before")

    @app.get("/test/read")
    async def _route(session: ReadSessionDep) -> str:
        return read(session)

    assert call("GET", "/test/read").json == "before"


def test_an_error_of_a_read_route_takes_precedence_over_its_changes(app: FastAPI, database: Any) -> None:
    create_probe("before")

    @app.get("/test/change")
    async def _route(session: ReadSessionDep) -> None:
        session.scalars(select(Probe)).one().name = "after"
        raise HTTPException(418)

    assert call("GET", "/test/change").status == 418
    assert probe_names(database) == ["before"]


# SessionDep: only the dependency ends the transaction.


def begin_again(session: Any) -> None:
    with session.begin():
        session.add(Probe(name="x"))


def use_as_context(session: Any) -> None:
    with session:
        session.add(Probe(name="x"))


def begin_on_connection(session: Any) -> None:
    with session.connection().begin():
        pass


ENDINGS: dict[str, Write] = {
    "session.commit": lambda session: session.commit(),
    "session.rollback": lambda session: session.rollback(),
    "session.close": lambda session: session.close(),
    "session.reset": lambda session: session.reset(),
    "session.invalidate": lambda session: session.invalidate(),
    "session.prepare": lambda session: session.prepare(),
    "session.begin": begin_again,
    "with session": use_as_context,
    "transaction.commit": lambda session: session.get_transaction().commit(),
    "transaction.rollback": lambda session: session.get_transaction().rollback(),
    "transaction.close": lambda session: session.get_transaction().close(),
    "connection.commit": lambda session: session.connection().commit(),
    "connection.rollback": lambda session: session.connection().rollback(),
    "connection.close": lambda session: session.connection().close(),
    "connection.invalidate": lambda session: session.connection().invalidate(),
    "connection.begin": begin_on_connection,
    "its transaction.commit": lambda session: session.connection().get_transaction().commit(),
    "its transaction.rollback": lambda session: session.connection().get_transaction().rollback(),
    "AUTOCOMMIT": lambda session: (
        session.connection(execution_options={"isolation_level": "AUTOCOMMIT"}),
        session.flush(),
    ),
    "COMMIT": lambda session: session.execute(text("COMMIT")),
    "COMMIT AND CHAIN": lambda session: session.execute(text("commit and chain")),
    "behind comments": lambda session: session.execute(text("-- it's done\n /* don't */ COMMIT")),
    "END": lambda session: session.execute(text(" END TRANSACTION")),
    "ROLLBACK": lambda session: session.execute(text("ROLLBACK")),
    "ABORT": lambda session: session.execute(text("ABORT")),
    "PREPARE TRANSACTION": lambda session: session.execute(text("PREPARE TRANSACTION 'it'")),
    "one of several": lambda session: session.execute(text("SELECT 1; COMMIT; SELECT 2")),
    "END of several": lambda session: session.execute(text("SELECT 'it''s'; end; SELECT 'it'")),
    "by the driver": lambda session: session.connection().exec_driver_sql("COMMIT"),
    "of the driver": lambda session: (session.flush(), session.connection().connection.commit()),
}


@pytest.mark.parametrize("is_sent", [False, True], ids=["pending", "flushed"])
@pytest.mark.parametrize("then", ["returns", "adds", "refreshes", "raises"])
@pytest.mark.parametrize("ending", ENDINGS)
def test_a_transaction_that_a_route_ends_is_an_error_and_nothing_is_stored(
    ending: str, then: str, is_sent: bool, app: FastAPI, database: Any
) -> None:
    @app.post("/test/end")
    async def _route(session: SessionDep) -> None:
        probe = Probe(name="x")
        session.add(probe)
        if is_sent:
            session.flush()
        ENDINGS[ending](session)
        if then == "adds":
            session.add(Probe(name="y"))
        if then == "refreshes":
            session.refresh(probe)
        if then == "raises":
            raise HTTPException(418)

    assert call("POST", "/test/end").status in ((500, 418) if then == "raises" else (500,))
    assert_stored(database)


REFUSED = [
    *("session.commit", "session.rollback", "session.close", "session.reset", "session.invalidate", "session.begin"),
    *("with session", "transaction.commit", "transaction.rollback", "connection.commit", "AUTOCOMMIT", "COMMIT"),
    *("ROLLBACK", "one of several", "of the driver"),
]


@pytest.mark.parametrize("ending", REFUSED)
def test_the_error_explains_that_the_dependency_commits(
    ending: str, app: FastAPI, caplog: pytest.LogCaptureFixture
) -> None:
    @app.post("/test/end")
    async def _route(session: SessionDep) -> None:
        session.add(Probe(name="x"))
        if ending != "AUTOCOMMIT":  # SQLAlchemy warns that the connection is already in use
            session.flush()
        ENDINGS[ending](session)

    assert call("POST", "/test/end").status == 500
    (message,) = (record.getMessage() for record in caplog.records if record.levelname == "ERROR")
    assert message.startswith("POST /test/end: ")
    assert "is not allowed in a route: the session dependency commits when the route returns" in message
    assert "session.flush()" in message


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT 'commit; rollback'",
        "SELECT 1 -- ; commit",
        "SELECT 1 /* ; \n commit */",
        'SELECT 1 AS "; commit"',
        "SELECT 1 AS commit",
        "DO $$ BEGIN PERFORM 1; END $$",
        "DO $$ BEGIN PERFORM 1; END; $$;",
        "ROLLBACK TO SAVEPOINT s",
        "rollback work to s",
        "ROLLBACK TRANSACTION TO s",
        "RELEASE s",
        "SAVEPOINT rollback_",
        "SET LOCAL lock_timeout = '1s'; SELECT 1;",
    ],
)
def test_a_statement_that_only_looks_like_the_end_of_a_transaction_runs(
    statement: str, app: FastAPI, database: Any
) -> None:
    @app.post("/test/statement")
    async def _route(session: SessionDep) -> None:
        session.add(Probe(name="x"))
        session.flush()
        session.execute(text("SAVEPOINT s"))
        session.execute(text(statement))

    assert call("POST", "/test/statement").status == 200
    assert probe_names(database) == ["x"]


@pytest.mark.parametrize("fails", [False, True], ids=["returns", "raises"])
def test_savepoints_work_and_end_with_the_request(fails: bool, app: FastAPI, database: Any) -> None:
    @app.post("/test/savepoints")
    async def _route(session: SessionDep) -> None:
        session.add(Probe(name="before"))
        with session.begin_nested():
            session.add(Probe(name="kept"))
        with suppress(IntegrityError), session.begin_nested():
            session.add(Probe(name=""))
        with session.begin_nested() as savepoint:
            session.add(Probe(name="undone"))
            session.flush()
            savepoint.rollback()
        savepoint = session.begin_nested()
        session.add(Probe(name="kept too"))
        savepoint.commit()
        session.begin_nested()  # ends with the transaction
        session.add(Probe(name="last"))
        if fails:
            raise HTTPException(418)

    assert call("POST", "/test/savepoints").status == (418 if fails else 200)
    assert_stored(database, *([] if fails else ["before", "kept", "kept too", "last"]))


@pytest.mark.parametrize(
    "write",
    [
        lambda session: (session.add(Probe(name="")), session.flush()),
        lambda session: session.execute(insert(Probe).values(name="")),
    ],
    ids=["flush", "statement"],
)
@pytest.mark.parametrize("then", ["returns", "raises"])
def test_a_database_error_that_a_route_catches_stores_nothing(
    write: Write, then: str, app: FastAPI, database: Any
) -> None:
    """PostgreSQL has rolled back the transaction. To continue after an error, a route needs a savepoint."""

    @app.post("/test/catch")
    async def _route(session: SessionDep) -> None:
        session.add(Probe(name="before"))
        with suppress(DBAPIError):
            write(session)
        if then == "raises":
            raise HTTPException(418)

    assert call("POST", "/test/catch").status == (418 if then == "raises" else 500)
    assert_stored(database)


def test_a_read_session_with_an_isolation_level_reads_one_snapshot(app: FastAPI, database: Any) -> None:
    seen = []

    @app.get("/test/snapshot")
    async def _route(session: ReadSessionDep) -> None:
        session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
        seen.append(session.scalar(select(func.count()).select_from(Probe)))
        database.run("INSERT INTO probes (name) VALUES ('between')")
        seen.append(session.scalar(select(func.count()).select_from(Probe)))

    assert call("GET", "/test/snapshot").status == 200
    assert seen == [0, 0]


@pytest.mark.parametrize("disposed", [False, True], ids=["", "after a snapshot"])
def test_a_session_can_write_on_the_connection_of_a_read_session(disposed: bool, app: FastAPI, database: Any) -> None:
    if disposed:
        engine.dispose()

    @app.get("/test/reads")
    async def _route(session: ReadSessionDep) -> None:
        session.connection()
        raise HTTPException(418)

    @app.get("/test/undone")
    async def _undone(session: SessionDep) -> None:
        session.add(Probe(name="undone"))
        session.flush()
        raise HTTPException(418)

    create_probe("before")
    assert call("GET", "/test/reads").status == 418
    create_probe("after")
    assert call("GET", "/test/reads").status == 418
    assert call("GET", "/test/undone").status == 418
    assert probe_names(database) == ["before", "after"]


def test_there_is_one_engine_and_importing_it_opens_no_connection() -> None:
    code = (
        "import handler.main; from handler.database import engine, session;"
        "assert session.engine is engine.engine;"
        "assert engine.engine.pool.checkedin() == engine.engine.pool.checkedout() == 0"
    )
    environment = {"DATABASE_URL": "postgresql://nobody@192.0.2.1/nothing", "AUTH_MODE": "none"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
