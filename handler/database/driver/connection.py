"""PEP 249's connection and cursor, with transactions and the retry of their first statement.

BEGIN is sent in the batch of a transaction's first statement, so it takes no round trip. If the connection is lost
while that statement runs, it runs again on a new connection, because nothing was committed.
"""

import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any

from pg8000 import dbapi
from pg8000.converters import make_params
from pg8000.core import Context

from handler.database.deadline import timeout_after
from handler.database.driver.errors import ConnectionLost, driver_error
from handler.database.driver.protocol import Batch, bind, frame, parse, ping, simple_query
from handler.database.driver.statements import ends_transaction, may_be_several, numbered
from handler.database.driver.synchronized import SynchronizedConnection

PING_TIMEOUT = 1.0  # seconds in which the server must reply to the check after an idle time

# The attributes that change when the socket of a Connection is replaced.
SOCKET_ATTRIBUTES = (
    *("_usock", "_sock", "_address", "_peer", "_backend_key_data", "_client_encoding", "_transaction_status"),
    *("parameter_statuses", "_set_local"),
)


class Cursor(dbapi.Cursor):  # type: ignore[misc] # pg8000 ships no types
    """PEP 249's cursor. `execute` takes one round trip."""

    def execute(self, operation: str, args: Sequence[Any] = (), stream: Any = None) -> "Cursor":
        """Run one statement. `stream` is read or written by a COPY, as in pg8000. Raises dbapi.Error."""
        if self._c is None:
            raise dbapi.InterfaceError("Cursor closed")
        self._context = self._c.run(operation, args, self._input_oids, stream)
        self._input_oids: Sequence[int] = ()
        self._row_iter = None if self._context.rows is None else iter(self._context.rows)
        return self


