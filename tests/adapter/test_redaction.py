"""No log record quotes a row, a parameter or text of a client, and each record has the error's type and traceback."""

import asyncio
import contextlib
import enum
import json
import logging
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from pydantic import BaseModel
from sqlalchemy import Enum, Integer, String, TypeDecorator, bindparam, column, insert, literal, select, text
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from handler.database.session import SessionDep
from tests.support.client import call, create_probe
from tests.support.probe.models import Probe

SECRET_TEXT = "MARKED"  # part of every value that no log may show


class Local(DeclarativeBase):
    """A base class of this module, separate from the application's metadata."""


class Secret(Local):
    __tablename__ = "secrets"
    name: Mapped[str] = mapped_column(primary_key=True)


class Colour(enum.Enum):
    RED = "red"


class Refusing(TypeDecorator[str]):
    impl = String
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Any) -> str:  # noqa: ARG002 - SQLAlchemy's
        return str(int(value))


class Refused(Local):
    __tablename__ = "refused"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(Refusing)


class Price(BaseModel):
    amount: int


@pytest.fixture(autouse=True)
def _secrets(database: Any) -> Iterator[None]:
    database.run("CREATE TABLE secrets (name text PRIMARY KEY)")
    database.run(f"INSERT INTO secrets VALUES ('{SECRET_TEXT}')")
    yield
    database.run("DROP TABLE secrets")


def duplicate(session: Session) -> None:
    """PostgreSQL's detail is Key (name)=(MARKED) already exists. The statement also has a literal."""
    session.execute(text(f"INSERT INTO secrets SELECT :name WHERE '{SECRET_TEXT}' <> ''"), {"name": SECRET_TEXT})


def duplicate_as_parameter(session: Session) -> None:
    """As SQLAlchemy writes a statement, without literals."""
    session.execute(insert(Secret).values(name=SECRET_TEXT))


class StorageError(Exception):
    """An exception of the application."""


# --- chains ---


def raised_from(session: Session) -> None:
    try:
        duplicate(session)
    except IntegrityError as error:
        raise StorageError("the reason") from error


def raised_in_an_except(session: Session) -> None:
    try:
        duplicate(session)
    except IntegrityError:
        raise StorageError("the reason")  # noqa: B904 - what is tested


def raised_from_none(session: Session) -> None:
    try:
        duplicate(session)
    except IntegrityError:
        raise StorageError("the reason") from None


def raised_from_a_driver_error(session: Session) -> None:
    try:
        duplicate(session)
    except IntegrityError as error:
        raise StorageError("the reason") from error.orig


def three_deep(session: Session) -> None:
    try:
        raised_from(session)
    except StorageError as error:
        raise RuntimeError("the outer reason") from error


def with_its_text(session: Session) -> None:
    try:
        duplicate(session)
    except IntegrityError as error:
        raise StorageError(f"the reason: {error}") from error


def in_a_group(session: Session) -> None:
    try:
        duplicate(session)
    except IntegrityError as error:
        raise ExceptionGroup("the reason", [StorageError("another"), error])  # noqa: B904 - what is tested


def in_a_group_of_groups(session: Session) -> None:
    try:
        in_a_group(session)
    except ExceptionGroup as error:
        raise ExceptionGroup("the reason", [error, StorageError("another")]) from error


def with_notes(session: Session) -> None:
    try:
        duplicate(session)
    except IntegrityError as error:
        error.add_note(f"while storing {SECRET_TEXT}")
        reason = StorageError("the reason")
        reason.add_note(f"it was {error}")
        raise reason from error


def in_a_cycle(session: Session) -> None:
    try:
        duplicate(session)
    except IntegrityError as error:
        reason = StorageError("the reason")
        error.__cause__ = reason
        raise reason from error


# --- texts of the server, SQLAlchemy, pydantic and Python ---


def a_message_of_a_function(session: Session) -> None:
    session.execute(text("DO $$ BEGIN RAISE EXCEPTION '%', (SELECT name FROM secrets); END $$"))


def a_message_of_a_function_with_the_sqlstate_of_a_connection(session: Session) -> None:
    statement = "DO $$ BEGIN RAISE EXCEPTION '%', (SELECT name FROM secrets) USING ERRCODE = '54023'; END $$"
    session.execute(text(statement))


def an_internal_error(session: Session) -> None:
    statement = "DO $$ BEGIN RAISE EXCEPTION '%', (SELECT name FROM secrets) USING ERRCODE = 'XX000'; END $$"
    session.execute(text(statement))


