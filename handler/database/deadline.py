"""How long this invocation may still wait for anything. Every wait in `database/` asks here first.

A deadline is a moment of `time.monotonic()`; one waits `remaining()` seconds at most, and not at all when it has
passed. Where nobody set one (a command line, a migration) there is none.
"""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_deadline: ContextVar[float] = ContextVar("deadline", default=math.inf)


class OutOfTime(TimeoutError):
    """There is no time left to begin what was asked for."""


def remaining() -> float | None:
    """Seconds until the deadline, as sockets take it: None without one. Raises OutOfTime when it has passed."""
    deadline = _deadline.get()
    if deadline == math.inf:
        return None
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise OutOfTime("no time left")
    return seconds


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Inside the block nothing waits longer than `seconds` from now, nor past the deadline outside."""
    token = _deadline.set(min(_deadline.get(), time.monotonic() + seconds))
    try:
        yield
    finally:
        _deadline.reset(token)


@contextmanager
def overtime(seconds: float) -> Iterator[None]:
    """Inside the block, `seconds` from now whatever the deadline was: to clean up after it has passed."""
    token = _deadline.set(time.monotonic() + seconds)
    try:
        yield
    finally:
        _deadline.reset(token)


def sleep(seconds: float) -> bool:
    """Sleep, and return True; return False at once where the deadline would pass meanwhile."""
    try:
        left = remaining()
    except OutOfTime:
        return False
    if left is not None and left <= seconds:
        return False
    time.sleep(seconds)
    return True
