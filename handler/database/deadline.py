"""The deadline of the current invocation, which limits every wait in `handler/database/`.

A deadline is a value of `time.monotonic()` in a context variable. Without a deadline, as on a command line, waits are
not limited.
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
    """Return the seconds until the deadline, or None without one, as `socket.settimeout` expects.

    Raises DeadlineExceeded.
    """
    deadline = _deadline.get()
    if deadline == math.inf:
        return None
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise DeadlineExceeded("no time left")
    return seconds


@contextmanager
def timeout_after(seconds: float) -> Iterator[None]:
    """Inside the block the deadline is `seconds` from now, or the outer deadline if that is earlier."""
    token = _deadline.set(min(_deadline.get(), time.monotonic() + seconds))
    try:
        yield
    finally:
        _deadline.reset(token)


@contextmanager
def grace_period(seconds: float) -> Iterator[None]:
    """Inside the block the deadline is `seconds` from now, even if the outer deadline has passed. For cleanup."""
    token = _deadline.set(time.monotonic() + seconds)
    try:
        yield
    finally:
        _deadline.reset(token)


def sleep(seconds: float) -> bool:
    """Sleep and return True. If the deadline is earlier than the end of the sleep, return False at once."""
    try:
        left = remaining()
    except DeadlineExceeded:
        return False
    if left is not None and left <= seconds:
        return False
    time.sleep(seconds)
    return True
