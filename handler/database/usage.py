"""What an invocation spends on its database, counted where the bytes pass. Nobody has to ask for it."""

from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(slots=True)
class Spent:
    """A round trip: something was sent, and then something came. Resolving, connecting and TLS only take time."""

    connections: int = 0  # that were tried
    round_trips: int = 0
    seconds: float = 0.0  # connecting, sending, waiting


_spent: ContextVar[Spent | None] = ContextVar("spent", default=None)


def count() -> Spent:
    """Count from now on, in this context and those that are copied from it, into what is returned."""
    spent = Spent()
    _spent.set(spent)
    return spent


def spend(seconds: float, *, round_trips: int = 0, connections: int = 0) -> None:
    spent = _spent.get()
    if spent is not None:
        spent.seconds += seconds
        spent.round_trips += round_trips
        spent.connections += connections
