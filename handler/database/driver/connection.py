"""A pg8000 connection that spends one round trip on a statement and is never out of step with its server.

Stock pg8000 sends Parse, then Describe, then Bind and Execute, and waits for each; BEGIN is a statement too. Here all
of it travels in one flush with one Sync, BEGIN included (PostgreSQL manual, 54.2.3 "Extended Query" and 54.2.4
"Pipelining"; the formats are in 54.7 "Message Formats"). An error skips to the Sync, so no statement runs outside a
transaction whose BEGIN failed.

In step means that every reply up to ReadyForQuery has been read, and was one that could come. Parameters are converted
before the first byte is sent; a value that cannot be read does not stop the reading; whatever else goes wrong closes
the connection.
"""

import os
import re
import socket
import ssl
import struct
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import lru_cache, partial
from struct import Struct
from threading import Lock
from types import MappingProxyType
from typing import Any, NamedTuple
from weakref import WeakSet

from pg8000 import converters, dbapi
from pg8000.converters import make_params
from pg8000.core import Context

from handler.database.deadline import overtime, remaining, within
from handler.database.driver.stream import TooMuch, open_socket
from handler.database.driver.values import READERS, WRITERS
from handler.database.error_fields import ErrorFields
from handler.database.usage import spend

PING_TIMEOUT = 1.0  # seconds that a connection gets to prove, after an idle time, that it is alive
FAREWELL_TIMEOUT = 0.25  # seconds for a cancel request or a goodbye, also when the deadline has passed

SYNC = b"S\x00\x00\x00\x04"
TERMINATE = b"X\x00\x00\x00\x04"
EXECUTE = b"E\x00\x00\x00\x09\x00\x00\x00\x00\x00"  # the unnamed portal, all rows
DESCRIBE = b"D\x00\x00\x00\x06P\x00"  # the unnamed portal
CANCEL_REQUEST = 80877102

# CommandComplete of what has no number of rows.
COUNTLESS = frozenset((b"BEGIN\x00", b"COMMIT\x00", b"SET\x00", b"SHOW\x00"))
READY, COPY_IN = b"Z", b"G"
REPEATED = (b"D", b"d")  # rows, and lines of a COPY: one letter for all that follow each other
REPEATED_BEHIND_SHOW = (b"d",)  # it has one row
SILENT = frozenset((b"1", b"2", b"n"))  # Parse and Bind are done, there will be no rows: nothing to take from them
ASYNCHRONOUS = frozenset((b"N", b"A", b"S"))  # notice, notification, parameter status: may come at any moment
FATAL = b"\x00VFATAL\x00"  # a severity: manual, 54.8 "Error and Notice Message Fields"
STATUSES = (b"I", b"T", b"E")  # of ReadyForQuery: idle, in a transaction, in a failed one
# The replies to a flush, a letter for each, one for all rows of a result or lines of a COPY.
_STATEMENT = rb"12(?:TD*|n)(?:C|I|Gc?C|Hd?cC)"
_ERROR = rb"|[^EZ]*EZ"
REPLIES_TO_QUERY = re.compile(rb"(?:(?:TD?)?C|I|Hd?cC)+Z" + _ERROR)

# What is in a statement and is none: comments, and what is quoted (manual, 4.1 "Lexical Structure").
NO_STATEMENT = re.compile(r"--[^\n]*|/\*.*?\*/|'[^']*'|\"[^\"]*\"|\$(\w*)\$.*?\$\1\$", re.DOTALL)
ENDS_TRANSACTION = re.compile(
    r"(?:\A|;)\s*(commit|end|abort|prepare\s+transaction|rollback(?!(?:\s+(?:work|transaction))?\s+to\b))\b",
    re.IGNORECASE,
)

DEMOTED = "25006"  # read only: this server was the primary until a failover

# PEP 249's classes by SQLSTATE class: PostgreSQL manual, appendix A "PostgreSQL Error Codes".
ERRORS: dict[str, type[dbapi.DatabaseError]] = {
    "0A": dbapi.NotSupportedError,
    "22": dbapi.DataError,
    "23": dbapi.IntegrityError,
    "25": dbapi.InternalError,
    "42": dbapi.ProgrammingError,
    "XX": dbapi.InternalError,
} | dict.fromkeys(("08", "28", "40", "53", "55", "57", "58"), dbapi.OperationalError)

