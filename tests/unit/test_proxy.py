"""The proxy between a client and a server, which are plain sockets of the test."""

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.proxy import Proxy

TIMEOUT = 5.0  # seconds to wait for data that must arrive
SILENCE = 0.05  # seconds to wait for data that must not arrive


@pytest.fixture
def upstream() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(TIMEOUT)
        yield listener


@pytest.fixture
def proxy(upstream: socket.socket) -> Iterator[Proxy]:
    with Proxy(upstream.getsockname()) as proxy:
        yield proxy


@pytest.fixture
def client(proxy: Proxy) -> Iterator[socket.socket]:
    with connect(proxy) as client:
        yield client


@pytest.fixture
def server(client: socket.socket, upstream: socket.socket) -> Iterator[socket.socket]:
    """The other end of `client`."""
    assert client.fileno() >= 0
    with accept(upstream) as server:
        yield server


def connect(proxy: Proxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=TIMEOUT)


def accept(upstream: socket.socket) -> socket.socket:
    server, _ = upstream.accept()
    server.settimeout(TIMEOUT)
    return server


def receive(end: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        chunk = end.recv(size - len(data))
        assert chunk, f"the stream ended after {data!r}"
        data += chunk
    return data


def carry(source: socket.socket, target: socket.socket, data: bytes) -> None:
    source.sendall(data)
    assert receive(target, len(data)) == data


def is_silent(end: socket.socket) -> bool:
    end.settimeout(SILENCE)
    try:
        end.recv(1)
    except TimeoutError:
        return True
    finally:
        end.settimeout(TIMEOUT)
    return False


def test_carries_bytes_both_ways(client: socket.socket, server: socket.socket) -> None:
    carry(client, server, b"question")
    carry(server, client, b"result")


def test_reaches_a_unix_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as upstream:
        upstream.bind(path)
        upstream.listen()
        upstream.settimeout(TIMEOUT)
        with Proxy(path) as proxy, connect(proxy) as client, accept(upstream) as server:
            carry(client, server, b"question")
            carry(server, client, b"result")


@pytest.mark.parametrize("latency", [0.0, 0.05])
def test_carries_much_in_both_directions_at_once(
    proxy: Proxy, client: socket.socket, server: socket.socket, latency: float
) -> None:
    proxy.latency = latency
    data = bytes(range(256)) * (16 * 1024 * 4)  # 16 MB
    with ThreadPoolExecutor() as threads:
        sent = [threads.submit(end.sendall, data) for end in (client, server)]
        received = [threads.submit(receive, end, len(data)) for end in (client, server)]
        assert [future.result(TIMEOUT) for future in received] == [data, data]
        assert [future.result(TIMEOUT) for future in sent] == [None, None]


def test_passes_on_the_end_of_the_clients_stream_and_the_reply_to_it(
    client: socket.socket, server: socket.socket
) -> None:
    client.sendall(b"bye")
    client.shutdown(socket.SHUT_WR)
    assert receive(server, 3) == b"bye"
    assert server.recv(1) == b""
    carry(server, client, b"result")


def test_rests_when_a_client_has_ended_its_stream(client: socket.socket, server: socket.socket) -> None:
    client.shutdown(socket.SHUT_WR)
    assert server.recv(1) == b""
    start = time.process_time()
    assert is_silent(client)
    assert time.process_time() - start < SILENCE / 4


def test_passes_on_the_end_of_the_servers_stream_after_what_it_sent(
    proxy: Proxy, client: socket.socket, server: socket.socket
) -> None:
    proxy.latency = 0.02
    server.sendall(b"bye")
    server.close()
    assert receive(client, 3) == b"bye"
    assert client.recv(1) == b""


def test_resets_a_client_whose_server_cannot_be_reached(proxy: Proxy, upstream: socket.socket) -> None:
    upstream.close()
    # Either connect() or recv() sees the RST.
    with pytest.raises(ConnectionResetError), connect(proxy) as client:
        client.recv(1)


def test_counts_a_request_and_its_reply_as_one_round_trip(
    proxy: Proxy, client: socket.socket, server: socket.socket
) -> None:
    with proxy.counting() as count:
        carry(client, server, b"question")
        carry(server, client, b"result")
    assert (count.round_trips, count.connections, count.bytes_sent, count.bytes_received) == (1, 0, 8, 6)


def test_counts_chunks_in_the_same_direction_as_one(proxy: Proxy, client: socket.socket, server: socket.socket) -> None:
    with proxy.counting() as count:
        carry(client, server, b"Parse")
        carry(client, server, b"Sync")
        carry(server, client, b"ParseComplete")
        carry(server, client, b"ReadyForQuery")
    assert count.round_trips == 1


def test_counts_every_turn(proxy: Proxy, client: socket.socket, server: socket.socket) -> None:
    with proxy.counting() as count:
        for _ in range(3):
            carry(client, server, b"question")
            carry(server, client, b"result")
    assert count.round_trips == 3


def test_counts_neither_a_request_without_reply_nor_a_reply_without_request(
    proxy: Proxy, client: socket.socket, server: socket.socket
) -> None:
    with proxy.counting() as count:
        carry(server, client, b"notice")
        carry(client, server, b"Terminate")
    assert (count.round_trips, count.bytes_sent, count.bytes_received) == (0, 9, 6)


def test_counts_only_during_the_block(proxy: Proxy, client: socket.socket, server: socket.socket) -> None:
    carry(client, server, b"question")
    carry(server, client, b"result")
    with proxy.counting() as outer:
        carry(client, server, b"question")
        with proxy.counting() as inner:
            carry(server, client, b"result")
            carry(client, server, b"question")
        carry(server, client, b"result")
    carry(client, server, b"question")
    carry(server, client, b"result")
    assert (outer.round_trips, inner.round_trips) == (2, 1)


def test_counts_nothing_that_was_sent_before_the_block(proxy: Proxy) -> None:
    with proxy.halted():
        client = connect(proxy)
        client.sendall(b"question")
    with client, proxy.counting() as count:
        pass
    assert (count.connections, count.bytes_sent) == (0, 0)


def test_counts_no_round_trip_for_what_the_server_sent_before_it_got_the_request(
    proxy: Proxy, client: socket.socket, server: socket.socket
) -> None:
    with proxy.counting() as count:
        with proxy.halted():
            client.sendall(b"question")
            server.sendall(b"notice")
        assert receive(client, 6) == b"notice"
        assert receive(server, 8) == b"question"
    assert count.round_trips == 0


def test_counts_connections_as_soon_as_they_are_made(proxy: Proxy) -> None:
    with connect(proxy), proxy.counting() as count, connect(proxy), connect(proxy):
        pass
    assert count.connections == 2


def test_latency_is_added_in_each_direction(proxy: Proxy, client: socket.socket, server: socket.socket) -> None:
    proxy.latency = 0.05
    start = time.monotonic()
    carry(client, server, b"question")
    middle = time.monotonic()
    carry(server, client, b"result")
    assert middle - start >= 0.05
    assert time.monotonic() - middle >= 0.05


def test_latency_of_chunks_under_way_overlaps(proxy: Proxy, client: socket.socket, server: socket.socket) -> None:
    proxy.latency = 0.2
    start = time.monotonic()
    for _ in range(20):
        client.sendall(b"question")
        with proxy.counting():
            pass  # wait until the proxy has read the chunk, so that there are twenty chunks
    assert receive(server, 20 * 8) == b"question" * 20
    assert 0.2 <= time.monotonic() - start < 20 * 0.2 / 2


def test_keeps_the_order_when_latency_falls(proxy: Proxy, client: socket.socket, server: socket.socket) -> None:
    proxy.latency = 0.05
    client.sendall(b"first")
    with proxy.counting():
        proxy.latency = 0
    client.sendall(b"second")
    assert receive(server, 11) == b"firstsecond"


def test_black_hole_swallows_without_closing(proxy: Proxy, client: socket.socket, server: socket.socket) -> None:
    proxy.black_hole()
    client.sendall(b"question")
    server.sendall(b"result")
    assert is_silent(client)
    assert is_silent(server)


def test_black_hole_swallows_what_is_under_way(proxy: Proxy, client: socket.socket, server: socket.socket) -> None:
    proxy.latency = 0.02
    client.sendall(b"question")
    proxy.black_hole()
    assert is_silent(server)


def test_black_hole_accepts_new_connections_and_stays_silent(proxy: Proxy, upstream: socket.socket) -> None:
    proxy.black_hole()
    with connect(proxy) as client:
        client.sendall(b"question")
        assert is_silent(client)
        upstream.settimeout(SILENCE)
        with pytest.raises(TimeoutError):
            upstream.accept()


def test_new_connections_work_after_a_black_hole_and_the_swallowed_stay_silent(
    proxy: Proxy, upstream: socket.socket, client: socket.socket, server: socket.socket
) -> None:
    proxy.black_hole()
    with connect(proxy) as swallowed:
        proxy.restore()
        with connect(proxy) as new, accept(upstream) as new_server:
            carry(new, new_server, b"question")
            carry(new_server, new, b"result")
        client.sendall(b"question")
        assert is_silent(server)
        assert is_silent(client)
        assert is_silent(swallowed)


def test_reset_resets_clients_and_closes_upstream(proxy: Proxy, client: socket.socket, server: socket.socket) -> None:
    proxy.reset()
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    assert server.recv(1) == b""


def test_reset_reaches_swallowed_connections(proxy: Proxy, client: socket.socket) -> None:
    proxy.black_hole()
    with connect(proxy) as swallowed:
        proxy.reset()
        for end in (client, swallowed):
            with pytest.raises(ConnectionResetError):
                end.recv(1)


def test_new_connections_work_after_a_reset(proxy: Proxy, upstream: socket.socket, client: socket.socket) -> None:
    accept(upstream).close()
    proxy.reset()
    with connect(proxy) as new, accept(upstream) as server:
        carry(new, server, b"question")
    assert client.fileno() != new.fileno()


def test_reset_on_next_write_looks_healthy_until_the_client_sends(
    proxy: Proxy, client: socket.socket, server: socket.socket
) -> None:
    proxy.reset_on_next_write()
    carry(server, client, b"notice")
    assert is_silent(client)
    client.sendall(b"question")
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    assert server.recv(1) == b""


def test_reset_on_next_write_spares_new_connections(proxy: Proxy, upstream: socket.socket) -> None:
    proxy.reset_on_next_write()
    with connect(proxy) as client, accept(upstream) as server:
        carry(client, server, b"question")


def test_half_open_drops_the_server_and_keeps_the_client(
    proxy: Proxy, client: socket.socket, server: socket.socket
) -> None:
    proxy.half_open()
    assert server.recv(1) == b""
    client.sendall(b"question")
    assert is_silent(client)


@pytest.mark.parametrize("n", [0, 3, 6])
def test_cut_after_forwards_so_many_bytes_and_closes(
    proxy: Proxy, client: socket.socket, server: socket.socket, n: int
) -> None:
    carry(server, client, b"before")
    proxy.cut_after(n)
    if n:
        server.sendall(b"result")
    assert receive(client, n) == b"result"[:n]
    assert client.recv(1) == b""


def test_cut_after_counts_over_several_chunks_and_leaves_requests_alone(
    proxy: Proxy, client: socket.socket, server: socket.socket
) -> None:
    proxy.cut_after(10)
    carry(server, client, b"result")
    carry(client, server, b"question")
    server.sendall(b"result")
    assert receive(client, 4) == b"resu"
    assert client.recv(1) == b""


def test_refuse_refuses_new_connections_and_restore_listens_on_the_same_port(
    proxy: Proxy, upstream: socket.socket, client: socket.socket, server: socket.socket
) -> None:
    port = proxy.port
    for _ in range(2):
        proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            connect(proxy)
        carry(client, server, b"question")
        proxy.restore()
        with connect(proxy) as new, accept(upstream) as new_server:
            carry(new, new_server, b"question")
    assert proxy.port == port


def test_keeps_its_port_while_it_refuses(proxy: Proxy) -> None:
    proxy.refuse()
    with pytest.raises(OSError, match="in use"):
        socket.create_server(("127.0.0.1", proxy.port))


def test_leaves_nothing_behind(upstream: socket.socket) -> None:
    threads, files = threading.active_count(), len(list(Path("/dev/fd").iterdir()))
    with ExitStack() as ends:
        with Proxy(upstream.getsockname()) as proxy:
            client, server = ends.enter_context(connect(proxy)), ends.enter_context(accept(upstream))
            proxy.half_open()
            other, other_server = ends.enter_context(connect(proxy)), ends.enter_context(accept(upstream))
            proxy.latency = 0.2
            other_server.sendall(b"under way")
            proxy.refuse()
        assert [end.recv(1) for end in (client, server, other, other_server)] == [b""] * 4
    assert (threading.active_count(), len(list(Path("/dev/fd").iterdir()))) == (threads, files)
