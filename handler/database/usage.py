"""The database usage of an invocation: its connections, its round trips and the time that they take.

The driver records usage where it sends and receives, so every statement is included.
"""

from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(slots=True)
class DatabaseUsage:
    """One round trip is data that was sent, and data that was received after it.

    Name resolution, connecting and the TLS handshake count as time, not as round trips.
    """

    connections: int = 0  # attempts to connect
    round_trips: int = 0
    seconds: float = 0.0  # connecting, sending, waiting


_usage: ContextVar[DatabaseUsage | None] = ContextVar("database_usage", default=None)


def track_usage() -> DatabaseUsage:
    """Return a DatabaseUsage that is updated from now on, in this context and in copies of it."""
    usage = DatabaseUsage()
    _usage.set(usage)
    return usage


def record(seconds: float, *, round_trips: int = 0, connections: int = 0) -> None:
    """Add to the usage of the current invocation. Does nothing if no usage is tracked."""
    usage = _usage.get()
    if usage is not None:
        usage.seconds += seconds
        usage.round_trips += round_trips
        usage.connections += connections