# What changes when the connection behind a Connection is replaced.
_OF_THE_SOCKET = (
    *("_usock", "_sock", "_address", "_peer", "_backend_key_data", "_client_encoding", "_transaction_status"),
    *("parameter_statuses", "_overrides"),
)

# Authentication requests (manual, 54.7), and which of them may follow which (54.2.1 and 54.3 "SASL Authentication").
AUTHENTICATED, CLEARTEXT, MD5, SASL, SASL_CONTINUE, SASL_FINAL = 0, 3, 5, 10, 11, 12
FIRST_REQUESTS = (AUTHENTICATED, CLEARTEXT, MD5, SASL)
NEXT_REQUESTS: dict[int, tuple[int, ...]] = {
    CLEARTEXT: (AUTHENTICATED,),
    MD5: (AUTHENTICATED,),
    SASL: (SASL_CONTINUE,),
    SASL_CONTINUE: (SASL_FINAL,),
    SASL_FINAL: (AUTHENTICATED,),
    AUTHENTICATED: (),
}
MAX_AUTHENTICATION = 2000  # bytes of a request, as in libpq
SCRAM, SCRAM_PLUS = b"SCRAM-SHA-256", b"SCRAM-SHA-256-PLUS"
# The server chooses how often the password is hashed, and nothing interrupts that. This many take 0.2 s of a processor.
MAX_ITERATIONS = 600_000
_iterations = re.compile(rb",i=([0-9]+)").search

PING = b"Q\x00\x00\x00\x05\x00"  # an empty query

COLUMN = ("table_oid", "column_attrnum", "type_oid", "type_size", "type_modifier", "format")
_column = Struct("!ihihih").unpack_from
_length = Struct("!i").unpack_from
_int16 = Struct("!H").pack
_int32 = Struct("!i").pack


# What the server may choose (docs/adr/0024).
MAX_COLUMNS = 1664  # of a result: PostgreSQL manual, appendix K "PostgreSQL Limits"
MAX_CACHED = 4096  # bytes of a RowDescription that is kept
MAX_PARAMETERS = 100  # that it reports; PostgreSQL 18 has 15
MAX_NOTICE = 8192  # bytes that are kept; pg8000 keeps a hundred notices
MAX_REPLIES = 100_000  # to one flush, a result's rows counted as one; the check of their order takes 260 bytes for each
LONG_ROW = 64 * 1024  # bytes; the values of a longer row are looked at before they are read
MAX_READ = 4 * 1024 * 1024  # bytes of a value that Python code reads letter by letter: 0.6 s
READ_BY_LETTERS = frozenset(converters.PG_TYPES) - {
    *(converters.BYTES, converters.CHAR, converters.CSTRING, converters.JSON, converters.JSONB, converters.NAME),
    *(converters.TEXT, converters.UNKNOWN, converters.VARCHAR),
}
# What the manual's table 23.3 lists and Python reads. Python has other encodings, in which SQL would be other SQL.
CLIENT_ENCODINGS = frozenset(
    {"big5", "euc_cn", "euc_jis_2004", "euc_jp", "euc_kr", "gb18030", "gbk", "johab", "shift_jis_2004", "sjis", "uhc"}
    | {"sql_ascii", "unicode", "utf8", "win874"}
    | {f"latin{number}" for number in range(1, 11)}
    | {f"win{number}" for number in range(1250, 1259)}
)


class OutOfProtocol(Exception):
    """The server has sent what no server sends. The connection cannot be used any more."""


class ConnectionLost(dbapi.OperationalError):  # type: ignore[misc] # pg8000 ships no types
    """The connection ended under a statement, which may have happened or not."""


class _Talk(NamedTuple):
    """What to send in one flush, what may come back, and where pg8000's handlers put it."""

    messages: bytes
    replies: "re.Pattern[bytes]"
    context: Any
    shows: bool = False  # the settings, ahead of the statement


class Cursor(dbapi.Cursor):  # type: ignore[misc] # pg8000 ships no types
    """PEP 249's cursor; `execute` is one round trip."""

    def execute(self, operation: str, args: Sequence[Any] = (), stream: Any = None) -> "Cursor":
        """Run one statement. `stream` feeds or takes a COPY, as in pg8000."""
        if self._c is None:
            raise dbapi.InterfaceError("Cursor closed")
        self._context = self._c.run(operation, args, self._input_oids, stream)
        self._input_oids: Sequence[int] = ()
        self._row_iter = None if self._context.rows is None else iter(self._context.rows)
        return self


