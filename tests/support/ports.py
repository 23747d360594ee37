"""TCP ports of the loopback interface for programs that tests start."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def reserved_port() -> Iterator[int]:
    """Yield a port of 127.0.0.1 that the kernel assigns to no other program during the block.

    A program can be stopped and started again on it.
    """
    with socket.socket() as reservation:
        # A socket that is bound but does not listen leaves the port to a program that names it with the same option
        # (socket(7)).
        reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reservation.bind(("127.0.0.1", 0))
        yield reservation.getsockname()[1]