def a_missing_column(session: Session) -> None:
    session.execute(text(f"SELECT name FROM secrets WHERE name = {SECRET_TEXT.lower()}"))


def a_syntax_error(session: Session) -> None:
    session.execute(text(f"SELECT name FROM secrets WHERE name = 'O'{SECRET_TEXT}'"))


def a_literal_in_a_statement(session: Session) -> None:
    session.connection().exec_driver_sql(f"INSERT INTO nothing VALUES ('{SECRET_TEXT}') -- {SECRET_TEXT}")


def a_division(session: Session) -> None:
    session.execute(text(f"SELECT 1 / 0, '{SECRET_TEXT}', $${SECRET_TEXT}$$"))


def a_session_that_had_failed(session: Session) -> None:
    session.add(Secret(name=SECRET_TEXT))
    with contextlib.suppress(IntegrityError):
        session.flush()
    session.execute(text("SELECT 1"))


def a_session_that_had_failed_because_of_a_parameter(session: Session) -> None:
    session.add(Refused(id=1, name=SECRET_TEXT))
    with contextlib.suppress(SQLAlchemyError):
        session.flush()
    session.execute(text("SELECT 1"))


def a_session_that_had_failed_without_a_with_block(session: Session) -> None:
    with Session(session.get_bind()) as other:
        other.add(Secret(name=SECRET_TEXT))
        with contextlib.suppress(IntegrityError):
            other.flush()
        other.execute(text("SELECT 1"))


def a_parameter_that_its_type_refuses(session: Session) -> None:
    session.execute(select(bindparam("value", SECRET_TEXT, Refusing())))


def a_parameter_that_an_enum_lacks(session: Session) -> None:
    session.execute(select(literal(SECRET_TEXT, Enum(Colour, native_enum=False, validate_strings=True))))


def a_stored_value_that_an_enum_lacks(session: Session) -> None:
    session.scalars(select(column("name", Enum(Colour, native_enum=False))).select_from(text("secrets"))).all()


def a_literal_that_cannot_be_written(session: Session) -> None:
    statement = select(literal(SECRET_TEXT, Integer))
    statement.compile(session.get_bind(), compile_kwargs={"literal_binds": True})


def a_validation_of_a_model(_session: Session) -> None:
    Price.model_validate({"amount": SECRET_TEXT})


def a_validation_that_caused_another_error(_session: Session) -> None:
    try:
        Price.model_validate({"amount": SECRET_TEXT})
    except ValueError as error:
        raise StorageError(f"the reason: {error}") from error


def a_text_that_is_not_a_number(session: Session) -> None:
    int(session.scalar(text("SELECT name FROM secrets")))


def a_key_of_a_dictionary(session: Session) -> None:
    {}[session.scalar(text("SELECT name FROM secrets"))]


def an_invalid_time_in_a_library(session: Session) -> None:
    from datetime import datetime

    datetime.strptime(session.scalar(text("SELECT name FROM secrets")) or "", "%Y").astimezone()


FAILURES: dict[Callable[[Session], None], list[str]] = {
    raised_from: ["IntegrityError: 23505 [INSERT]", "in duplicate", "StorageError: the reason"],
    raised_in_an_except: ["IntegrityError: 23505 [INSERT]", "StorageError: the reason"],
    raised_from_none: ["StorageError: the reason"],
    raised_from_a_driver_error: ["IntegrityError: 23505", "StorageError: the reason"],
    three_deep: ["IntegrityError: 23505 [INSERT]", "StorageError: the reason", "RuntimeError: the outer reason"],
    with_its_text: ["IntegrityError: 23505 [INSERT]", "StorageError: the reason: 23505 [INSERT]"],
    in_a_group: ["IntegrityError: 23505 [INSERT]", "StorageError: another", "ExceptionGroup: the reason"],
    in_a_group_of_groups: ["IntegrityError: 23505 [INSERT]", "ExceptionGroup: the reason (2 sub-exceptions)"],
    with_notes: ["IntegrityError: 23505 [INSERT]", "StorageError: the reason", "it was 23505 [INSERT]"],
    in_a_cycle: ["IntegrityError: 23505 [INSERT]", "StorageError"],
    a_message_of_a_function: ["DatabaseError: P0001 [DO]"],
    a_message_of_a_function_with_the_sqlstate_of_a_connection: ["54023 [DO]"],
    an_internal_error: ["InternalError: XX000 [DO]"],
    a_missing_column: ["ProgrammingError: 42703 [SELECT]"],
    a_syntax_error: ["ProgrammingError: 42601 [SELECT]"],
    a_literal_in_a_statement: ["ProgrammingError: 42P01 [INSERT]"],
    a_session_that_had_failed: ["PendingRollbackError: This Session's transaction has been rolled back"],
    a_session_that_had_failed_because_of_a_parameter: [
        "PendingRollbackError: This Session's transaction has been rolled back"
    ],
    a_session_that_had_failed_without_a_with_block: ["PendingRollbackError: This Session's transaction"],
    a_parameter_that_its_type_refuses: ["StatementError: ValueError [SELECT]", "in process_bind_param"],
    a_parameter_that_an_enum_lacks: ["StatementError: LookupError [SELECT]"],
    a_stored_value_that_an_enum_lacks: ["LookupError"],
    a_literal_that_cannot_be_written: ["CompileError"],
    a_validation_of_a_model: ["ValidationError: amount int_parsing"],
    a_validation_that_caused_another_error: ["ValidationError: amount int_parsing", "StorageError: the reason: amount"],
    a_text_that_is_not_a_number: ["ValueError"],
    a_key_of_a_dictionary: ["KeyError"],
    an_invalid_time_in_a_library: ["ValueError"],
}


