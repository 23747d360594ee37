"""What a server must say before it is trusted with a statement."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pg8000 import dbapi

from handler.database.pipeline import Connection


def message(code: bytes, data: bytes) -> bytes:
    return code + (len(data) + 4).to_bytes(4) + data


READY = message(b"Z", b"I")
SASL = message(b"R", (10).to_bytes(4) + b"SCRAM-SHA-256\x00\x00")
AUTHENTICATED = message(b"R", bytes(4))
KEY = message(b"K", bytes(8))


@contextmanager
def server(path: Path, *replies: bytes) -> Iterator[None]:
    """Answers each thing that is said to it with the next of `replies`, whatever it was, and waits for the end."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            peer, _ = listener.accept()
            with peer:
                for reply in replies:
                    peer.recv(4096)
                    peer.sendall(reply)
                peer.recv(4096)

        thread = threading.Thread(target=serve)
        thread.start()
        yield
        thread.join()


@pytest.mark.parametrize(
    ("replies", "channel_binding", "reason"),
    [
        ((READY,), False, "did not say who we are"),
        ((READY,), True, "did not say who we are"),
        ((SASL, READY), False, "did not say who we are"),
        ((SASL, AUTHENTICATED + READY), False, "has not proven"),
        ((AUTHENTICATED + READY,), True, "has not proven"),
        ((SASL,), True, "does not offer it"),
        ((message(b"R", (3).to_bytes(4)),), True, "without it"),
    ],
)
def test_a_server_that_skips_a_step_is_not_trusted(
    replies: tuple[bytes, ...], channel_binding: bool, reason: str, tmp_path: Path
) -> None:
    with server(tmp_path / "s", *replies), pytest.raises(dbapi.OperationalError, match=reason):
        Connection(
            (str(tmp_path / "s"), 0, None),
            {"user": "ann", "password": "secret"},
            timeout=5,
            idle_check=60,
            channel_binding=channel_binding,
        )


def test_a_server_that_trusts_us_is_trusted_where_nothing_more_is_asked_for(tmp_path: Path) -> None:
    with server(tmp_path / "s", AUTHENTICATED + KEY + READY):
        connection = Connection((str(tmp_path / "s"), 0, None), {"user": "ann"}, timeout=5, idle_check=60)
        assert not connection.closed
        connection.close()
