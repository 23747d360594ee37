"""A TCP proxy in front of PostgreSQL: counts round trips, adds latency, injects faults.

For tests and benchmarks.

One thread moves the bytes of all connections. A fault halts it first: a socket that another thread waits for in
select() or recv() stays open in the kernel after close(), and neither RST nor FIN leaves.

Where a peer is silent here, the kernel goes on acknowledging for it: TCP keepalive and TCP_USER_TIMEOUT, which
notice a dead network, notice nothing.
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
HALT_TIMEOUT = 10.0  # seconds until a fault gives up on a thread that does not halt
# SO_LINGER on, for 0 seconds: close() sends RST instead of FIN (socket(7)).
ABORT = struct.pack("ii", 1, 0)


@dataclass(eq=False)
class Count:
    """A round trip: the client sent something, and then something came from the server."""

    round_trips: int = 0
    connections: int = 0
    bytes_sent: int = 0  # by clients
    bytes_received: int = 0


@dataclass(eq=False)
class Pipe:
    """One direction of a connection."""

    source: socket.socket
    target: socket.socket
    # What was read, and when it leaves; an empty chunk is FIN. Unlike a network's, the capacity has no limit.
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
        self.asked = False  # the client sent something, and nothing has come from the server since
        self.fragile = False  # see reset_on_next_write()

    def close(self, *, abort: bool = False) -> None:
        if abort:
            self.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
        self.client.close()
        self.upstream.close()


class Proxy:
    """Listens on HOST:`port` until its `with` block ends; `upstream` is a unix socket's path or (host, port).

    `latency`, in seconds, delays every chunk in each direction; connecting stays immediate. A method returns when
    the thread has handled what came before it and knows the fault.
    """

    def __init__(self, upstream: str | tuple[str, int]) -> None:
        self.latency = 0.0
        self._upstream = upstream
        self._connections: list[ProxiedConnection] = []
        self._silent: list[ProxiedConnection] = []  # open, and nothing passes any more
        self._black_hole = False
        self._counts: list[Count] = []
        # Never listens: keeps the port from others between refuse() and restore().
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
        """Count what passes during the block, on all connections."""
        count = Count()
        with self.halted():
            self._counts.append(count)
        try:
            yield count
        finally:
            with self.halted():
                self._counts.remove(count)

    def black_hole(self) -> None:
        """Swallow everything, what is under way included, on present and new connections, and close none."""
        with self.halted():
            self._black_hole = True
            self._silence()

    def refuse(self) -> None:
        """Refuse new connections; the present ones go on."""
        with self.halted():
            self._listener.close()

    def restore(self) -> None:
        """Let new connections work again, on the same port. Those that black_hole() swallowed stay silent."""
        with self.halted():
            self._black_hole = False
            if self._listener.fileno() < 0:
                self._listener = self._listen()

    def reset(self) -> None:
        """RST to the clients of all connections; the server sees them closed."""
        with self.halted():
            self._silence()
            for connection in self._silent:
                connection.close(abort=True)
            self._silent.clear()

    def reset_on_next_write(self) -> None:
        """RST to the client of each present connection when it next sends something, which gets no further."""
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
        """The thread has handled what came before, and stands still during the block."""
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
                self._pass(0)  # accepts the connections that were made before,
                self._pass(0)  # and reads what they sent
                self._halt.wait()
                self._halt.wait()

    def _pass(self, timeout: float) -> bool:
        """Wait until something can be done, at most `timeout` seconds, and do it. Returns whether to halt."""
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
        """Read what is readable and write what is due. What breaks one side is RST to the client."""
        try:
            # Replies first: one that is here already does not answer a request that is only just read.
            for pipe in (connection.replies, connection.requests):
                if pipe.left and pipe.source in readable and (size := pipe.read(self.latency)):
                    self.record(connection, pipe, size)
                pipe.write()
        except OSError:
            self._connections.remove(connection)
            connection.close(abort=True)
        else:
            # PostgreSQL never half-closes: after the server's FIN there is nobody to send to.
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
