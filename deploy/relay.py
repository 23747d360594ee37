"""A TCP relay to a database of this machine, for the containers of `sam local`."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Thread

CHUNK = 65536  # bytes


@contextmanager
def relay(upstream: str | tuple[str, int], host: str = "127.0.0.1") -> Iterator[int]:
    """Forward connections to `upstream`, the path of a unix socket or (host, port), during the block. Yields the port.

    The relay listens on a free port of `host`. Raises OSError if `host` is not an address of this machine.
    """
    with socket.create_server((host, 0)) as listener:
        Thread(target=_accept, args=(listener, upstream), daemon=True).start()
        try:
            yield listener.getsockname()[1]
        finally:
            with suppress(OSError):  # macOS raises, because a listener is not connected
                listener.shutdown(socket.SHUT_RDWR)  # close() alone does not end accept() in the other thread


def _accept(listener: socket.socket, upstream: str | tuple[str, int]) -> None:
    with suppress(OSError):  # the listener is closed
        while True:
            client, _ = listener.accept()
            Thread(target=_forward, args=(client, upstream), daemon=True).start()


def _forward(client: socket.socket, upstream: str | tuple[str, int]) -> None:
    family = socket.AF_UNIX if isinstance(upstream, str) else socket.AF_INET
    with client, socket.socket(family) as server, suppress(OSError):
        server.connect(upstream)
        replies = Thread(target=_copy, args=(server, client), daemon=True)
        replies.start()
        _copy(client, server)
        replies.join()


def _copy(source: socket.socket, target: socket.socket) -> None:
    """Copy until one side closes, then close both, because PostgreSQL's protocol has no half-closed connections."""
    with suppress(OSError):
        while data := source.recv(CHUNK):
            target.sendall(data)
    for one in (source, target):
        with suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)
