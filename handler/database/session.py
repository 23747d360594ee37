"""The session dependencies. A request has one session, which is committed before the response is sent.

By default, FastAPI runs the code after a dependency's `yield` after the response was sent. With `scope="function"` it
runs before, so a commit that fails becomes an error response, and every 2xx is stored (docs/adr/0001).

All dependencies of a request share one session (docs/adr/0030). If they all use `ReadSessionDep`, each statement runs
in a read-only transaction of its own, in one round trip. If one of them uses `SessionDep`, the session has one
transaction, which ends with the request.
"""

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Depends, Request
from sqlalchemy.orm import Session

from handler.database.engine import engine
from handler.database.request_session import RequestSession

# Keys of the ASGI scope: the session of the request, whether it can write, and whether `end` succeeded.
SESSION, IS_WRITING, IS_ENDED = "database.session", "database.is_writing", "database.is_ended"


async def get_session(request: Request) -> AsyncIterator[Session]:
    """A session in a transaction. It is committed when the route returns, and rolled back on any exception."""
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
    """A read-only session, unless another dependency of the request uses SessionDep."""
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
    """Store nothing of the request, also if a dependency catches the exception: the response is an error."""
    session: RequestSession | None = request.scope.get(SESSION)
    if session is not None:
        session.discarded = True


def _session_of(request: Request) -> tuple[RequestSession, bool]:
    """The request's session, and whether it is new. The dependency that creates it ends it, after all others."""
    session: RequestSession | None = request.scope.get(SESSION)
    if session is not None:
        return session, False
    # expire_on_commit: the response is made from the objects; expired, each would be read in a second transaction.
    # close_resets_only: a closed session must raise; a background task that used it would keep a connection forever.
    session = RequestSession(engine, expire_on_commit=False, close_resets_only=False)
    request.scope[SESSION], request.scope[IS_ENDED] = session, False
    return session, True


def _end(request: Request, session: RequestSession) -> None:
    if not session.discarded:
        session.end()
        request.scope[IS_ENDED] = True


def _close(request: Request, session: RequestSession) -> None:
    del request.scope[SESSION]  # a reference cycle: both would stay until the next garbage collection
    session.is_closed = True
    try:
        Session.close(session)
    except Exception:
        # A thread that the route started still uses the session. The pool needs the connection back.
        if session.connection_in_use is not None:
            session.connection_in_use.invalidate()
            session.connection_in_use.close()
        raise


# With this scope, FastAPI refuses a dependency that would use the session after the response (test_sessions.py).
SessionDep = Annotated[Session, Depends(get_session, scope="function")]
ReadSessionDep = Annotated[Session, Depends(get_read_session, scope="function")]