class Connection(dbapi.Connection):  # type: ignore[misc] # pg8000 ships no types
    """PEP 249's connection, on a socket of `open_socket`.

    `address` are the arguments of `open_socket`; `login` are pg8000's user, password, database, application_name;
    `timeout` is the number of seconds that connecting may take; `idle_check` is how long, in seconds, the connection
    may lie unused before it has to prove that it is alive; with `channel_binding` the server must prove that nobody
    stands between; `settings` are what each transaction needs, with their values as SHOW writes them: the first
    transaction asks in the same flush for the server's own, and where one differs, each has SET LOCAL behind its BEGIN;
    `renewal` makes the connection that takes its place when it is lost, by default one like it.
    Raises dbapi.OperationalError when there is no connection to be had. `isolation_level`, `read_only` and
    `deferrable` are written into the next BEGIN, and cost nothing. Parameters are written `%s`, or `$1` once
    `numbered` is set. `before_end`, where it is set, is called before a COMMIT, whether `commit` or a statement is
    about to send it, and before a statement that rolls back; it may raise.
    """

    _usock: Any = None
    _sock: Any = None
    _last_request: int | None = None  # for authentication

    def __init__(  # noqa: PLR0913 - all of it is known when a connection is made, and none later
        self,
        address: tuple[str, int, ssl.SSLContext | None],
        login: dict[str, Any],
        *,
        timeout: float,
        idle_check: float,
        channel_binding: bool = False,
        settings: Mapping[str, str] = MappingProxyType({}),
        renewal: "Callable[[], Connection] | None" = None,
    ) -> None:
        self._renewal = renewal or partial(
            Connection,
            address,
            login,
            timeout=timeout,
            idle_check=idle_check,
            channel_binding=channel_binding,
            settings=settings,
        )
        self._address = address
        self._peer: Any = None
        self._idle_check = idle_check
        self._must_bind = channel_binding
        self.isolation_level: str | None = None
        self.read_only = self.deferrable = False
        self.numbered = False
        self.before_end: Callable[[str], None] | None = None
        self._in_flight = Lock()  # held while a statement waits for its replies
        self._retired = False
        self._settings = tuple(settings.items())
        self._overrides: str | None = None if settings else ""  # statements behind BEGIN; None: not known yet
        with within(timeout), ExitStack() as on_failure:
            try:
                started = time.perf_counter()
                try:
                    sock = on_failure.enter_context(open_socket(*address))
                finally:
                    spend(time.perf_counter() - started, connections=1)
                self._peer = sock.getpeername()
                super().__init__(sock=sock, ssl_context=False, **login)
                if self._last_request != AUTHENTICATED:
                    raise _error("08P01", "the server did not authenticate the user")  # noqa: TRY301 - closed below
                on_failure.pop_all()
            except dbapi.DatabaseError as error:
                raise _classified(error) from None
            except Exception as error:
                raise _error("08001", f"cannot connect to {address[0]}: {error}") from error
        del self.message_types[b"R"]  # the server may ask for no password from now on
        self._sock.trust()
        self.pg_types.update(READERS)
        self.py_types.update(WRITERS)
        self._transaction_status = b"I"  # pg8000 forgets what the server has just said
        self._touch()
        _open.add(self)

    def handle_AUTHENTICATION_REQUEST(self, data: bytes, context: Any) -> None:  # noqa: N802 - pg8000's name
        """pg8000's, for a request that follows the one before and that this connection may answer.

        pg8000 answers every request at every moment: a server could ask for the password in clear after it began
        SCRAM, or leave out the proof that it knows the password. In clear or as MD5, the password is sent only to a
        server whose certificate was verified (docs/adr/0023). Raises dbapi.OperationalError, dbapi.InterfaceError.
        """
        code = int.from_bytes(data[:4])
        possible = FIRST_REQUESTS if self._last_request is None else NEXT_REQUESTS[self._last_request]
        if code not in possible or not 4 <= len(data) <= MAX_AUTHENTICATION:
            raise _error("08P01", f"the server sent an authentication request out of order, or an unknown one: {code}")
        secure = isinstance(self._usock, ssl.SSLSocket) and self._usock.context.verify_mode == ssl.CERT_REQUIRED
        if code in (CLEARTEXT, MD5, SASL) and self.password is None:
            raise dbapi.InterfaceError("the server asks for a password, and there is none")
        if self._must_bind and self._last_request is None and code != SASL:
            raise dbapi.InterfaceError("channel_binding=require, and the server does not authenticate by SCRAM")
        if code in (CLEARTEXT, MD5) and not secure:
            raise dbapi.InterfaceError("the server asks for the password in clear or as MD5, and TLS is not used")
        if code == SASL:
            known = [name for name in data[4:].split(b"\x00") if name in (SCRAM, SCRAM_PLUS)]
            if self._must_bind and not (secure and SCRAM_PLUS in known):
                raise dbapi.InterfaceError("channel_binding=require, and the server does not offer it")
            if not known:
                raise dbapi.InterfaceError("the server offers neither SCRAM-SHA-256 nor SCRAM-SHA-256-PLUS")
            data = data[:4] + b"\x00".join(known) + b"\x00\x00"
        if code == SASL_CONTINUE and (found := _iterations(data)) and int(found[1]) > MAX_ITERATIONS:
            raise dbapi.InterfaceError(f"the server asks for more than {MAX_ITERATIONS} iterations of SCRAM")
        super().handle_AUTHENTICATION_REQUEST(data, context)
        self._last_request = code

    def handle_ROW_DESCRIPTION(self, data: bytes, context: Any) -> None:  # noqa: N802 - pg8000's name
        """pg8000's, which takes as long as several rows; a statement is described by the same bytes each time."""
        columns = _columns if len(data) <= MAX_CACHED else _columns.__wrapped__
        try:
            context.columns = columns(data, self._client_encoding)
        except ValueError as error:
            raise OutOfProtocol("a description that cannot be read") from error
        context.input_funcs = [self.pg_types[column["type_oid"]] for column in context.columns]
        if context.rows is None:
            context.rows = []

    def handle_DATA_ROW(self, data: bytes, context: Any) -> None:  # noqa: N802 - pg8000's name
        """pg8000's, but for what it asks again for each value: a list of 50 items has 300 (docs/adr/0020).

        pg8000 cuts a value whose length is beyond the message. Raises OutOfProtocol or struct.error for such a row.
        """
        size = len(data)
        if size > LONG_ROW:
            _check_long(data, context)
        row: list[Any] = []
        start, encoding = 2, self._client_encoding
        for convert in context.input_funcs:
            (length,) = _length(data, start)
            start += 4
            if length >= 0:
                end = start + length
                row.append(convert(data[start:end].decode(encoding)))
                start = end
            elif length == -1:
                row.append(None)
            else:
                raise OutOfProtocol("a value of negative length")
        if start != size:
            raise OutOfProtocol("a row that does not end with its message")
        context.rows.append(row)

    def handle_COPY_DATA(self, data: bytes, context: Any) -> None:  # noqa: N802 - pg8000's name
        """pg8000's. What the stream has taken is not held any more, so that a COPY may be of any length."""
        super().handle_COPY_DATA(data, context)
        self._sock.release(len(data) + 5)

    def handle_NOTICE_RESPONSE(self, data: bytes, context: Any) -> None:  # noqa: N802 - pg8000's name
        """pg8000's, which keeps a hundred of them."""
        super().handle_NOTICE_RESPONSE(data[:MAX_NOTICE], context)

    def handle_PARAMETER_STATUS(self, data: bytes, context: Any) -> None:  # noqa: N802 - pg8000's name
        """pg8000's, which keeps as many as there are, and takes every encoding. Raises OutOfProtocol."""
        super().handle_PARAMETER_STATUS(data, context)
        if len(self.parameter_statuses) > MAX_PARAMETERS:
            raise OutOfProtocol(f"more than {MAX_PARAMETERS} parameters")
        if self.parameter_statuses.get("client_encoding", "utf8").lower() not in CLIENT_ENCODINGS:
            raise OutOfProtocol("an unknown client_encoding")

    def handle_COMMAND_COMPLETE(self, data: bytes, context: Any) -> None:  # noqa: N802 - pg8000's name
        """pg8000's, which looks for a number of rows and takes a microsecond not to find it."""
        if data not in COUNTLESS:
            super().handle_COMMAND_COMPLETE(data, context)

    @property
    def closed(self) -> bool:
        return self._usock is None

    def is_alive(self) -> bool:
        """Whether the server still knows us: free when it was asked something just now, else a round trip."""
        if (
            self.closed or self._in_flight.locked() or self._sock.has_something()
        ):  # its end, the reason for it, or what nobody asked for
            return False
        # A frozen environment's monotonic clock may stand still.
        idle = max(time.monotonic() - self._used[0], abs(time.time() - self._used[1]))
        if idle >= self._idle_check:
            try:
                with within(PING_TIMEOUT):
                    self._converse(_Talk(PING, REPLIES_TO_QUERY, Context("")))
            except dbapi.Error:
                return False
        return True

    def cursor(self) -> Cursor:
        return Cursor(self)

    def run(self, statement: str, values: Sequence[Any] = (), oids: Sequence[int] = (), stream: Any = None) -> Any:
        """Execute in the open transaction, or in one that begins with it, or alone with autocommit.

        With autocommit, a connection that is read-only has BEGIN READ ONLY before and COMMIT behind the statement in
        the same flush: one round trip still, and the server refuses to write.

        What begins a transaction runs again on a new connection when the old one was lost, since nothing was committed.
        Raises dbapi.Error.
        """
        if self.before_end is not None and (word := _ends_transaction(statement)):
            self.before_end(word)
        if self._in_transaction:
            return self._converse(self._talk(statement, values, oids, stream))
        if self.autocommit and not self.read_only:
            return self._converse(self._talk(statement, values, oids, stream))
        try:
            return self._run_first(statement, values, oids, stream)
        except ConnectionLost:
            # Several statements in one text may end their transaction themselves.
            if self._retired or stream is not None or (not values and _may_be_several(statement)):
                raise
        self._renew()
        return self._run_first(statement, values, oids, stream)

    def _run_first(self, statement: str, values: Sequence[Any], oids: Sequence[int], stream: Any) -> Any:
        """Run what begins a transaction. Raises dbapi.Error."""
        try:
            if self._overrides is None:
                return self._run_unknowing(statement, values, oids, stream)
            return self._converse(self._talk(statement, values, oids, stream, self._begin()))
        except dbapi.Error:
            if self.autocommit:
                self.rollback()  # the error has left out the COMMIT that went along
            raise

    def _run_unknowing(self, statement: str, values: Sequence[Any], oids: Sequence[int], stream: Any) -> Any:
        """Run what begins a connection's first transaction. Raises dbapi.Error.

        What ran before the connection knew that a setting has another default is undone, and runs again with the right
        one. Nothing of it was committed, unless it could only read.
        """
        try:
            context = self._converse(self._talk(statement, values, oids, stream, self._begin()))
        except dbapi.Error:
            if not self._overrides or self.closed:
                raise
        else:
            if not self._overrides:
                return context
        self.rollback()
        return self._converse(self._talk(statement, values, oids, stream, self._begin()))

    def commit(self) -> None:
        """One round trip where a transaction is open, none where not. Raises unless everything is stored."""
        if self._in_flight.locked():
            self._retire()
            raise _error("08006", "a statement was still waiting for its replies")
        if not self._in_transaction and not self.closed:
            return
        if self.before_end is not None:
            self.before_end("COMMIT")
        try:
            self._converse(self._query("commit"))
        except dbapi.OperationalError as error:
            if self.closed:
                raise _error("08007", "the connection was lost at COMMIT, which may have happened or not") from error
            raise

    def rollback(self) -> None:
        """One round trip where a transaction is open, none where not. A server rolls back what it loses.

        Where a thread that was left behind still waits for a statement, the connection is closed.
        """
        if self._in_flight.locked():
            self._retire()
        if self._in_transaction and not self.closed:
            try:
                self._converse(self._query("rollback"))
            except dbapi.Error:
                self.abandon()

    def execute_simple(self, statement: str) -> Any:
        return self._converse(self._query(statement))

    def execute_unnamed(
        self, statement: str, vals: Sequence[Any] = (), oids: Sequence[int] = (), stream: Any = None
    ) -> Any:
        return self._converse(self._extended(statement, vals, oids, stream))

    def close(self) -> None:
        """Take leave of the server, if it can be told, and close. Raises dbapi.InterfaceError when closed."""
        if self.closed:
            raise dbapi.InterfaceError("connection is closed")
        if self._in_flight.locked():
            self._retire()
            return
        with suppress(OSError), overtime(FAREWELL_TIMEOUT):
            self._sock.write(TERMINATE)
            self._sock.flush()
        self.abandon()

    def abandon(self) -> None:
        """Close without a word: whoever is at the other end is gone, or is not ours to talk to."""
        sock, self._usock, self._sock = self._usock, None, None
        if sock is not None:
            sock.close()

    def _retire(self) -> None:
        """Close for good while a thread waits for a statement: its replies belong to no later request."""
        self._retired = True
        with suppress(OSError, AttributeError):
            self._usock.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits
        self.abandon()

    def _begin(self) -> str:
        level = f" isolation level {self.isolation_level}" if self.isolation_level else ""
        deferrable = " deferrable" if self.deferrable else ""
        return f"begin{level}{' read only' if self.read_only else ''}{deferrable}{self._overrides or ''}"

    def _talk(self, statement: str, values: Sequence[Any], oids: Sequence[int], stream: Any, begin: str = "") -> _Talk:
        if not values and stream is None and (not begin or _may_be_several(statement)):
            end = ";commit" if begin and self.autocommit else ""
            return self._query(f"{begin};{statement}{end}" if begin else statement)
        # Without parameters a percent sign is one.
        text = statement if self.numbered or not values else _numbered(statement)
        return self._extended(text, values, oids, stream, begin)

    def _query(self, statement: str) -> _Talk:
        """A statement without parameters, or several: the simple query protocol (manual, 54.2.2)."""
        return _Talk(_message(b"Q", self._text(statement) + b"\x00"), REPLIES_TO_QUERY, Context(statement))

    def _text(self, statement: str) -> bytes:
        """Raises dbapi.ProgrammingError for what the server would read as another statement."""
        try:
            text = statement.encode(self._client_encoding)
        except UnicodeEncodeError as error:
            raise _error("42601", f"the statement cannot be written in {self._client_encoding}") from error
        if b"\x00" in text:
            raise _error("42601", "the statement contains the NUL character")
        return text

    def _extended(
        self, statement: str, values: Sequence[Any], oids: Sequence[int], stream: Any, begin: str = ""
    ) -> _Talk:
        """All messages of a statement with parameters, or dbapi.DataError before any of them is sent."""
        context = Context(statement, stream=stream)
        # Not where it cannot run again: a stream has been read by then.
        shows = self._overrides is None and begin != "" and stream is None
        if shows:
            context.rows, context.input_funcs = [], [str]  # SHOW without Describe: its rows come undescribed
        before, after, replies = _frame(begin, self._settings if shows else (), self.autocommit and begin != "")
        parts = [before, _parse(self._text(statement), oids)]
        try:
            params = make_params(self.py_types, values)
            encoded = [None if param is None else param.encode(self._client_encoding) for param in params]
            parts += (_bind(encoded), after)
        except (MemoryError, RecursionError):
            raise  # the value is not at fault
        except Exception as error:
            raise _error("22000", f"a parameter cannot be sent: {type(error).__name__}") from error
        return _Talk(b"".join(parts), replies, context, shows)

    def _converse(self, talk: _Talk) -> Any:
        """Send, listen, and raise what the server had to say. In step afterwards, or closed."""
        if self.closed:
            raise dbapi.InterfaceError("connection is closed")
        try:
            remaining()
        except TimeoutError as error:
            raise _error("57014", "no time is left for a statement") from error
        heard, unreadable = self._exchange_alone(talk)
        if len(heard) > MAX_REPLIES or not talk.replies.fullmatch(heard):
            self.abandon()
            raise _error("08P01", f"the server's replies are out of order: {heard[:80]!r}")
        self._touch()
        if talk.shows:
            self._learn(talk.context)
        refused = talk.context.error
        if refused and COPY_IN in heard:
            self.abandon()  # refused before it read a row, a COPY leaves our second Sync to be answered
        if isinstance(refused, dbapi.InterfaceError):
            # pg8000 has noticed that the server answered ROLLBACK to the COMMIT of a failed transaction.
            raise _error("25P02", "the transaction had failed; it is rolled back")
        if refused:
            if refused.args[0].get("C") == DEMOTED and not self.read_only:
                self.abandon()
            raise _classified(refused)
        if unreadable:
            raise _error("XX000", f"a value of the result cannot be read: {type(unreadable).__name__}") from unreadable
        return talk.context

    def _exchange_alone(self, talk: _Talk) -> tuple[bytes, Exception | None]:
        """`_exchange`, of one thread at a time: no thread reads the replies to the statement of another."""
        if not self._in_flight.acquire(blocking=False):
            raise dbapi.InterfaceError("another thread waits for a statement: use a session in one thread at a time")
        try:
            return self._exchange(talk)
        finally:
            self._in_flight.release()

    def _exchange(self, talk: _Talk) -> tuple[bytes, Exception | None]:
        """One round trip. Whatever goes wrong with it closes the connection."""
        try:
            self._sock.write(talk.messages)
            self._sock.flush()
            return self._listen(talk.context, REPEATED_BEHIND_SHOW if talk.shows else REPEATED)
        except TimeoutError as error:
            if talk.messages != PING:
                self._cancel()
            self.abandon()
            raise _error("57014", "the statement took longer than there was time") from error
        except OSError as error:
            self.abandon()
            fields = {"C": "08006", "M": f"the connection was lost: {error}"}
            if isinstance(talk.context.error, dbapi.DatabaseError):
                fields |= talk.context.error.args[0]  # a FATAL error, after which the server closes
            raise ConnectionLost(ErrorFields(fields)) from error
        except TooMuch as error:
            self.abandon()
            raise _error("XX000", str(error)) from error
        except Exception as error:
            self.abandon()
            said = str(error) if isinstance(error, OutOfProtocol) else type(error).__name__
            raise _error("08P01", f"the server cannot be understood: {said}") from error
        except BaseException:
            self.abandon()
            raise

    def _learn(self, context: Any) -> None:
        """Take the rows of SHOW, which come first, out of the result."""
        shown, rows = context.rows[: len(self._settings)], context.rows[len(self._settings) :]
        context.rows = None if context.columns is None else rows
        if len(shown) == len(self._settings):  # else the server refused to begin
            pairs = zip(self._settings, shown, strict=True)
            self._overrides = "".join(
                f";set local {name} = '{needed}'" for (name, needed), [found] in pairs if found != needed
            )

    def _listen(self, context: Any, repeated: tuple[bytes, ...]) -> tuple[bytes, Exception | None]:
        """Read up to ReadyForQuery. Returns the letters of the replies, and what kept one from being understood."""
        message, handlers, heard, unreadable = self._sock.message, self.message_types, bytearray(), None
        last = b""
        while True:
            code, data = message()
            if code in SILENT:
                heard += code
                last = code
                continue
            try:
                handlers[code](data, context)
            except (OutOfProtocol, struct.error, MemoryError):
                raise
            except Exception as error:
                if code == COPY_IN or code not in handlers:
                    raise  # the server waits for us, or we do not know what it said
                if code not in ASYNCHRONOUS:
                    unreadable = unreadable or error
            if code not in ASYNCHRONOUS and not (code == last and code in repeated):
                heard += code
                last = code
            if code == READY:
                if data not in STATUSES or not _may_follow(self._sock.unread()):
                    raise ValueError("this is not the end of the replies")
                return bytes(heard), unreadable

    def _renew(self) -> None:
        """A new socket under the same connection. It has no session state to lose."""
        self.abandon()
        fresh = self._renewal()
        for name in _OF_THE_SOCKET:
            setattr(self, name, getattr(fresh, name))
        self._touch()

    def _cancel(self) -> None:
        """Ask the server to stop what it does for us: manual, 54.2.9 "Canceling Requests in Progress"."""
        key = self._backend_key_data or b""
        with suppress(OSError), overtime(FAREWELL_TIMEOUT), open_socket(*self._address, peer=self._peer) as sock:
            sock.settimeout(remaining())
            sock.sendall(_int32(8 + len(key)) + _int32(CANCEL_REQUEST) + key)
            sock.recv(1)  # the server closes when it has passed the signal on

    def _touch(self) -> None:
        self._used = (time.monotonic(), time.time())


