"""The session of a request: one per request, committed before the response is sent.

FastAPI runs the code after a dependency's `yield` after the response was sent, unless the dependency has
`scope="function"`. With it, a commit that fails becomes an error response, and every 2xx is stored (docs/adr/0001).

All dependencies of a request share its session. Where every one of them asks for `ReadSessionDep`, each statement runs
in a read-only transaction of its own, in one round trip. As soon as one asks for `SessionDep`, the session has one
transaction, which ends with the request.
"""

from collections.abc import AsyncIterator
from functools import cache
from typing import Annotated, Any, NoReturn
from uuid import UUID

from fastapi import Depends, Request
from sqlalchemy import Connection as SqlConnection
from sqlalchemy import Select, bindparam, event, inspect, select
from sqlalchemy.orm import Mapper, Session, SessionTransaction

from handler.database.engine import engine

# Keys of the ASGI scope: the session of the request, whether it can write, and whether it ended as it should.
SESSION, IS_WRITING, IS_ENDED = "database.session", "database.is_writing", "database.is_ended"


class ReadOnlySession(Exception):
    """A request that declares only ReadSessionDep tried to write."""


class SessionEndedByRoute(Exception):
    """A route ends the session's transaction by `what`."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"{what} is not for routes: the session dependency commits when the route returns, before the response is"
            " sent, and rolls back when the route raises. Use session.flush() to send changes early, and"
            " session.begin_nested() for a savepoint."
        )


def _refuse_to_end(name: str) -> Any:
    def refuse(_session: Session, *_: Any, **__: Any) -> NoReturn:
        raise SessionEndedByRoute(f"session.{name}()")

    return refuse


class RequestSession(Session):
    """SQLAlchemy's Session, whose transaction only the dependency below ends.

    A commit in the middle of a request would store half of it: what follows may fail, a lost race is repeated, and an
    Idempotency-Key would be stored without its response.
    """

    read_only = False
    discarded = False  # the response is an error: nothing of the request is stored
    taken: SqlConnection | None = None
    is_closed = False
    _is_ending = False
    _transaction_of_request: SessionTransaction | None = None

    def begin_writing(self) -> None:
        """Begin the transaction of the request, after what was read without one; no round trip."""
        if self.read_only:
            self._commit()
            self.read_only = False
        self._transaction_of_request = super().begin()

    def end(self) -> None:
        """Commit. Raises ReadOnlySession or SessionEndedByRoute where what was changed would be lost."""
        if self.read_only:
            self.flush()  # sends nothing: raises where objects were changed
        elif self.get_transaction() is not self._transaction_of_request:
            raise SessionEndedByRoute("Ending the session's transaction")
        else:
            self._commit()

    def check_end(self, what: str) -> None:
        """Called by the connection, before `what` ends its transaction. Raises SessionEndedByRoute."""
        if not self._is_ending:
            raise SessionEndedByRoute(what)

    def _commit(self) -> None:
        self._is_ending = True
        super().commit()
        self._is_ending = False

    def begin(self, nested: bool = False) -> SessionTransaction:
        """SQLAlchemy's, for a savepoint."""
        if not nested:
            raise SessionEndedByRoute("session.begin()")
        return super().begin(nested=True)

    def get(self, entity: Any, ident: Any, **options: Any) -> Any:
        """SQLAlchemy's, which builds and compares its statement at each call; here a read builds it once per entity."""
        if not self.read_only or options or not isinstance(ident, int | str | UUID):
            return super().get(entity, ident, **options)
        mapper, statement = _select_by_id(entity)
        if statement is None or mapper.identity_key_from_primary_key((ident,)) in self.identity_map:
            return super().get(entity, ident)
        return self.scalars(statement, {"ident": ident}).unique().one_or_none()

    commit = _refuse_to_end("commit")
    rollback = _refuse_to_end("rollback")
    close = _refuse_to_end("close")
    reset = _refuse_to_end("reset")
    invalidate = _refuse_to_end("invalidate")


