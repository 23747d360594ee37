"""Sockets to PostgreSQL: opened, read and written under the deadline of the invocation, without Nagle's delay."""

import math
import select
import socket
import ssl
import sys
from struct import Struct
from time import perf_counter
from typing import Any

from handler.database.deadline import remaining, within
from handler.database.usage import spend

# SSLRequest, and the server's answer to it: PostgreSQL manual, 54.2.11 "SSL Session Encryption".
SSL_REQUEST = (8).to_bytes(4) + (80877103).to_bytes(4)
# Bytes that one recv asks for. From 128 KiB on, malloc may map each of them from the kernel and give it back: 12 µs.
CHUNK = 64 * 1024

# A connection is lost when the peer's kernel gives no sign of life for this long (docs/adr/0022).
PEER_TIMEOUT = 2.2  # seconds
# Each as `setsockopt` takes it. A request's second packet does not wait until the first is acknowledged (Nagle's
# algorithm: 40 ms). While a reply is awaited, the peer's kernel is asked after each second of silence.
SOCKET_OPTIONS = [
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 2),
]
if sys.platform == "darwin":
    # 0x80 is TCP_RXT_CONNDROPTIME of <netinet/tcp.h>, in seconds: how long data may be sent again in vain.
    SOCKET_OPTIONS += [(socket.IPPROTO_TCP, socket.TCP_KEEPALIVE, 1), (socket.IPPROTO_TCP, 0x80, round(PEER_TIMEOUT))]
else:
    # tcp(7): how long, in milliseconds, sent data may stay unacknowledged. It decides in place of TCP_KEEPCNT, too.
    SOCKET_OPTIONS += [
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 1),
        (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(PEER_TIMEOUT * 1000)),
    ]

# What the server may send before something else is sent to it, in bytes, and of it in one message (docs/adr/0024).
LOGIN_LIMIT = 1024 * 1024
REPLY_LIMIT = 32 * 1024 * 1024
SHORT_MESSAGE = CHUNK
# RowDescription, errors and notices. A row, and a piece of a COPY, may be as long as the whole reply.
LONG_MESSAGES = {b"T": 256 * 1024, b"E": 1024 * 1024, b"N": 1024 * 1024, b"D": REPLY_LIMIT, b"d": REPLY_LIMIT}

_head = Struct("!ci").unpack_from


class TooMuch(Exception):
    """The server sends more, or announces more, than it may."""


