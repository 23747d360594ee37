"""The deadline of the current invocation. Every wait in `handler/database/` asks here how long it may last.

A deadline is a moment of `time.monotonic()`, in a context variable. A command line or a migration that has set none
waits without a limit.
"""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_deadline: ContextVar[float] = ContextVar("deadline", default=math.inf)


class DeadlineExceeded(TimeoutError):
    """The deadline has passed."""


def remaining() -> float | None:
    """Seconds until the deadline, None without one: an argument of `socket.settimeout`. Raises DeadlineExceeded."""
    deadline = _deadline.get()
    if deadline == math.inf:
        return None
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise DeadlineExceeded("no time left")
    return seconds


@contextmanager
def timeout_after(seconds: float) -> Iterator[None]:
    """Inside the block the deadline is `seconds` from now, or the outer deadline where that is earlier."""
    token = _deadline.set(min(_deadline.get(), time.monotonic() + seconds))
    try:
        yield
    finally:
        _deadline.reset(token)


@contextmanager
def grace_period(seconds: float) -> Iterator[None]:
    """Inside the block the deadline is `seconds` from now, also where the outer deadline has passed: for cleanup."""
    token = _deadline.set(time.monotonic() + seconds)
    try:
        yield
    finally:
        _deadline.reset(token)


def sleep(seconds: float) -> bool:
    """Sleep and return True; return False at once where the deadline would pass before the end."""
    try:
        left = remaining()
    except DeadlineExceeded:
        return False
    if left is not None and left <= seconds:
        return False
    time.sleep(seconds)
    return True
