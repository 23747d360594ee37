"""Debuggers under `make run`: `breakpoint()` in the terminal, and debugpy for an IDE."""

import sys
import time
from collections.abc import Callable
from types import SimpleNamespace

from sqlalchemy import Engine, event

from handler.database import deadline

# Events of breakpoint(), with any PYTHONBREAKPOINT, and of pdb: Python's "Audit events table".
AUDIT_EVENTS = ("builtins.breakpoint", "pdb.Pdb")


def call_when_opened(opened: Callable[[], None]) -> None:
    """Call `opened` when a debugger opens in this process.

    It is an audit hook, because `sys.breakpointhook` would add a frame between the debugger and the code.
    """

    def hook(name: str, _: object) -> None:
        if name in AUDIT_EVENTS:
            opened()

    sys.addaudithook(hook)


def stop_deadline() -> None:
    """Stop the clock of deadlines until `start_deadline`, so that no deadline of a request passes."""
    now = time.monotonic()
    vars(deadline)["time"] = SimpleNamespace(monotonic=lambda: now, sleep=time.sleep)


def start_deadline() -> None:
    vars(deadline)["time"] = time


def keep_idle_transactions(engine: Engine) -> None:
    """Remove the limit for idle transactions of `engine` (0002_limits.py), so that a debugger can hold one."""

    @event.listens_for(engine, "connect")
    def unlimited(connection: object, _: object) -> None:
        connection.execute_simple("SET idle_in_transaction_session_timeout = 0")  # type: ignore[attr-defined]


def listen(port: int) -> None:
    """Let the debugger of an IDE attach to this process on `port` of 127.0.0.1."""
    import debugpy  # noqa: PLC0415, T100 - only where it is asked for

    debugpy.listen(("127.0.0.1", port))  # noqa: T100 - what it is for