_open: "WeakSet[Connection]" = WeakSet()


def _abandon_all() -> None:
    for connection in _open:
        connection.abandon()


# A forked process has copies of its parent's sockets. It closes them, and the server hears nothing of it.
os.register_at_fork(after_in_child=_abandon_all)


@lru_cache(maxsize=512)
def _ends_transaction(statement: str) -> str | None:
    """The first word of the statement in `statement` that ends a transaction; None where there is none."""
    found = ENDS_TRANSACTION.search(NO_STATEMENT.sub(" ", statement))
    return found[1].upper() if found else None


def _may_be_several(statement: str) -> bool:
    return ";" in statement.rstrip("; \n")


def _may_follow(messages: bytes) -> bool:
    """Whether the server may say this after the end of the replies: what is asynchronous, and its last words."""
    start = 0
    while messages[start : start + 1] in ASYNCHRONOUS and len(messages) >= start + 5:
        start += 1 + max(4, int.from_bytes(messages[start + 1 : start + 5]))
    if messages[start : start + 1] == b"E":
        # Ended between two statements, it says why, in answer to none (manual, 54.2 "Termination").
        return FATAL in messages[start : start + 1 + int.from_bytes(messages[start + 1 : start + 5])]
    return start >= len(messages) or messages[start : start + 1] in ASYNCHRONOUS


