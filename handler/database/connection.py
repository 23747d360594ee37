"""How a connection is made of the settings, and an engine of connections."""

import ssl
from functools import cache, partial
from typing import Any

from sqlalchemy import Engine, create_engine

from handler.database.dialect import NAME
from handler.database.pipeline import Connection
from handler.database.wire import TlsSocket
from handler.settings import DatabaseSettings


def make_engine(database: DatabaseSettings, **options: Any) -> Engine:
    """An engine on `database`; `options` are those of `sqlalchemy.create_engine`. Does not connect."""
    return create_engine(f"{NAME}://", creator=partial(connect, database), **options)


def connect(database: DatabaseSettings) -> Connection:
    """A new connection. Raises pg8000's OperationalError when there is none to be had."""
    login = {"user": database.user, "password": database.password, "database": database.database}
    return Connection(address_of(database), login, timeout=database.connect_timeout, idle_check=database.idle_check)


def address_of(database: DatabaseSettings) -> tuple[str, int, ssl.SSLContext | None]:
    """The arguments of `wire.open_socket`."""
    if database.host.startswith("/"):
        # The file's name: PostgreSQL manual, 19.3.1 "unix_socket_directories".
        return (f"{database.host}/.s.PGSQL.{database.port}", 0, None)
    return (database.host, database.port, _tls() if database.tls else None)


@cache
def _tls() -> ssl.SSLContext:
    """Made once for the process: reading the system's roots takes some 40 ms."""
    context = ssl.create_default_context()
    context.sslsocket_class = TlsSocket
    return context
