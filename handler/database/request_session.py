"""The session of a request: SQLAlchemy's Session, whose transaction only the dependencies of session.py end."""

from functools import cache
from typing import Any, NoReturn
from uuid import UUID

from sqlalchemy import Connection as SqlConnection
from sqlalchemy import Select, bindparam, event, inspect, select
from sqlalchemy.orm import Mapper, Session, SessionTransaction

from handler.database.engine import engine


class ReadOnlySession(Exception):
    """A request whose dependencies use only ReadSessionDep tried to write."""


class SessionEndedByRoute(Exception):
    """A route called or executed `what`, which would end the session's transaction."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"{what} is not allowed in a route: the session dependency commits when the route returns, before the"
            " response is sent, and rolls back when the route raises. Use session.flush() to send changes early, and"
            " session.begin_nested() for a savepoint."
        )


def _forbidden(name: str) -> Any:
    def method(_session: Session, *_: Any, **__: Any) -> NoReturn:
        raise SessionEndedByRoute(f"session.{name}()")

    return method


class RequestSession(Session):
    """SQLAlchemy's Session, in which `commit`, `rollback`, `close` and `begin` raise SessionEndedByRoute.

    A commit in the middle of a request would store half of it: later code may fail, a request that lost a race runs
    again, and an Idempotency-Key would be stored without its response.
    """

    read_only = False
    discarded = False  # the response is an error: nothing of the request is stored
    connection_in_use: SqlConnection | None = None
    is_closed = False
    _is_ending = False
    _transaction_of_request: SessionTransaction | None = None

    def begin_writing(self) -> None:
        """Begin the transaction of the request. Takes no round trip; earlier reads were transactions of their own."""
        if self.read_only:
            self._commit()
            self.read_only = False
        self._transaction_of_request = super().begin()

    def end(self) -> None:
        """Commit. Raises ReadOnlySession or SessionEndedByRoute if a commit would lose changes."""
        if self.read_only:
            self.flush()  # sends nothing, and raises ReadOnlySession if objects were changed
        elif self.get_transaction() is not self._transaction_of_request:
            raise SessionEndedByRoute("Ending the session's transaction")
        else:
            self._commit()

    def check_end(self, what: str) -> None:
        """The connection calls this before `what` ends its transaction. Raises SessionEndedByRoute."""
        if not self._is_ending:
            raise SessionEndedByRoute(what)

    def _commit(self) -> None:
        self._is_ending = True
        super().commit()
        self._is_ending = False

    def begin(self, nested: bool = False) -> SessionTransaction:
        """SQLAlchemy's `begin`, for savepoints only."""
        if not nested:
            raise SessionEndedByRoute("session.begin()")
        return super().begin(nested=True)

    def get(self, entity: Any, ident: Any, **options: Any) -> Any:
        """SQLAlchemy's `get`. A read-only session builds its statement once per entity, and not at each call."""
        if not self.read_only or options or not isinstance(ident, int | str | UUID):
            return super().get(entity, ident, **options)
        mapper, statement = _select_by_id(entity)
        if statement is None or mapper.identity_key_from_primary_key((ident,)) in self.identity_map:
            return super().get(entity, ident)
        return self.scalars(statement, {"ident": ident}).unique().one_or_none()

    commit = _forbidden("commit")
    rollback = _forbidden("rollback")
    close = _forbidden("close")
    reset = _forbidden("reset")
    invalidate = _forbidden("invalidate")


@cache
def _select_by_id(entity: Any) -> tuple[Mapper[Any], Select[Any] | None]:
    mapper = inspect(entity)
    if len(mapper.primary_key) > 1:
        return mapper, None
    return mapper, select(entity).where(mapper.primary_key[0] == bindparam("ident"))


# Reads run without a transaction: each takes one round trip, and a pooler gets its connection back after each. The next
# two listeners do what engine.execution_options(isolation_level="AUTOCOMMIT", postgresql_readonly=True) does. That
# option sets an event of the engine, and then SQLAlchemy looks for listeners in every step of every statement
# (docs/adr/0020).
@event.listens_for(RequestSession, "after_begin")
def _use_connection(session: RequestSession, _transaction: SessionTransaction, connection: SqlConnection) -> None:
    driver: Any = connection.connection.dbapi_connection
    if session.is_closed:  # the request ended while a thread that it started waited for the connection
        connection.close()
        raise SessionEndedByRoute("Using the session after the request")
    driver.before_end = session.check_end
    session.connection_in_use = connection
    if session.read_only:
        # A route that sets an isolation level with session.connection() gets one transaction.
        driver.autocommit, driver.read_only = driver.isolation_level is None, True
    elif driver.autocommit:
        raise SessionEndedByRoute("The isolation level AUTOCOMMIT")


@event.listens_for(engine, "checkin")
def _reset_connection(driver: Any, _record: object) -> None:
    if driver is not None:  # the connection was closed
        # SQLAlchemy does not roll back after a COMMIT that failed on this side: after the deadline, or from a route.
        engine.dialect.do_rollback(driver)
        driver.autocommit = driver.read_only = False
        driver.before_end = None


# The server rejects statements that write (SQLSTATE 25006). Changed objects would be lost without an error.
@event.listens_for(RequestSession, "before_flush")
def _refuse_flush(session: RequestSession, *_: object) -> None:
    if session.read_only and (session.new or session.deleted or any(map(session.is_modified, session.dirty))):
        raise ReadOnlySession("a ReadSessionDep stores no objects that were added, changed or deleted: use SessionDep")