def as_lambda_formats(records: list[logging.LogRecord]) -> str:
    """The text that Lambda's runtime writes for the exception of a record: its type, text and traceback."""
    runtime = pytest.importorskip("awslambdaric.lambda_runtime_log_utils", reason="the runtime is not installed")
    formatter = runtime.JsonFormatter()
    return "".join(formatter.format(record) for record in records)


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: failure.__name__)
def test_a_failure_is_logged_with_types_and_traceback_and_without_values(
    failure: Callable[[Session], None], app: FastAPI, caplog: pytest.LogCaptureFixture
) -> None:
    @app.put("/test/{number}")
    async def _route(session: SessionDep, number: int) -> None:
        assert number == 7
        failure(session)

    response = call("PUT", "/test/7")
    assert response.status == 500
    (record,) = caplog.records
    assert record.getMessage().startswith("PUT /test/{number}: unexpected ")
    for logged in (caplog.text, as_lambda_formats(caplog.records), response.body.decode()):
        assert SECRET_TEXT.lower() not in logged.lower()
    for expected in FAILURES[failure]:
        assert expected in caplog.text
    assert re.search(rf'test_redaction\.py", line \d+, in {failure.__name__}\n', caplog.text)
    assert json.loads(as_lambda_formats(caplog.records))["errorType"] in caplog.text
    assert create_probe("after")["name"] == "after"


def test_the_tables_of_the_application_are_named(app: FastAPI, caplog: pytest.LogCaptureFixture, database: Any) -> None:
    """The traceback of a flush has no line of the route, so the statement is shown."""
    database.run(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION '%', NEW.name; END $$;"
        "CREATE TRIGGER refuse BEFORE INSERT ON probes FOR EACH ROW EXECUTE FUNCTION refuse()"
    )
    try:

        @app.post("/test/flush")
        async def _route(session: SessionDep) -> None:
            session.add(Probe(name=SECRET_TEXT))

        assert call("POST", "/test/flush").status == 500
    finally:
        database.run("DROP TRIGGER refuse ON probes; DROP FUNCTION refuse")
    assert "DatabaseError: P0001 [INSERT probes]" in caplog.text
    assert SECRET_TEXT not in caplog.text


def test_the_log_line_of_an_outage_has_no_message_of_a_function(app: FastAPI, caplog: pytest.LogCaptureFixture) -> None:
    @app.post("/test/raise/{code}")
    async def _route(session: SessionDep, code: str) -> None:
        statement = f"DO $$ BEGIN RAISE EXCEPTION '{SECRET_TEXT}' USING ERRCODE = '{code}'; END $$"
        session.execute(text(statement))

    for code in ("08006", "28000", "53300", "57P01", "57014", "40001", "55P03", "25P03"):
        caplog.clear()
        assert call("POST", f"/test/raise/{code}").status == 503
        assert [record.getMessage() for record in caplog.records] == [f"database: {code}"]


def test_texts_that_the_application_writes_are_logged_unchanged(app: FastAPI, caplog: pytest.LogCaptureFixture) -> None:
    error = ValueError("the reason")
    error.add_note("a note")

    def first() -> None:
        raise LookupError("the first reason")

    @app.get("/test/written")
    async def _route() -> None:
        try:
            first()
        except LookupError as reason:
            raise error from reason

    assert call("GET", "/test/written").status == 500
    (record,) = caplog.records
    assert record.exc_info
    assert record.exc_info[1] is error, "nothing was copied"
    for expected in ("LookupError: the first reason", "ValueError: the reason", "a note"):
        assert expected in caplog.text


