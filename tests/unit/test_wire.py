"""Deadlines, the Stream and the sockets of the driver."""

import math
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from handler.database.deadline import DeadlineExceeded, grace_period, remaining, timeout_after
from handler.database.driver.stream import Stream, open_socket
from tests.support.certificates import authority, issue


@contextmanager
def pair() -> Iterator[tuple[Stream, socket.socket]]:
    near, far = socket.socketpair()
    with near, far:
        yield Stream(near), far


@contextmanager
def listening(reply: bytes) -> Iterator[int]:
    """The port of a server that sends `reply` after the first bytes of its client, and closes the connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            peer, _ = listener.accept()
            with peer:
                peer.recv(1024)
                peer.sendall(reply)

        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        thread.join()


def test_without_a_deadline_there_is_no_limit() -> None:
    assert remaining() is None


def test_a_deadline_counts_down_and_passes() -> None:
    with timeout_after(0.01):
        left = remaining()
        assert left is not None
        assert 0 < left <= 0.01
        time.sleep(0.02)
        with pytest.raises(DeadlineExceeded):
            remaining()


def test_the_earlier_of_nested_deadlines_applies_until_its_block_ends() -> None:
    with timeout_after(60):
        with timeout_after(1):
            assert (remaining() or math.inf) <= 1
        with timeout_after(100):
            assert (remaining() or math.inf) <= 60
        assert (remaining() or 0) > 50
    assert remaining() is None


def test_a_grace_period_allows_cleanup_after_a_deadline() -> None:
    with timeout_after(0), grace_period(1):
        assert (remaining() or 0) > 0


def test_a_message_is_read_whole_in_any_chunks() -> None:
    with pair() as (stream, far):
        for byte in b"hello world":
            far.sendall(bytes([byte]))
        assert stream.read(5) == b"hello"
        far.sendall(b"!" * 1_000)
        assert stream.read(6) == b" world"
        assert stream.read(1_000) == b"!" * 1_000
        assert stream.read(0) == b""


def test_flush_sends_the_written_messages() -> None:
    with pair() as (stream, far):
        stream.write(b"a")
        stream.write(b"b")
        far.setblocking(False)
        with pytest.raises(BlockingIOError):
            far.recv(10)
        stream.flush()
        assert far.recv(10) == b"ab"


def test_a_peer_that_reads_slowly_does_not_delay_the_deadline_with_tls(tmp_path: Path) -> None:
    context, server = ssl.create_default_context(), ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    issue(authority(tmp_path / "ca.pem"), tmp_path, "localhost")
    context.load_verify_locations(tmp_path / "ca.pem")
    server.load_cert_chain(tmp_path / "server.crt", tmp_path / "server.key")
    near, far = socket.socketpair()

    def read_slowly() -> None:
        with server.wrap_socket(far, server_side=True) as peer, suppress(OSError):
            while peer.recv(16 * 1024):
                time.sleep(0.1)

    thread = threading.Thread(target=read_slowly)
    thread.start()
    with context.wrap_socket(near, server_hostname="localhost") as sock:
        stream = Stream(sock)
        stream.write(bytes(4 * 1024 * 1024))
        started = time.monotonic()
        with timeout_after(0.5), pytest.raises(TimeoutError):
            stream.flush()
        assert time.monotonic() - started < 5
    thread.join()


def test_the_end_within_a_message_is_an_error() -> None:
    with pair() as (stream, far):
        far.sendall(b"hel")
        far.close()
        with pytest.raises(ConnectionResetError):
            stream.read(5)


def test_a_negative_length_is_an_error() -> None:
    with pair() as (stream, _), pytest.raises(ConnectionError):
        stream.read(-1)


def test_a_server_that_sends_single_bytes_does_not_delay_the_deadline() -> None:
    """Each recv returns before any timeout of the socket, and the message never ends."""
    with pair() as (stream, far):
        stop = threading.Event()

        def drip() -> None:
            while not stop.wait(0.01):
                far.sendall(b".")

        thread = threading.Thread(target=drip)
        thread.start()
        with timeout_after(0.2), pytest.raises(TimeoutError):
            stream.read(50_000)
        stop.set()
        thread.join()


def test_a_peer_that_does_not_read_does_not_delay_the_deadline() -> None:
    with pair() as (stream, _):
        stream.write(b"x" * 50_000_000)
        with timeout_after(0.1), pytest.raises(TimeoutError):
            stream.flush()


def test_a_stream_has_unread_data_when_the_server_sends_or_closes() -> None:
    with pair() as (stream, far):
        assert not stream.has_unread()
        far.sendall(b"ab")
        assert stream.has_unread()
        stream.read(1)
        assert stream.has_unread(), "one byte is left in the buffer"
        stream.read(1)
        assert not stream.has_unread()
        far.close()
        assert stream.has_unread()


def test_nagle_s_algorithm_is_disabled() -> None:
    with listening(b"") as port, open_socket("127.0.0.1", port, None) as sock:
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        sock.sendall(b"x")


def test_a_unix_socket_is_opened_by_its_path(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        with open_socket(str(tmp_path / "s"), 0, None) as sock:
            assert sock.getpeername() == str(tmp_path / "s")


def test_a_server_that_declines_tls_gets_no_further_byte() -> None:
    with listening(b"N") as port, pytest.raises(ConnectionError, match="declines TLS"):
        open_socket("127.0.0.1", port, ssl.create_default_context())


def test_a_failed_tls_handshake_is_an_error() -> None:
    with listening(b"S") as port, pytest.raises(OSError):  # noqa: PT011 - any of them; nothing may be left open
        open_socket("127.0.0.1", port, ssl.create_default_context())


def test_a_name_without_an_address_is_an_error() -> None:
    with pytest.raises(OSError):  # noqa: PT011 - socket.gaierror
        open_socket("nothing.invalid", 1, None)


def test_a_closed_port_is_an_error() -> None:
    with pytest.raises(ConnectionRefusedError):
        open_socket("127.0.0.1", 1, None)