# Reads run without a transaction: one round trip, and a pooler has its connection back at once. These two listeners do
# what engine.execution_options(isolation_level="AUTOCOMMIT", postgresql_readonly=True) does, which needs an event of
# the engine: with any of those, SQLAlchemy looks for listeners at every step of every statement (docs/adr/0020).
@event.listens_for(RequestSession, "after_begin")
def _take_connection(session: RequestSession, _transaction: SessionTransaction, connection: SqlConnection) -> None:
    driver: Any = connection.connection.dbapi_connection
    if session.is_closed:  # by the request, while a thread that was left behind waited for the connection
        connection.close()
        raise SessionEndedByRoute("Using the session after the request")
    driver.before_end = session.check_end
    session.taken = connection
    if session.read_only:
        # A route that asks for an isolation level, on session.connection(), wants one transaction and has it.
        driver.autocommit, driver.read_only = driver.isolation_level is None, True
    elif driver.autocommit:
        raise SessionEndedByRoute("The isolation level AUTOCOMMIT")


@event.listens_for(engine, "checkin")
def _reset_connection(driver: Any, _record: object) -> None:
    if driver is not None:  # the connection was closed
        # SQLAlchemy leaves it out after a COMMIT that was not sent: no time was left, or a route's.
        engine.dialect.do_rollback(driver)
        driver.autocommit = driver.read_only = False
        driver.before_end = None


# The server refuses a statement that writes (SQLSTATE 25006); objects that are not flushed would be lost silently.
@event.listens_for(RequestSession, "before_flush")
def _refuse_flush(session: RequestSession, *_: object) -> None:
    if session.read_only and (session.new or session.deleted or any(map(session.is_modified, session.dirty))):
        raise ReadOnlySession("a ReadSessionDep stores no objects that were added, changed or deleted: use SessionDep")


async def get_session(request: Request) -> AsyncIterator[Session]:
    """A session in a transaction: committed when the route returns, rolled back on any exception, cancellation too."""
    session, is_new = _session_of(request)
    if is_new or session.read_only:
        session.begin_writing()
        request.scope[IS_WRITING] = True
    if not is_new:
        yield session
        return
    try:
        yield session
        _end(request, session)
    finally:
        _close(request, session)


async def get_read_session(request: Request) -> AsyncIterator[Session]:
    """A session that only reads, unless another dependency of the same request asks for SessionDep."""
    session, is_new = _session_of(request)
    if not is_new:
        yield session
        return
    session.read_only = True
    try:
        yield session
        _end(request, session)
    finally:
        _close(request, session)


def discard(request: Request) -> None:
    """Store nothing of the request, whatever its dependencies do with the exception: its response is an error."""
    session: RequestSession | None = request.scope.get(SESSION)
    if session is not None:
        session.discarded = True


@cache
def _select_by_id(entity: Any) -> tuple[Mapper[Any], Select[Any] | None]:
    mapper = inspect(entity)
    if len(mapper.primary_key) > 1:
        return mapper, None
    return mapper, select(entity).where(mapper.primary_key[0] == bindparam("ident"))


def _session_of(request: Request) -> tuple[RequestSession, bool]:
    """The request's session, and whether it is new: the dependency that makes it ends it, after all others."""
    session: RequestSession | None = request.scope.get(SESSION)
    if session is not None:
        return session, False
    # Responses are made from objects after the flush; expired, each would be read again, in a second transaction.
    # A closed session refuses to be used: by a background task it would hold a connection that no code gives back.
    session = RequestSession(engine, expire_on_commit=False, close_resets_only=False)
    request.scope[SESSION], request.scope[IS_ENDED] = session, False
    return session, True


def _end(request: Request, session: RequestSession) -> None:
    if not session.discarded:
        session.end()
        request.scope[IS_ENDED] = True


def _close(request: Request, session: RequestSession) -> None:
    del request.scope[SESSION]  # which would keep both alive until the next garbage collection
    session.is_closed = True
    try:
        Session.close(session)
    except Exception:
        # A thread that was left behind uses the session; the pool must have its connection back all the same.
        if session.taken is not None:
            session.taken.invalidate()
            session.taken.close()
        raise


# With this scope, FastAPI refuses a dependency that would use the session after the response (test_sessions.py).
SessionDep = Annotated[Session, Depends(get_session, scope="function")]
ReadSessionDep = Annotated[Session, Depends(get_read_session, scope="function")]