def _check_long(data: bytes, context: Any) -> None:
    """Raises OutOfProtocol when the row has a value that would be read letter by letter for longer than a moment."""
    start = 2
    for column in context.columns or ():
        (length,) = _length(data, start)
        if length > MAX_READ and column["type_oid"] in READ_BY_LETTERS:
            raise OutOfProtocol(f"a value of {length} bytes of the type with the oid {column['type_oid']}")
        start += 4 + max(length, 0)


def _parse(statement: bytes, oids: Sequence[int] = ()) -> bytes:
    """Parse to the unnamed statement. A type of 0 is left to the server; pg8000 says it with -1."""
    types = b"".join(_int32(max(oid, 0)) for oid in oids)
    return _message(b"P", b"\x00" + statement + b"\x00" + _int16(len(oids)) + types)


def _bind(params: Sequence[bytes | None]) -> bytes:
    """Bind to the unnamed portal; every parameter and every result as text."""
    parts = [b"\x00\x00\x00\x00", _int16(len(params))]
    for param in params:
        parts += (b"\xff\xff\xff\xff",) if param is None else (_int32(len(param)), param)
    parts.append(b"\x00\x00")
    return _message(b"B", b"".join(parts))


def _message(code: bytes, data: bytes) -> bytes:
    return code + _int32(len(data) + 4) + data