class Broken(Exception):
    def __str__(self) -> str:
        raise RuntimeError(SECRET_TEXT)


def test_an_exception_whose_text_cannot_be_read_is_logged_by_its_type(
    app: FastAPI, caplog: pytest.LogCaptureFixture
) -> None:
    @app.post("/test/broken")
    async def _route(session: SessionDep) -> None:
        try:
            duplicate(session)
        except IntegrityError as error:
            raise Broken from error

    assert call("POST", "/test/broken").status == 500
    assert "Broken" in caplog.text
    assert "in _route" in caplog.text
    assert SECRET_TEXT not in caplog.text


def test_a_long_chain_is_logged(app: FastAPI, caplog: pytest.LogCaptureFixture) -> None:
    @app.post("/test/long")
    async def _route(session: SessionDep) -> None:
        error: BaseException | None = None
        try:
            duplicate(session)
        except IntegrityError as first:
            error = first
        for number in range(3000):
            nested = StorageError(f"reason {number}")
            nested.__cause__, error = error, nested
        assert error is not None
        raise error

    assert call("POST", "/test/long").status == 500
    assert "StorageError" in caplog.text
    assert SECRET_TEXT not in caplog.text
    assert create_probe("after")["name"] == "after"


# --- every way of logging ---

logger = logging.getLogger("an.application")
LOG_CALLS: dict[str, Callable[[Exception], None]] = {
    "as exc_info": lambda error: logger.warning("it failed", exc_info=error),
    "as the message": logger.error,
    "as an argument": lambda error: logger.error("it failed: %s", error),
    "as a repr": lambda error: logger.error("it failed: %r", error),
    "as a named argument": lambda error: logger.error("it failed: %(error)s", {"error": error}),
    "by the root": lambda error: logging.getLogger().error("it failed", exc_info=error),
    "by Mangum": lambda error: logging.getLogger("mangum.http").error("it failed", exc_info=error),
    "by the pool": lambda error: logging.getLogger("sqlalchemy.pool.QueuePool").error("it failed", exc_info=error),
    "by asyncio": lambda error: asyncio.get_running_loop().call_exception_handler(
        {"message": "it failed", "exception": error}
    ),
}


# A record with text and without an exception cannot be redacted.
TEXTS: dict[str, Callable[[Exception], None]] = {
    "in an f-string": lambda error: logger.error(f"it failed: {error}"),  # noqa: G004 - what is tested
    "as a repr in an f-string": lambda error: logger.error(f"it failed: {error!r}"),  # noqa: G004
    "the driver's, in an f-string": lambda error: logger.error(f"{error.__cause__!r} {error.__cause__}"),  # noqa: G004
}


@pytest.mark.parametrize("log_call", [*LOG_CALLS, *TEXTS])
def test_a_database_error_is_logged_without_values_in_every_way_of_logging(
    log_call: str, app: FastAPI, caplog: pytest.LogCaptureFixture
) -> None:
    @app.post("/test/log")
    async def _route(session: SessionDep) -> None:
        try:
            with session.begin_nested():
                (duplicate if log_call in LOG_CALLS else duplicate_as_parameter)(session)
        except SQLAlchemyError as error:
            (LOG_CALLS | TEXTS)[log_call](error)
            logger.exception("and in an except")

    assert call("POST", "/test/log").status == 200
    assert len(caplog.records) == 2
    for record in caplog.records:
        logged = as_lambda_formats([record])
        assert "23505" in logged
        assert SECRET_TEXT not in logged
    assert SECRET_TEXT not in caplog.text


class Stop(BaseException):
    """An exception that no exception handler of the application handles."""


def test_log_records_of_mangum_are_redacted(app: FastAPI, caplog: pytest.LogCaptureFixture) -> None:
    @app.post("/test/stop")
    async def _route(session: SessionDep) -> None:
        try:
            duplicate(session)
        except IntegrityError as error:
            raise Stop("the reason") from error

    assert call("POST", "/test/stop").status == 500
    (record,) = caplog.records
    assert record.name == "mangum.http"
    assert "Stop: the reason" in caplog.text
    assert "IntegrityError: 23505 [INSERT]" in caplog.text
    assert SECRET_TEXT not in caplog.text
