"""Access to private attributes of the handler's pool and of its one connection."""

import socket
import time
from typing import Any

from handler.database.driver.connection import Connection
from handler.database.engine import engine


def pooled() -> Connection:
    """The one idle connection of the pool. It is not checked out, so nothing is sent on it."""
    connection = engine.pool._pool.queue[0].dbapi_connection  # type: ignore[attr-defined]
    assert isinstance(connection, Connection)
    return connection


def lie_idle() -> None:
    """Make the connection as old as if the environment had been frozen for a minute."""
    pooled()._used = (time.monotonic() - 60, time.time() - 60)


def socket_of(connection: Any) -> socket.socket:
    """The socket of a connection of the driver."""
    found: socket.socket = connection._usock
    return found


def has_unread() -> bool:
    """Whether the server has sent data to the idle connection."""
    return bool(pooled()._sock.has_unread())
