"""How to reach the database: pg8000's arguments for one connection."""

import ssl
from typing import Any

from handler.settings import DatabaseSettings

CONNECT_TIMEOUT = 10  # seconds


def connect_arguments(database: DatabaseSettings) -> dict[str, Any]:
    """pg8000's keyword arguments. A host that starts with a slash is the folder of a unix socket."""
    arguments: dict[str, Any] = {
        "user": database.user,
        "password": database.password,
        "database": database.database,
        "ssl_context": ssl.create_default_context() if database.tls else False,
        "timeout": CONNECT_TIMEOUT,
    }
    if database.host.startswith("/"):
        # The file's name: PostgreSQL manual, 19.3.1 "unix_socket_directories".
        return arguments | {"unix_sock": f"{database.host}/.s.PGSQL.{database.port}"}
    return arguments | {"host": database.host, "port": database.port}
