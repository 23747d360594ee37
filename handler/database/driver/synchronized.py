"""A pg8000 connection that sends a batch in one flush, and that is either synchronized with its server or closed.

Stock pg8000 sends Parse, then Describe, then Bind and Execute, and waits for each. Here one flush contains all messages
of a statement and one Sync, so a statement takes one round trip.

Synchronized means that every reply up to ReadyForQuery was read, and that the replies were in a valid order. Parameters
are converted before the first byte is sent, and all replies are read even if a value cannot be converted. After any
other failure the connection is closed, because the next statement could read replies to this one.
"""

import os
import socket
import ssl
import struct
import time
from contextlib import ExitStack, suppress
from threading import Lock
from typing import Any
from weakref import WeakSet

from pg8000 import dbapi

from handler.database.deadline import grace_period, remaining, timeout_after
from handler.database.driver.authentication import AUTHENTICATED, check_request
from handler.database.driver.errors import ConnectionLost, ProtocolViolation, classified, driver_error
from handler.database.driver.protocol import (
    ASYNCHRONOUS,
    CANCEL_REQUEST,
    COPY_IN,
    IGNORED_REPLIES,
    MAX_REPLIES,
    PING,
    READY,
    REPEATED,
    REPEATED_AFTER_SHOW,
    STATUSES,
    TERMINATE,
    Batch,
    int32,
    may_follow_replies,
)
from handler.database.driver.results import LONG_ROW, check_long_row, read_columns, read_length
from handler.database.driver.stream import ReplyTooLarge, open_socket
from handler.database.driver.values import READERS, WRITERS
from handler.database.error_fields import ErrorFields, sqlstate_of
from handler.database.usage import record

CLOSE_TIMEOUT = 0.25  # seconds for a cancel request or a Terminate message, also after the deadline
READ_ONLY_TRANSACTION = "25006"

# CommandComplete of statements that have no number of rows.
_WITHOUT_ROW_COUNT = frozenset((b"BEGIN\x00", b"COMMIT\x00", b"SET\x00", b"SHOW\x00"))

# Limits on what the server sends (docs/adr/0024).
MAX_PARAMETERS = 100  # reported parameters; PostgreSQL 18 reports 15
MAX_NOTICE = 8192  # bytes of a notice that are kept; pg8000 keeps a hundred notices
# The encodings of the manual's table 23.3 that Python can decode. The server could read other SQL in other encodings.
CLIENT_ENCODINGS = frozenset(
    {"big5", "euc_cn", "euc_jis_2004", "euc_jp", "euc_kr", "gb18030", "gbk", "johab", "shift_jis_2004", "sjis", "uhc"}
    | {"sql_ascii", "unicode", "utf8", "win874"}
    | {f"latin{number}" for number in range(1, 11)}
    | {f"win{number}" for number in range(1250, 1259)}
)


