"""A TCP proxy in front of PostgreSQL: counts round trips, adds latency, injects faults.

For tests and benchmarks.

One thread moves the bytes of all connections. A fault stops it first, because a socket for which another thread waits
in select() or recv() stays open in the kernel after close(), which then sends neither RST nor FIN.

When the proxy is silent, its kernel still acknowledges packets, so TCP keepalive and TCP_USER_TIMEOUT do not detect the
fault, as they detect a dead network.
"""

import socket
import struct
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from select import select
from typing import Self

HOST = "127.0.0.1"
CHUNK = 65536  # bytes
IDLE = 60.0  # seconds; select() ends earlier when there is something to do
HALT_TIMEOUT = 10.0  # seconds that a fault waits for the thread to stop
# SO_LINGER on, for 0 seconds: close() sends RST instead of FIN (socket(7)).
ABORT = struct.pack("ii", 1, 0)


@dataclass(eq=False)
class Count:
    """Connections and round trips. In a round trip the client sends data, and then the server does."""

    round_trips: int = 0
    connections: int = 0
    bytes_sent: int = 0  # by clients
    bytes_received: int = 0


@dataclass(eq=False)
class Pipe:
    """One direction of a connection."""

    source: socket.socket
    target: socket.socket
    # The chunks that were read, with the times to send them; an empty chunk is FIN. The capacity has no limit.
    chunks: deque[tuple[float, bytes]] = field(default_factory=deque)
    left: int = sys.maxsize  # bytes to read before FIN

    def read(self, latency: float) -> int:
        data = self.source.recv(min(CHUNK, self.left))
        if data:
            self.chunks.append((time.monotonic() + latency, data))
        self.end_after(self.left - len(data) if data else 0, latency)
        return len(data)

    def end_after(self, size: int, latency: float) -> None:
        self.left = size
        if size == 0:
            self.chunks.append((time.monotonic() + latency, b""))

    def write(self) -> None:
        with suppress(BlockingIOError):
            while self.chunks and self.chunks[0][0] <= time.monotonic():
                due, data = self.chunks[0]
                if data:
                    data = data[self.target.send(data) :]
                else:
                    self.target.shutdown(socket.SHUT_WR)
                if data:
                    self.chunks[0] = (due, data)
                else:
                    self.chunks.popleft()


class ProxiedConnection:
    def __init__(self, client: socket.socket, upstream: socket.socket) -> None:
        self.client = client
        self.upstream = upstream
        self.requests = Pipe(client, upstream)
        self.replies = Pipe(upstream, client)
        self.asked = False  # the client has sent data, and the server has sent nothing since
        self.fragile = False  # see reset_on_next_write()

    def close(self, *, abort: bool = False) -> None:
        if abort:
            self.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
        self.client.close()
        self.upstream.close()