class Connection(SynchronizedConnection):
    """PEP 249's connection. The arguments that are not described here are those of SynchronizedConnection.

    `idle_check`: the number of seconds without use after which `is_alive` sends a query to the server.
    `settings`: settings that each transaction needs, with their values as SHOW writes them. The first transaction reads
    the server's values in the same flush. From then on, SET LOCAL follows BEGIN for each setting that differs.
    `reconnect`: returns the connection that replaces a lost one. By default it connects with the same arguments.

    The attributes `isolation_level`, `read_only` and `deferrable` become part of the next BEGIN. Parameters are written
    `%s`, or `$1` if `numbered` is true. `before_end` is called with the key word before `commit` or a statement sends a
    COMMIT, and before a statement that rolls back. It may raise.
    """

    def __init__(  # noqa: PLR0913 - a connection has these parameters
        self,
        address: tuple[str, int, ssl.SSLContext | None],
        login: dict[str, Any],
        *,
        timeout: float,
        idle_check: float,
        channel_binding: bool = False,
        settings: Mapping[str, str] = MappingProxyType({}),
        reconnect: "Callable[[], Connection] | None" = None,
    ) -> None:
        self._reconnect = reconnect or partial(
            Connection,
            address,
            login,
            timeout=timeout,
            idle_check=idle_check,
            channel_binding=channel_binding,
            settings=settings,
        )
        self._idle_check = idle_check
        self.isolation_level: str | None = None
        self.deferrable = False
        self.numbered = False
        self.before_end: Callable[[str], None] | None = None
        self._settings = tuple(settings.items())
        self._set_local: str | None = None if settings else ""  # statements after BEGIN; None: not known yet
        super().__init__(address, login, timeout=timeout, channel_binding=channel_binding)

    def is_alive(self) -> bool:
        """Whether the connection can be used. Takes a round trip if it was not used for `idle_check` seconds."""
        if self.closed or self._in_flight.locked() or self._sock.has_unread():
            return False
        # The monotonic clock may stop while Lambda freezes the environment.
        idle = max(time.monotonic() - self._used[0], abs(time.time() - self._used[1]))
        if idle >= self._idle_check:
            try:
                with timeout_after(PING_TIMEOUT):
                    self._execute(ping())
            except dbapi.Error:
                return False
        return True

    def cursor(self) -> Cursor:
        return Cursor(self)

    def run(self, statement: str, values: Sequence[Any] = (), oids: Sequence[int] = (), stream: Any = None) -> Any:
        """Execute in the open transaction, or begin one, or execute without one if `autocommit` is set.

        With autocommit, a read-only connection sends BEGIN READ ONLY before and COMMIT after the statement in the same
        flush. The server then rejects writes, and the statement still takes one round trip.

        Returns pg8000's context with columns and rows. Raises dbapi.Error.
        """
        if self.before_end is not None and (word := ends_transaction(statement)):
            self.before_end(word)
        if self._in_transaction or (self.autocommit and not self.read_only):
            return self._execute(self._batch(statement, values, oids, stream))
        try:
            return self._run_first(statement, values, oids, stream)
        except ConnectionLost:
            # One of several statements may have ended the transaction, and committed.
            if self._retired or stream is not None or (not values and may_be_several(statement)):
                raise
        self._replace_socket()
        return self._run_first(statement, values, oids, stream)

    def _run_first(self, statement: str, values: Sequence[Any], oids: Sequence[int], stream: Any) -> Any:
        """Run the first statement of a transaction. Raises dbapi.Error."""
        try:
            if self._set_local is None:
                return self._run_and_read_settings(statement, values, oids, stream)
            return self._execute(self._batch(statement, values, oids, stream, self._begin()))
        except dbapi.Error:
            if self.autocommit:
                self.rollback()  # the server skipped the COMMIT of the batch after the error
            raise

    def _run_and_read_settings(self, statement: str, values: Sequence[Any], oids: Sequence[int], stream: Any) -> Any:
        """Run the first statement of the connection's first transaction. Raises dbapi.Error.

        If a setting of the server differs, the statement ran with a wrong setting. It is rolled back and runs again.
        Only a read-only transaction can have been committed.
        """
        batch = self._batch(statement, values, oids, stream, self._begin())
        try:
            context = self._execute(batch)
        except dbapi.Error:
            if self.closed:
                raise
            if batch.shows_settings:
                self._compare_settings(batch.context)
            if not self._set_local:
                raise
        else:
            if batch.shows_settings:
                self._compare_settings(context)
            if not self._set_local:
                return context
        self.rollback()
        return self._execute(self._batch(statement, values, oids, stream, self._begin()))

    def _compare_settings(self, context: Any) -> None:
        """Remove the rows of SHOW, which come first, from the result, and compose the SET LOCAL statements."""
        shown, rows = context.rows[: len(self._settings)], context.rows[len(self._settings) :]
        context.rows = None if context.columns is None else rows
        if len(shown) == len(self._settings):  # otherwise BEGIN failed
            pairs = zip(self._settings, shown, strict=True)
            self._set_local = "".join(
                f";set local {name} = '{needed}'" for (name, needed), [found] in pairs if found != needed
            )

    def _replace_socket(self) -> None:
        """Take over the socket of a new connection. No transaction is open, so no state is lost."""
        self.abandon()
        fresh = self._reconnect()
        for name in SOCKET_ATTRIBUTES:
            setattr(self, name, getattr(fresh, name))
        self._mark_used()

    def commit(self) -> None:
        """Commit the open transaction in one round trip. Without one, do nothing.

        Raises dbapi.Error if the transaction was not committed, or with SQLSTATE 08007 if that is not known.
        """
        if self._in_flight.locked():
            self._retire()
            raise driver_error("08006", "another thread was still executing a statement")
        if not self._in_transaction and not self.closed:
            return
        if self.before_end is not None:
            self.before_end("COMMIT")
        try:
            self._execute(self._simple_batch("commit"))
        except dbapi.OperationalError as error:
            if self.closed:
                message = "the connection was lost during COMMIT: it is not known whether the transaction was committed"
                raise driver_error("08007", message) from error
            raise

    def rollback(self) -> None:
        """Roll back the open transaction in one round trip. Without one, do nothing.

        Closes the connection if the rollback fails, so that the server rolls back, and if another thread is still
        executing a statement.
        """
        if self._in_flight.locked():
            self._retire()
        if self._in_transaction and not self.closed:
            try:
                self._execute(self._simple_batch("rollback"))
            except dbapi.Error:
                self.abandon()

    def execute_simple(self, statement: str) -> Any:
        """As pg8000's method, in one round trip."""
        return self._execute(self._simple_batch(statement))

    def execute_unnamed(
        self, statement: str, vals: Sequence[Any] = (), oids: Sequence[int] = (), stream: Any = None
    ) -> Any:
        """As pg8000's method, in one round trip."""
        return self._execute(self._extended_batch(statement, vals, oids, stream))

    # Batches.

    def _begin(self) -> str:
        level = f" isolation level {self.isolation_level}" if self.isolation_level else ""
        deferrable = " deferrable" if self.deferrable else ""
        return f"begin{level}{' read only' if self.read_only else ''}{deferrable}{self._set_local or ''}"

    def _batch(self, statement: str, values: Sequence[Any], oids: Sequence[int], stream: Any, begin: str = "") -> Batch:
        """Return the batch of a statement, with `begin` before it unless it is empty. Raises dbapi.Error."""
        if not values and stream is None and (not begin or may_be_several(statement)):
            end = ";commit" if begin and self.autocommit else ""
            return self._simple_batch(f"{begin};{statement}{end}" if begin else statement)
        # Without parameters, %s is not a placeholder.
        text = statement if self.numbered or not values else numbered(statement)
        return self._extended_batch(text, values, oids, stream, begin)

    def _simple_batch(self, statement: str) -> Batch:
        return simple_query(self._encode(statement), Context(statement))

    def _extended_batch(
        self, statement: str, values: Sequence[Any], oids: Sequence[int], stream: Any, begin: str = ""
    ) -> Batch:
        """Return all messages of a statement. Raises dbapi.DataError for a parameter that cannot be converted."""
        context = Context(statement, stream=stream)
        # A statement with a stream cannot run a second time with other settings, because the stream was read already.
        shows_settings = self._set_local is None and begin != "" and stream is None
        if shows_settings:
            context.rows, context.input_funcs = [], [str]  # for the rows of SHOW, which has no Describe
        commits = self.autocommit and begin != ""
        before, after, replies = frame(begin, self._settings if shows_settings else (), commits)
        parts = [before, parse(self._encode(statement), oids)]
        try:
            params = make_params(self.py_types, values)
            encoded = [None if param is None else param.encode(self._client_encoding) for param in params]
            parts += (bind(encoded), after)
        except (MemoryError, RecursionError):
            raise  # not caused by the value
        except Exception as error:
            raise driver_error("22000", f"a parameter cannot be converted: {type(error).__name__}") from error
        return Batch(b"".join(parts), replies, context, shows_settings)

    def _encode(self, statement: str) -> bytes:
        """Return the text in the client's encoding. Raises dbapi.ProgrammingError if that would be other SQL."""
        try:
            text = statement.encode(self._client_encoding)
        except UnicodeEncodeError as error:
            raise driver_error("42601", f"the statement cannot be encoded in {self._client_encoding}") from error
        if b"\x00" in text:
            raise driver_error("42601", "the statement contains the NUL character")
        return text
