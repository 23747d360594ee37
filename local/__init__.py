"""An embedded PostgreSQL and a local API Gateway, for `make run` and the tests. This package is not deployed."""

import sys
from types import TracebackType


def _print_unless_interrupted(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Ctrl-C ends every command of this package without a traceback, also while it imports its modules."""
    if not issubclass(kind, KeyboardInterrupt):
        _previous(kind, error, trace)


_previous, sys.excepthook = sys.excepthook, _print_unless_interrupted