class SynchronizedConnection(dbapi.Connection):  # type: ignore[misc] # pg8000 ships no types
    """pg8000's connection on a socket of `open_socket`. It executes one Batch at a time.

    `address`: the arguments of `open_socket`. `login`: pg8000's user, password, database, application_name.
    `timeout`: the number of seconds for connecting and the login. `channel_binding`: whether it is required.
    Raises dbapi.OperationalError if the connection cannot be made.
    """

    _usock: Any = None
    _sock: Any = None
    _last_request: int | None = None  # the code of the last authentication request

    def __init__(
        self,
        address: tuple[str, int, ssl.SSLContext | None],
        login: dict[str, Any],
        *,
        timeout: float,
        channel_binding: bool,
    ) -> None:
        self._address = address
        self._peer: Any = None
        self._channel_binding = channel_binding
        self.read_only = False
        self._in_flight = Lock()  # held while a statement is executed
        self._retired = False
        with timeout_after(timeout), ExitStack() as on_failure:
            try:
                started = time.perf_counter()
                try:
                    sock = on_failure.enter_context(open_socket(*address))
                finally:
                    record(time.perf_counter() - started, connections=1)
                self._peer = sock.getpeername()
                super().__init__(sock=sock, ssl_context=False, **login)
                if self._last_request != AUTHENTICATED:
                    raise driver_error("08P01", "the server did not authenticate the user")  # noqa: TRY301 - closed below
                on_failure.pop_all()
            except dbapi.DatabaseError as error:
                raise classified(error) from None
            except Exception as error:
                raise driver_error("08001", f"cannot connect to {_describe_address(address)}: {error}") from error
        del self.message_types[b"R"]  # an authentication request after the login is a protocol violation
        self._sock.raise_limit()
        self.pg_types.update(READERS)
        self.py_types.update(WRITERS)
        self._transaction_status = b"I"  # pg8000 does not store the status that the server sent at the login
        self._mark_used()
        _open_connections.add(self)

    # pg8000 calls these methods for messages of the server.

    def handle_AUTHENTICATION_REQUEST(self, data: bytes, context: Any) -> None:  # noqa: N802 - pg8000's name
        """Reply to a request that `check_request` allows. Raises dbapi.OperationalError, dbapi.InterfaceError."""
        is_verified = isinstance(self._usock, ssl.SSLSocket) and self._usock.context.verify_mode == ssl.CERT_REQUIRED
        request, data = check_request(
            data,
            self._last_request,
            has_password=self.password is not None,
            is_verified=is_verified,
            channel_binding=self._channel_binding,
        )
        super().handle_AUTHENTICATION_REQUEST(data, context)
        self._last_request = request

    def handle_ROW_DESCRIPTION(self, data: bytes, context: Any) -> None:  # noqa: N802 - pg8000's name
        """As pg8000's method, with cached columns: pg8000's takes as long as several rows. Raises ProtocolViolation."""
        context.columns = read_columns(data, self._client_encoding)
        context.input_funcs = [self.pg_types[column["type_oid"]] for column in context.columns]
        if context.rows is None:
            context.rows = []

    def handle_DATA_ROW(self, data: bytes, context: Any) -> None:  # noqa: N802 - pg8000's name
        """As pg8000's method, without the work that it repeats for each value (docs/adr/0020).

        Raises ProtocolViolation or struct.error for a value that is longer than the message, which pg8000 truncates.
        """
        size = len(data)
        if size > LONG_ROW:
            check_long_row(data, context.columns or [])
        row: list[Any] = []
        start, encoding = 2, self._client_encoding
        for convert in context.input_funcs:
            (length,) = read_length(data, start)
            start += 4
            if length >= 0:
                end = start + length
                row.append(convert(data[start:end].decode(encoding)))
                start = end
            elif length == -1:
                row.append(None)
            else:
                raise ProtocolViolation("a value of negative length")
        if start != size:
            raise ProtocolViolation("a row that does not end with its message")
        context.rows.append(row)

    def handle_COPY_DATA(self, data: bytes, context: Any) -> None:  # noqa: N802 - pg8000's name
        """As pg8000's method. Data that was written to the caller's stream does not count, so a COPY has any length."""
        super().handle_COPY_DATA(data, context)
        self._sock.release(len(data) + 5)

    def handle_NOTICE_RESPONSE(self, data: bytes, context: Any) -> None:  # noqa: N802 - pg8000's name
        if not data.endswith(b"\0"):
            raise ProtocolViolation("a notice without an end")
        super().handle_NOTICE_RESPONSE(data[:MAX_NOTICE], context)

    def handle_PARAMETER_STATUS(self, data: bytes, context: Any) -> None:  # noqa: N802 - pg8000's name
        """As pg8000's method, with limits on the parameters and the encoding. Raises ProtocolViolation."""
        if data.count(b"\0") != 2 or not data.endswith(b"\0"):
            raise ProtocolViolation("a parameter status that is not a name and a value")
        super().handle_PARAMETER_STATUS(data, context)
        if len(self.parameter_statuses) > MAX_PARAMETERS:
            raise ProtocolViolation(f"more than {MAX_PARAMETERS} parameters")
        if self.parameter_statuses.get("client_encoding", "utf8").lower() not in CLIENT_ENCODINGS:
            raise ProtocolViolation("an unknown client_encoding")

    def handle_COMMAND_COMPLETE(self, data: bytes, context: Any) -> None:  # noqa: N802 - pg8000's name
        """As pg8000's method, which takes a microsecond to find that there is no number of rows."""
        if data not in _WITHOUT_ROW_COUNT:
            super().handle_COMMAND_COMPLETE(data, context)

    # Executing a batch.

    def _execute(self, batch: Batch) -> Any:
        """Send `batch`, read all replies, and return its context. Then the connection is synchronized, or it is closed.

        Raises dbapi.Error: the server's error, or the driver's.
        """
        if self.closed:
            raise dbapi.InterfaceError("connection is closed")
        try:
            remaining()
        except TimeoutError as error:
            raise driver_error("57014", "the deadline has passed, and the statement was not sent") from error
        # A thread must not read the replies to another thread's statement.
        if not self._in_flight.acquire(blocking=False):
            raise dbapi.InterfaceError("another thread is executing a statement: use a session in one thread at a time")
        try:
            reply_codes, unreadable = self._exchange(batch)
        finally:
            self._in_flight.release()
        if len(reply_codes) > MAX_REPLIES or not batch.replies.fullmatch(reply_codes):
            self.abandon()
            raise driver_error("08P01", f"the server's replies are out of order: {reply_codes[:80]!r}")
        self._mark_used()
        self._raise_error(batch.context.error, reply_codes)
        if unreadable:
            message = f"a value of the result cannot be read: {type(unreadable).__name__}"
            raise driver_error("XX000", message) from unreadable
        return batch.context

    def _raise_error(self, error: Exception | None, reply_codes: bytes) -> None:
        """Raise the error that the server has sent, if any."""
        if error is None:
            return
        if COPY_IN in reply_codes:
            self.abandon()  # the server rejected the COPY before it read a row, and will still reply to pg8000's Sync
        if isinstance(error, dbapi.InterfaceError):
            # pg8000 raises it if the server replied ROLLBACK to the COMMIT of a failed transaction.
            raise driver_error("25P02", "the transaction was rolled back, because an earlier statement had failed")
        if sqlstate_of(error) == READ_ONLY_TRANSACTION and not self.read_only:
            self.abandon()  # after a failover, this server is no longer the primary
        raise classified(error)

    def _exchange(self, batch: Batch) -> tuple[bytes, Exception | None]:
        """Send a batch and return the result of `_read_replies`. Closes the connection after a failure."""
        try:
            self._sock.write(batch.messages)
            self._sock.flush()
            return self._read_replies(batch.context, REPEATED_AFTER_SHOW if batch.shows_settings else REPEATED)
        except TimeoutError as error:
            if batch.messages != PING:
                self._cancel()
            self.abandon()
            raise driver_error("57014", "the statement was cancelled, because the deadline has passed") from error
        except OSError as error:
            self.abandon()
            fields = {"C": "08006", "M": f"the connection was lost: {error}"}
            if isinstance(batch.context.error, dbapi.DatabaseError):
                fields |= batch.context.error.args[0]  # a FATAL error, after which the server closes the connection
            raise ConnectionLost(ErrorFields(fields)) from error
        except ReplyTooLarge as error:
            self.abandon()
            raise driver_error("XX000", str(error)) from error
        except Exception as error:
            self.abandon()
            cause = str(error) if isinstance(error, ProtocolViolation) else type(error).__name__
            raise driver_error("08P01", f"the server violated the protocol: {cause}") from error
        except BaseException:
            self.abandon()
            raise

    def _read_replies(self, context: Any, repeated: tuple[bytes, ...]) -> tuple[bytes, Exception | None]:
        """Read all replies up to ReadyForQuery.

        Returns their codes, and the first error of converting a reply. Consecutive replies of a code in `repeated` are
        one code.
        """
        read_message, handlers = self._sock.read_message, self.message_types
        reply_codes, last, unreadable = bytearray(), b"", None
        while True:
            code, data = read_message()
            if code in IGNORED_REPLIES:
                reply_codes += code
                last = code
                continue
            try:
                handlers[code](data, context)
            except (ProtocolViolation, struct.error, MemoryError):
                raise
            except Exception as error:
                if code == COPY_IN or code not in handlers:
                    raise  # the server waits for COPY data, or the message is unknown
                if code not in ASYNCHRONOUS:
                    unreadable = unreadable or error
            if code not in ASYNCHRONOUS and not (code == last and code in repeated):
                reply_codes += code
                last = code
            if code == READY:
                if data not in STATUSES or not may_follow_replies(self._sock.unread()):
                    raise ProtocolViolation("messages after ReadyForQuery, or an unknown transaction status")
                return bytes(reply_codes), unreadable

    def _cancel(self) -> None:
        """Ask the server to stop the running statement: manual, 54.2.9 "Canceling Requests in Progress"."""
        key = self._backend_key_data or b""
        with suppress(OSError), grace_period(CLOSE_TIMEOUT), open_socket(*self._address, peer=self._peer) as sock:
            sock.settimeout(remaining())
            sock.sendall(int32(8 + len(key)) + int32(CANCEL_REQUEST) + key)
            sock.recv(1)  # returns when the server has sent the signal and closes the socket

    def _mark_used(self) -> None:
        self._used = (time.monotonic(), time.time())

    # Closing.

    @property
    def closed(self) -> bool:
        return self._usock is None

    def close(self) -> None:
        """Send Terminate, and close the socket. Raises dbapi.InterfaceError if the connection is closed already."""
        if self.closed:
            raise dbapi.InterfaceError("connection is closed")
        if self._in_flight.locked():
            self._retire()
            return
        with suppress(OSError), grace_period(CLOSE_TIMEOUT):
            self._sock.write(TERMINATE)
            self._sock.flush()
        self.abandon()

    def abandon(self) -> None:
        """Close the socket without sending Terminate."""
        sock, self._usock, self._sock = self._usock, None, None
        if sock is not None:
            sock.close()

    def _retire(self) -> None:
        """Close the connection while another thread executes a statement, and do not reconnect it."""
        self._retired = True
        with suppress(OSError, AttributeError):
            self._usock.shutdown(socket.SHUT_RDWR)  # ends the wait of that thread
        self.abandon()


_open_connections: "WeakSet[SynchronizedConnection]" = WeakSet()


def _describe_address(address: tuple[str, int, ssl.SSLContext | None]) -> str:
    """Return host and port, or the path of the unix socket, and the setting that has them."""
    host, port, _ = address
    server = host if host.startswith("/") else f"{host}, port {port}"
    return f"{server} (named by DATABASE_URL, or by the secret in DATABASE_SECRET_ARN)"


def _abandon_all() -> None:
    for connection in _open_connections:
        connection.abandon()


# A forked process has copies of its parent's sockets. It closes the copies without a message to the server.
os.register_at_fork(after_in_child=_abandon_all)