def _executed(statement: str) -> bytes:
    """A statement without parameters, undescribed, to go along with another."""
    return _parse(statement.encode()) + _bind(()) + EXECUTE


@lru_cache
def _frame(
    begin: str, settings: tuple[tuple[str, str], ...], is_read: bool
) -> tuple[bytes, bytes, "re.Pattern[bytes]"]:
    """What goes before the Parse of a statement and behind its Bind, and what may come back.

    `begin` may be several statements, with semicolons between; `settings` are asked for by SHOW, which needs no
    snapshot: the statement behind it may still be SET TRANSACTION or LOCK. A read is committed in the same flush.
    """
    begun = begin.split(";") if begin else []
    before = b"".join(_executed(statement) for statement in (*begun, *(f"show {name}" for name, _ in settings)))
    after = DESCRIBE + EXECUTE + (_executed("commit") if is_read else b"") + SYNC
    replies = rb"12C" * len(begun) + rb"12DC" * len(settings) + _STATEMENT + rb"12C" * is_read + rb"Z" + _ERROR
    return before, after, re.compile(replies)


@lru_cache(maxsize=512)
def _columns(description: bytes, encoding: str) -> list[dict[str, Any]]:
    """The columns of a RowDescription (manual, 54.7) as pg8000 keeps them. Shared: nothing changes them.

    Raises OutOfProtocol.
    """
    columns: list[dict[str, Any]] = []
    count, start = int.from_bytes(description[:2]), 2
    if count > MAX_COLUMNS:
        raise OutOfProtocol(f"a result of {count} columns")
    for _ in range(count):
        end = description.index(b"\x00", start)
        fields = zip(COLUMN, _column(description, end + 1), strict=True)
        columns.append(dict(fields, name=description[start:end].decode(encoding)))
        start = end + 19
    if start != len(description):
        raise OutOfProtocol("a description that does not end with its message")
    return columns


@lru_cache(maxsize=512)
def _numbered(statement: str) -> str:
    """`%s` as `$1`, `$2`…: pg8000 looks at every character, so the result is kept."""
    return str(dbapi.convert_paramstyle("format", statement, ())[0])


def _error(sqlstate: str, message: str) -> dbapi.DatabaseError:
    """An error of this side in the form of the server's: its fields by their letters (manual, 54.8)."""
    return _classified(dbapi.DatabaseError({"S": "ERROR", "C": sqlstate, "M": message}))


def _classified(error: dbapi.DatabaseError) -> dbapi.DatabaseError:
    """What pg8000 raises as DatabaseError, as the class that PEP 249 has for its SQLSTATE."""
    fields = error.args[0]
    return ERRORS.get(fields.get("C", "")[:2], dbapi.DatabaseError)(ErrorFields(fields))
