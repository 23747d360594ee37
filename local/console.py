"""Log records and request lines in a readable form, on the terminal of `make run`.

On Lambda the runtime writes records as JSON with the request id. Here each line ends with the request id.
"""

import logging
import os
import re
import sys
from collections.abc import Callable
from typing import Any, TextIO

# The SQLSTATEs of a missing table or column: PostgreSQL manual, appendix A.
MISSING_IN_DATABASE = re.compile(r"\b(42P01|42703)\b")
HINT = 'hint: the database lacks a table or a column of the models: make revision MESSAGE="what changes"'
# ECMA-48, 8.3.117 "Select Graphic Rendition".
COLORS = {"DEBUG": "2", "INFO": "32", "WARNING": "33", "ERROR": "31", "CRITICAL": "1;31"}


def has_colors(stream: TextIO) -> bool:
    """Whether `stream` is a terminal and NO_COLOR is not set (no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR")


class Formatter(logging.Formatter):
    """`12:00:00 LEVEL logger: message [request id]`, followed by the traceback if the record has one."""

    def __init__(self, request_id: Callable[[], str], *, colors: bool) -> None:
        super().__init__("%(message)s", "%H:%M:%S")
        self._request_id = request_id
        self._colors = colors

    def format(self, record: logging.LogRecord) -> str:
        first, *rest = super().format(record).split("\n")
        if record.exc_info and MISSING_IN_DATABASE.search("\n".join(rest)):
            rest.append(HINT)
        level, time = f"{record.levelname:<8}", self.formatTime(record, self.datefmt)
        request_id = self._request_id()
        suffix = f" [{request_id}]" if request_id else ""
        if self._colors:
            level = f"\033[{COLORS.get(record.levelname, '0')}m{level}\033[0m"
            suffix = f"\033[2m{suffix}\033[0m" if suffix else ""
        return "\n".join([f"{time} {level} {record.name}: {first}{suffix}", *rest])


def show_log_records(request_id: Callable[[], str], stream: TextIO = sys.stderr) -> None:
    """Write the records of every logger to `stream`; `request_id` returns that of the request that is served.

    handler/main.py sets LOG_LEVEL at the root logger, so it selects the records.
    """
    handler = logging.StreamHandler(stream)
    handler.setFormatter(Formatter(request_id, colors=has_colors(stream)))
    logging.basicConfig(handlers=[handler])


def show_request(path: str, line: dict[str, Any]) -> None:
    """Print the request line with its path. The log of a deployment contains no paths."""
    status = str(line["status"])
    if has_colors(sys.stdout):
        color = COLORS["ERROR" if line["status"] >= 500 else "WARNING" if line["status"] >= 400 else "INFO"]
        status = f"\033[{color}m{status}\033[0m"
    cost = f"{line['Duration']:.1f} ms, round trips {line['RoundTrips']}"
    if line["connections"]:
        cost += " with a new connection"
    print(f"{line['method']} {path} {status} {cost} [{line['requestId']}]", flush=True)
