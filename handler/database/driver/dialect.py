"""SQLAlchemy's pg8000 dialect for the connections of this driver. It sends no statements of its own.

The next BEGIN contains the isolation level, READ ONLY and DEFERRABLE; AUTOCOMMIT sends no BEGIN. So the dialect never
changes a setting of the session, which a pooler would have to reset, or which would pin the connection. The server's
version is one of the parameters that the server reports at startup.
"""

import re
from collections.abc import Callable
from types import ModuleType
from typing import Any

from pg8000 import dbapi
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.postgresql.base import PGCompiler
from sqlalchemy.dialects.postgresql.pg8000 import PGDialect_pg8000, PGExecutionContext_pg8000

from handler.database.driver.connection import Connection

DIALECT = "postgresql+pipeline"


class ExecutionContext(PGExecutionContext_pg8000):
    def create_server_side_cursor(self) -> Any:
        """Without a transaction the server keeps no cursor, so the rows are buffered by the driver."""
        if self._dbapi_connection.autocommit:
            return self._dbapi_connection.cursor()
        return super().create_server_side_cursor()  # type: ignore[no-untyped-call]


class Dialect(PGDialect_pg8000):
    driver = "pipeline"
    supports_statement_cache = True
    execution_ctx_cls = ExecutionContext
    statement_compiler = PGCompiler  # type: ignore[assignment] # not pg8000's, which doubles %

    def __init__(self, **options: Any) -> None:
        # SQLAlchemy writes $1 itself. pg8000 would examine each character for %s, and also replace it in literals.
        super().__init__(**{"paramstyle": "numeric_dollar"} | options)  # type: ignore[no-untyped-call]

    @classmethod
    def import_dbapi(cls) -> ModuleType:
        return dbapi  # type: ignore[no-any-return] # pg8000 ships no types

    def on_connect(self) -> Callable[[Any], None]:
        converters = super().on_connect()  # type: ignore[no-untyped-call]

        def on_connect(connection: Any) -> None:
            connection.numbered = True
            converters(connection)

        return on_connect

    def do_begin_twophase(self, connection: Any, xid: Any) -> None:  # noqa: ARG002 - SQLAlchemy's
        raise dbapi.NotSupportedError("two-phase commit is not supported, because poolers do not support it")

    def is_disconnect(self, e: Exception, connection: Any, cursor: Any) -> bool:  # noqa: ARG002 - SQLAlchemy's
        """Whether the driver has closed the connection, which it does after every error of the connection."""
        held = connection or (cursor and cursor._c)  # noqa: SLF001 - pg8000 warns about the public name
        return isinstance(getattr(held, "dbapi_connection", held), Connection) and held.closed

    def do_rollback(self, dbapi_connection: Any) -> None:
        """Roll back, or close the connection if there is not enough memory for that.

        If the rollback raised, the session would not return its connection to the pool.
        """
        try:
            dbapi_connection.rollback()
        except Exception:  # noqa: BLE001 - MemoryError and RecursionError; the driver raises no other
            dbapi_connection.abandon()

    def do_close(self, dbapi_connection: Any) -> None:
        if not dbapi_connection.closed:  # SQLAlchemy would log the error of a second close
            dbapi_connection.close()

    def do_ping(self, dbapi_connection: Any) -> bool:
        return bool(dbapi_connection.is_alive())

    def set_isolation_level(self, dbapi_connection: Any, level: str) -> None:
        dbapi_connection.autocommit = level == "AUTOCOMMIT"
        dbapi_connection.isolation_level = None if level == "AUTOCOMMIT" else level

    def reset_isolation_level(self, dbapi_conn: Any) -> None:
        """Return to the server's default isolation level."""
        dbapi_conn.autocommit, dbapi_conn.isolation_level = False, None

    def get_isolation_level(self, dbapi_connection: Any) -> Any:
        return "AUTOCOMMIT" if dbapi_connection.autocommit else dbapi_connection.isolation_level or "READ COMMITTED"

    def set_readonly(self, connection: Any, value: bool) -> None:
        connection.read_only = value

    def get_readonly(self, connection: Any) -> bool:
        return bool(connection.read_only)

    def set_deferrable(self, connection: Any, value: bool) -> None:
        connection.deferrable = value

    def get_deferrable(self, connection: Any) -> bool:
        return bool(connection.deferrable)

    def _get_server_version_info(self, connection: Any) -> tuple[int, ...]:
        reported = _parameters(connection).get("server_version", "")
        version = re.match(r"(\d+)(?:\.(\d+))?", reported)
        if version is None:
            return super()._get_server_version_info(connection)  # type: ignore[no-any-return,no-untyped-call]
        return tuple(int(part) for part in version.groups(default="0"))

    def _get_default_schema_name(self, connection: Any) -> None:  # type: ignore[override]
        """None, without a query: without a schema, reflection uses the tables that the search path makes visible."""

    def _set_backslash_escapes(self, connection: Any) -> None:
        self._backslash_escapes = _parameters(connection).get("standard_conforming_strings") == "off"


def _parameters(connection: Any) -> dict[str, str]:
    """The parameters that the server reports: PostgreSQL manual, 54.2.7 "Asynchronous Operations"."""
    return connection.connection.dbapi_connection.parameter_statuses  # type: ignore[no-any-return]


registry.register("postgresql.pipeline", __name__, Dialect.__name__)
