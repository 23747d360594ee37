"""The socket to PostgreSQL, and the file object that pg8000 reads and writes, with deadlines and limits."""

import select
import socket
import ssl
from struct import Struct
from time import perf_counter
from typing import Any

from handler.database.deadline import remaining
from handler.database.sockets import connect
from handler.database.usage import record

# SSLRequest: PostgreSQL manual, 54.2.11 "SSL Session Encryption".
SSL_REQUEST = (8).to_bytes(4) + (80877103).to_bytes(4)
# Bytes that one recv asks for. For 128 KiB or more, malloc may map and unmap each buffer, which takes 12 µs.
CHUNK = 64 * 1024

# Limits in bytes on what the server may send in response to one flush, and in one message (docs/adr/0024).
LOGIN_LIMIT = 1024 * 1024
REPLY_LIMIT = 32 * 1024 * 1024
SHORT_MESSAGE = CHUNK
# RowDescription, errors and notices. A row or a piece of COPY data may be as long as the whole reply.
LONG_MESSAGES = {b"T": 256 * 1024, b"E": 1024 * 1024, b"N": 1024 * 1024, b"D": REPLY_LIMIT, b"d": REPLY_LIMIT}

_message_head = Struct("!ci").unpack_from


class ReplyTooLarge(Exception):
    """The server sent more bytes, or announced a longer message, than the limits allow."""


class Stream:
    """The file object that pg8000 reads and writes. `flush` sends the written messages.

    Each wait ends at the deadline. The timeout of a socket's own file object starts again with each recv, so a server
    that sends single bytes would delay it without a limit. Received data is held in memory and therefore limited: to
    LOGIN_LIMIT at first, and to REPLY_LIMIT after `raise_limit`.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._out = bytearray()
        self._in = b""
        self._start = 0
        self._awaits_reply = False  # something was sent, and nothing was received since
        self._limit = self._left = LOGIN_LIMIT

    def raise_limit(self) -> None:
        """Allow replies of REPLY_LIMIT bytes. Called after the login."""
        self._limit = REPLY_LIMIT

    def release(self, size: int) -> None:
        """Allow `size` more bytes of the current reply, because that many are no longer held in memory."""
        self._left += size

    def write(self, data: bytes) -> None:
        self._out += data

    def flush(self) -> None:
        """Send the written messages. Raises OSError; a TimeoutError always means that the deadline has passed."""
        data, self._out = self._out, bytearray()
        self._awaits_reply = True
        self._left = self._limit
        started = perf_counter()
        try:
            self._socket.settimeout(remaining())
            self._socket.sendall(data)
        except TimeoutError as error:
            raise _deadline_or_dead_peer(error) from None
        finally:
            record(perf_counter() - started)

    def read(self, size: int) -> bytes:
        """Return the next `size` bytes. Raises ReplyTooLarge, and OSError, also if the server closes the connection."""
        if size < 0:
            raise ConnectionError("a message of negative length")
        self._receive(size)
        start, self._start = self._start, self._start + size
        return self._in[start : self._start]

    def read_message(self) -> tuple[bytes, bytes]:
        """Return the type byte and the content of the next message. Raises OSError, ReplyTooLarge.

        PostgreSQL manual, 54.7 "Message Formats": the type byte, then the length of the rest, which includes the four
        bytes of the length.
        """
        if len(self._in) - self._start < 5:
            self._receive(5)
        code, length = _message_head(self._in, self._start)
        if length < 4:
            raise ConnectionError("a message of negative length")
        if len(self._in) - self._start <= length:
            if length > LONG_MESSAGES.get(code, SHORT_MESSAGE):
                raise ReplyTooLarge(f"the server announces a message of {length} bytes")
            self._receive(1 + length)
        start, self._start = self._start, self._start + 1 + length
        return code, self._in[start + 5 : self._start]

    def _receive(self, size: int) -> None:
        """Receive until `size` bytes are unread. Raises OSError, and ReplyTooLarge before it exceeds the limit."""
        unread = len(self._in) - self._start
        if size - unread > self._left:
            raise ReplyTooLarge(f"the server's reply is longer than {self._limit} bytes")
        parts = [self._in[self._start :]]
        started, is_reply = perf_counter(), False
        try:
            while unread < size:
                self._socket.settimeout(remaining())
                chunk = self._socket.recv(CHUNK)
                if not chunk:
                    raise ConnectionResetError("the server closed the connection")
                is_reply, self._awaits_reply = is_reply or self._awaits_reply, False
                parts.append(chunk)
                unread += len(chunk)
                self._left -= len(chunk)
        except TimeoutError as error:
            raise _deadline_or_dead_peer(error) from None
        finally:
            record(perf_counter() - started, round_trips=is_reply)
        # The parts are joined once, because joining after each chunk would copy a long message again for each.
        self._in, self._start = b"".join(parts), 0

    def unread(self) -> bytes:
        """Return the bytes that were received and not read yet."""
        return self._in[self._start :]

    def has_unread(self) -> bool:
        """Whether the server has sent data between two statements: an error, a notice, or the end of the connection."""
        if self._start < len(self._in) or (isinstance(self._socket, ssl.SSLSocket) and self._socket.pending()):
            return True
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return bool(poll.poll(0))


class PlainSocket(socket.socket):
    """A TCP or unix socket whose file object is a Stream."""

    def makefile(self, *_: Any, **__: Any) -> Any:
        return Stream(self)


class TlsSocket(ssl.SSLSocket):
    """A TLS socket whose file object is a Stream. pg8000 uses channel binding with an ssl.SSLSocket."""

    def makefile(self, *_: Any, **__: Any) -> Any:
        return Stream(self)


def open_socket(host: str, port: int, context: ssl.SSLContext | None, peer: Any = None) -> socket.socket:
    """Return a connected socket to PostgreSQL. With a `context` it uses TLS.

    `host` and `peer` are those of `handler.database.sockets.connect`. Raises OSError, also ssl.SSLError.
    """
    sock = connect(host, port, peer=peer, socket_class=PlainSocket)
    return _start_tls(sock, host, context) if context else sock


def _start_tls(sock: socket.socket, host: str, context: ssl.SSLContext) -> ssl.SSLSocket:
    try:
        sock.settimeout(remaining())
        sock.sendall(SSL_REQUEST)
        if sock.recv(1) != b"S":
            raise ConnectionError("the server declines TLS")  # noqa: TRY301 - closed here like every other failure
        sock.settimeout(remaining())
        return context.wrap_socket(sock, server_hostname=host)
    except BaseException:
        sock.close()
        raise


def _deadline_or_dead_peer(error: TimeoutError) -> OSError:
    """Return `error` if the deadline has passed, or a ConnectionAbortedError if the kernel reported a dead peer.

    Python raises TimeoutError for both. Only the kernel's ETIMEDOUT has an error number.
    """
    return (
        error if error.errno is None else ConnectionAbortedError(error.errno, "the server's machine does not respond")
    )
