"""How an invocation uses its database: connections, round trips and the time that they take.

The driver records them where it sends and receives, so that they hold for every statement, whichever code runs it.
"""

from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(slots=True)
class DatabaseUsage:
    """One round trip is: something was sent, and then something was received.

    Resolving a name, connecting and TLS take time and are no round trips.
    """

    connections: int = 0  # attempts to connect
    round_trips: int = 0
    seconds: float = 0.0  # connecting, sending, waiting


_usage: ContextVar[DatabaseUsage | None] = ContextVar("database_usage", default=None)


def track_usage() -> DatabaseUsage:
    """Return a DatabaseUsage that counts from now on, in this context and in those that are copied from it."""
    usage = DatabaseUsage()
    _usage.set(usage)
    return usage


def record(seconds: float, *, round_trips: int = 0, connections: int = 0) -> None:
    """Add to the usage of the current invocation. Does nothing where no usage is tracked."""
    usage = _usage.get()
    if usage is not None:
        usage.seconds += seconds
        usage.round_trips += round_trips
        usage.connections += connections
