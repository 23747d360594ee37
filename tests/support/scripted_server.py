"""A connection of the driver to a scripted server, and the messages that the server sends."""

import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from handler.database.driver import synchronized
from handler.database.driver.connection import Connection
from handler.database.driver.stream import PlainSocket

TEXT, INTEGER = 25, 23  # oids of types
OPEN_ENDED: dict[str, Any] = {"timeout": 5.0, "idle_check": 3600.0}


def message(code: bytes, body: bytes = b"") -> bytes:
    """PostgreSQL manual, 54.7 "Message Formats"."""
    return code + (len(body) + 4).to_bytes(4) + body


def row_description(oid: int = TEXT, count: int = 1) -> bytes:
    column = b"column\x00" + bytes(6) + oid.to_bytes(4) + bytes(8)
    return message(b"T", count.to_bytes(2) + column * count)


def data_row(*values: str) -> bytes:
    cells = (len(value).to_bytes(4) + value.encode() for value in values)
    return message(b"D", len(values).to_bytes(2) + b"".join(cells))


def complete(tag: str) -> bytes:
    return message(b"C", tag.encode() + b"\x00")


def ready(status: str) -> bytes:
    return message(b"Z", status.encode())


def error(sqlstate: str, severity: str = "ERROR") -> bytes:
    return message(b"E", f"S{severity}\0V{severity}\0C{sqlstate}\0Mno\0\0".encode())


PARSED, BOUND, NO_DATA, EMPTY, COPY_DONE = (message(code) for code in (b"1", b"2", b"n", b"I", b"c"))
COPY_IN, COPY_OUT = (message(code, b"\x00\x00\x01\x00\x00") for code in (b"G", b"H"))
NOTICE = message(b"N", b"SNOTICE\x00VNOTICE\x00C00000\x00Mby the way\x00\x00")
NOTIFICATION = message(b"A", b"\x00\x00\x00\x07channel\x00payload\x00")
STATUS = message(b"S", b"application_name\x00other\x00")
GREETING = b"".join(
    (
        message(b"R", bytes(4)),
        message(b"S", b"server_version\x0018.0\x00"),
        message(b"S", b"client_encoding\x00UTF8\x00"),
        message(b"K", b"\x00\x00\x00\x07\x00\x00\x00\x07"),
        ready("I"),
    )
)


def select_reply(*rows: bytes, oid: int = TEXT, count: int = 1, status: str = "I") -> tuple[bytes, ...]:
    """The reply to a SELECT with parameters that returns `rows` of `count` columns."""
    return (PARSED, BOUND, row_description(oid, count), *rows, complete(f"SELECT {len(rows)}"), ready(status))


class Script(PlainSocket):
    """A client's socket. For each flush the server sends the next of `replies`, in chunks, or closes the connection."""

    sent = b""
    replies: Iterator[Iterable[bytes]]
    chunks: Iterator[bytes]
    server: socket.socket

    def sendall(self, data: Any, *flags: int) -> None:
        super().sendall(data, *flags)
        self.sent += data
        if data[:1] not in (b"d", b"c"):  # COPY data belongs to its statement
            self.chunks = iter(next(self.replies, ()))

    def recv(self, size: int, *flags: int) -> bytes:
        """Return the rest of a chunk, or the next chunk. After the last one, return the end of the stream."""
        chunk = next(self.chunks, b"")
        if chunk:
            self.server.sendall(chunk)
        else:
            self.server.shutdown(socket.SHUT_WR)
        return super().recv(size, *flags)


@contextmanager
def scripted(
    *replies: Iterable[bytes], shows: bool = False, greeting: Iterable[bytes] = (GREETING,)
) -> Iterator[tuple[Connection, Script]]:
    """A connection after its startup. Its server sends `replies`, and refuses every further connection."""
    near, far = socket.socketpair()
    with far, Script(fileno=near.detach()) as script, pytest.MonkeyPatch.context() as patch:
        script.server, script.replies = far, iter((greeting, *replies))
        unused = iter((script,))

        def open_once(*_: Any) -> Script:
            try:
                return next(unused)
            except StopIteration:
                raise ConnectionRefusedError from None

        patch.setattr(synchronized, "open_socket", open_once)
        connection = Connection(
            ("/script", 0, None), {"user": "u"}, settings={"needed": "on"} if shows else {}, **OPEN_ENDED
        )
        yield connection, script
        connection.abandon()
