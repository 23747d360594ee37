"""A fresh session for every request, committed before the answer leaves.

FastAPI runs what follows a `yield` after the answer is sent, unless the dependency's scope is "function": then a
commit that fails turns into an error answer, and every 2xx is stored (docs/adr/0001). The sessions here are put on the
stack that FastAPI has for that scope, which is what it does with such a dependency at greater cost; the stack's name is
FastAPI's own (docs/adr/0020).
"""

from contextlib import AbstractContextManager, AsyncExitStack
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Request
from sqlalchemy import Connection as SqlConnection
from sqlalchemy import event
from sqlalchemy.orm import ORMExecuteState, Session, SessionTransaction, sessionmaker

from handler.database.engine import engine

Opened = TypeVar("Opened")


class ReadSession(Session):
    """A session that only reads: what is not a SELECT raises ReadOnlySession."""


class ReadOnlySession(Exception):
    """A route that declared ReadSessionDep tried to write; it wants SessionDep."""


# Answers are made of rows after the commit; expired, each would be read again, in a second transaction.
_write_sessions = sessionmaker(engine, expire_on_commit=False)
_read_sessions = sessionmaker(engine, class_=ReadSession, expire_on_commit=False, autoflush=False)


# Reads run without a transaction: one round trip, and a pooler has its connection back at once. These two are what
# engine.execution_options(isolation_level="AUTOCOMMIT", postgresql_readonly=True) does, which hangs on an event of
# the engine: one that has any asks for listeners at every step of every statement, a tenth of a GET (docs/adr/0020).
@event.listens_for(_read_sessions, "after_begin")
def _only_read(_session: Session, _transaction: SessionTransaction, connection: SqlConnection) -> None:
    driver: Any = connection.connection.dbapi_connection
    # A route that asks for an isolation level, on session.connection(), wants one transaction and has it.
    driver.autocommit, driver.read_only = driver.isolation_level is None, True


@event.listens_for(engine, "checkin")
def _write_again(driver: Any, _record: object) -> None:
    if driver is not None:  # it was closed
        driver.autocommit = driver.read_only = False


@event.listens_for(_read_sessions, "do_orm_execute")
def _only_select(state: ORMExecuteState) -> None:
    if not state.is_select:
        raise ReadOnlySession("a ReadSessionDep executes only select(); use SessionDep to write")


@event.listens_for(_read_sessions, "before_flush")
def _no_flush(*_: object) -> None:
    raise ReadOnlySession("a ReadSessionDep does not store objects; use SessionDep to write")


async def _session(request: Request) -> Session:
    # begin() commits on the way out and rolls back on any exception, cancellation included.
    return _enter(request, _write_sessions.begin())


async def _read_session(request: Request) -> ReadSession:
    return _enter(request, _read_sessions())


def _enter(request: Request, session: AbstractContextManager[Opened]) -> Opened:
    stack: AsyncExitStack = request.scope["fastapi_function_astack"]
    return stack.enter_context(session)


# With the scope, FastAPI refuses a dependency that would use the session after the answer (test_sessions.py).
SessionDep = Annotated[Session, Depends(_session, scope="function")]
ReadSessionDep = Annotated[ReadSession, Depends(_read_session, scope="function")]