class Proxy:
    """Listens on HOST:`port` until its `with` block ends; `upstream` is a unix socket's path or (host, port).

    `latency`, in seconds, delays every chunk in each direction; connecting stays immediate. A method returns when
    the thread has handled all earlier data and knows the fault.
    """

    def __init__(self, upstream: str | tuple[str, int]) -> None:
        self.latency = 0.0
        self._upstream = upstream
        self._connections: list[ProxiedConnection] = []
        self._silent: list[ProxiedConnection] = []  # open, but their data is discarded
        self._black_hole = False
        self._counts: list[Count] = []
        # Never listens. It reserves the port between refuse() and restore().
        self._reservation = socket.socket()
        self._reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._reservation.bind((HOST, 0))
        self.port: int = self._reservation.getsockname()[1]
        self._listener = self._listen()
        self._waker, self._woken = socket.socketpair()
        self._lock = threading.Lock()
        self._halt = threading.Barrier(2, timeout=HALT_TIMEOUT)
        self._open = True
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self.halted():
            self._open = False
        self._thread.join()
        for connection in self._connections + self._silent:
            connection.close()
        for one in (self._listener, self._reservation, self._waker, self._woken):
            one.close()

    @contextmanager
    def counting(self) -> Iterator[Count]:
        """Count the connections and round trips of all connections during the block."""
        count = Count()
        with self.halted():
            self._counts.append(count)
        try:
            yield count
        finally:
            with self.halted():
                self._counts.remove(count)

    def black_hole(self) -> None:
        """Discard all data on present and new connections, including delayed data, and close no connection."""
        with self.halted():
            self._black_hole = True
            self._silence()

    def refuse(self) -> None:
        """Refuse new connections. The present ones still work."""
        with self.halted():
            self._listener.close()

    def restore(self) -> None:
        """Accept new connections again, on the same port. Connections of black_hole() stay silent."""
        with self.halted():
            self._black_hole = False
            if self._listener.fileno() < 0:
                self._listener = self._listen()

    def reset(self) -> None:
        """Send RST to the clients of all connections, and close the connections to the server."""
        with self.halted():
            self._silence()
            for connection in self._silent:
                connection.close(abort=True)
            self._silent.clear()

    def reset_on_next_write(self) -> None:
        """Send RST to the client of each present connection when it next sends data, and discard that data."""
        with self.halted():
            for connection in self._connections:
                connection.fragile = True

    def half_open(self) -> None:
        """Close the server's side of all present connections; the client's side stays open and silent."""
        with self.halted():
            self._silence()
            for connection in self._silent:
                connection.upstream.close()

    def cut_after(self, n: int) -> None:
        """Forward `n` more bytes from the server on each present connection, then close it with FIN."""
        with self.halted():
            for connection in self._connections:
                if connection.replies.left:
                    connection.replies.end_after(n, self.latency)

    @contextmanager
    def halted(self) -> Iterator[None]:
        """Wait until the thread has handled all earlier data, and stop it during the block."""
        with self._lock:
            self._waker.send(b"!")
            self._halt.wait()
            try:
                yield
            finally:
                self._halt.wait()

    def _silence(self) -> None:
        self._silent += self._connections
        self._connections.clear()

    def _listen(self) -> socket.socket:
        listener = socket.create_server((HOST, self.port), reuse_port=True)
        listener.setblocking(False)
        return listener

    def _run(self) -> None:
        while self._open:
            if self._pass(IDLE):
                self._pass(0)  # accept the earlier connections,
                self._pass(0)  # and read their data
                self._halt.wait()
                self._halt.wait()

    def _pass(self, timeout: float) -> bool:
        """Wait `timeout` seconds at most for sockets that are ready, and handle them. Returns whether to stop."""
        pipes = [pipe for connection in self._connections for pipe in (connection.replies, connection.requests)]
        sources = [self._woken, *(pipe.source for pipe in pipes if pipe.left)]
        if self._listener.fileno() >= 0:
            sources.append(self._listener)
        now = time.monotonic()
        waiting = [(pipe.chunks[0][0] - now, pipe.target) for pipe in pipes if pipe.chunks]
        targets = [target for delay, target in waiting if delay <= 0]
        timeout = min([timeout, *(delay for delay, _ in waiting if delay > 0)])
        # select(), because poll() and epoll wait for whole milliseconds.
        readable = set(select(sources, targets, [], timeout)[0])
        for connection in self._connections.copy():
            self._transfer(connection, readable)
        if self._listener in readable:
            with suppress(BlockingIOError):
                while True:
                    self._connect(self._listener.accept()[0])
        return self._woken in readable and bool(self._woken.recv(1))

    def _connect(self, client: socket.socket) -> None:
        for count in self._counts:
            count.connections += 1
        upstream = socket.socket(socket.AF_UNIX if isinstance(self._upstream, str) else socket.AF_INET)
        connection = ProxiedConnection(client, upstream)
        if self._black_hole:
            self._silent.append(connection)
            return
        try:
            upstream.connect(self._upstream)
        except OSError:
            connection.close(abort=True)
            return
        for one in (client, upstream):
            one.setblocking(False)
            if one.family == socket.AF_INET:
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connections.append(connection)

    def _transfer(self, connection: ProxiedConnection, readable: set[socket.socket]) -> None:
        """Read available data, and write data that is due. After an error of one side, send RST to the client."""
        try:
            # Replies first, because a reply that is already here belongs to an earlier request.
            for pipe in (connection.replies, connection.requests):
                if pipe.left and pipe.source in readable and (size := pipe.read(self.latency)):
                    self.record(connection, pipe, size)
                pipe.write()
        except OSError:
            self._connections.remove(connection)
            connection.close(abort=True)
        else:
            # PostgreSQL has no half-closed connections, so after the server's FIN nothing can be sent to it.
            if not connection.replies.left and not connection.replies.chunks:
                self._connections.remove(connection)
                connection.close()

    def record(self, connection: ProxiedConnection, pipe: Pipe, size: int) -> None:
        is_reply = pipe is connection.replies
        if connection.fragile and not is_reply:
            raise ConnectionResetError
        for count in self._counts:
            if is_reply:
                count.round_trips += connection.asked
                count.bytes_received += size
            else:
                count.bytes_sent += size
        connection.asked = not is_reply