class Stream:
    """What pg8000 reads and writes as a file: whole messages, gathered until `flush`, under the deadline.

    A socket's own file object sets its timeout for each recv, so a server that drips bytes outlives any deadline;
    here each wait is what remains. What the server sends is held in memory, so it is limited: to LOGIN_LIMIT at first,
    to REPLY_LIMIT once it has authenticated the user (`trust`).
    """

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._out = bytearray()
        self._in = b""
        self._start = 0
        self._asked = False  # something was sent, and nothing has come since
        self._limit = self._left = LOGIN_LIMIT

    def trust(self) -> None:
        self._limit = REPLY_LIMIT

    def release(self, size: int) -> None:
        """Bytes that have come are no longer held: as many more may come."""
        self._left += size

    def write(self, data: bytes) -> None:
        self._out += data

    def flush(self) -> None:
        """Send what was written. Raises OSError, TimeoutError only when the deadline has passed."""
        data, self._out = self._out, bytearray()
        self._asked = True
        self._left = self._limit
        started = perf_counter()
        try:
            self._socket.settimeout(remaining())
            self._socket.sendall(data)
        except TimeoutError as error:
            raise _reason_of(error) from None
        finally:
            spend(perf_counter() - started)

    def read(self, size: int) -> bytes:
        """`size` bytes. Raises OSError, also when the server closes before, and TooMuch."""
        if size < 0:
            raise ConnectionError("a message of negative length")
        self._receive(size)
        start, self._start = self._start, self._start + size
        return self._in[start : self._start]

    def message(self) -> tuple[bytes, bytes]:
        """The letter of the next message and what it holds. Raises OSError, TooMuch.

        PostgreSQL manual, 54.7: a letter, then the length of the rest, its own four bytes among it.
        """
        if len(self._in) - self._start < 5:
            self._receive(5)
        letter, length = _head(self._in, self._start)
        if length < 4:
            raise ConnectionError("a message of negative length")
        if len(self._in) - self._start <= length:
            if length > LONG_MESSAGES.get(letter, SHORT_MESSAGE):
                raise TooMuch(f"the server announces a message of {length} bytes")
            self._receive(1 + length)
        start, self._start = self._start, self._start + 1 + length
        return letter, self._in[start + 5 : self._start]

    def _receive(self, size: int) -> None:
        """Wait until `size` bytes are unread, or more. Asks for none when they would be too many."""
        unread = len(self._in) - self._start
        if size - unread > self._left:
            raise TooMuch(f"the server's reply is longer than {self._limit} bytes")
        parts = [self._in[self._start :]]
        started, answered = perf_counter(), False
        try:
            while unread < size:
                self._socket.settimeout(remaining())
                chunk = self._socket.recv(CHUNK)
                if not chunk:
                    raise ConnectionResetError("the server closed the connection")
                answered, self._asked = answered or self._asked, False
                parts.append(chunk)
                unread += len(chunk)
                self._left -= len(chunk)
        except TimeoutError as error:
            raise _reason_of(error) from None
        finally:
            spend(perf_counter() - started, round_trips=answered)
        # Joined once: a long message would be copied for each of its chunks.
        self._in, self._start = b"".join(parts), 0

    def unread(self) -> bytes:
        """What has come already, and nobody has read."""
        return self._in[self._start :]

    def has_something(self) -> bool:
        """Whether the server has said something that nobody asked for: an error, a notice, its end."""
        if self._start < len(self._in) or (isinstance(self._socket, ssl.SSLSocket) and self._socket.pending()):
            return True
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return bool(poll.poll(0))


class PlainSocket(socket.socket):
    """A TCP or unix socket; pg8000 asks it for a file object, and gets a Stream."""

    def makefile(self, *_: Any, **__: Any) -> Any:
        return Stream(self)


class TlsSocket(ssl.SSLSocket):
    """The same with TLS. An ssl.SSLSocket is how pg8000 knows that SCRAM can bind to the channel."""

    def makefile(self, *_: Any, **__: Any) -> Any:
        return Stream(self)


def _reason_of(error: TimeoutError) -> OSError:
    """The kernel's ETIMEDOUT is a TimeoutError too: it has a number, and a deadline that has passed has none."""
    return error if error.errno is None else ConnectionAbortedError(error.errno, "the server's machine is silent")


def open_socket(host: str, port: int, context: ssl.SSLContext | None, peer: Any = None) -> socket.socket:
    """A connected socket, TLS established where there is a `context`.

    `host` is a name, an address, or the path of a unix socket; `peer` the address of one of its servers, where that one
    is meant and nobody has to be asked for it. Raises OSError, ssl.SSLError among them.
    """
    if host.startswith("/"):
        sock: socket.socket = PlainSocket(socket.AF_UNIX, socket.SOCK_STREAM)
        return _connected(sock, host)
    error: OSError = ConnectionError(f"{host} has no address")
    if peer:
        addresses = [(socket.AF_INET6 if len(peer) == 4 else socket.AF_INET, peer)]
    else:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        addresses = [(family, address) for family, _, _, _, address in found]
    for number, (family, address) in enumerate(addresses):
        share = remaining() or math.inf
        try:
            with within(share / (len(addresses) - number)):  # a silent one leaves time for the next
                sock = _connected(PlainSocket(family, socket.SOCK_STREAM), address)
        except OSError as failure:
            error = failure
            continue
        for option in SOCKET_OPTIONS:
            sock.setsockopt(*option)
        return _secured(sock, host, context) if context else sock
    raise error


def _connected(sock: socket.socket, address: Any) -> socket.socket:
    try:
        sock.settimeout(remaining())
        sock.connect(address)
    except BaseException:
        sock.close()
        raise
    return sock


def _secured(sock: socket.socket, host: str, context: ssl.SSLContext) -> ssl.SSLSocket:
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
