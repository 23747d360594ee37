"""The messages of a batch, and the replies to it: PostgreSQL's extended query protocol in one round trip.

A batch is sent in one flush. It has one Sync, or is one simple Query, and the server ends its replies with one
ReadyForQuery. After an error the server skips all messages up to the Sync, so no statement runs if BEGIN fails.
PostgreSQL manual: 54.2.3 "Extended Query", 54.2.4 "Pipelining", 54.7 "Message Formats".
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from struct import Struct
from typing import Any, NamedTuple

from pg8000.core import Context

SYNC = b"S\x00\x00\x00\x04"
TERMINATE = b"X\x00\x00\x00\x04"
EXECUTE = b"E\x00\x00\x00\x09\x00\x00\x00\x00\x00"  # the unnamed portal, all rows
DESCRIBE = b"D\x00\x00\x00\x06P\x00"  # the unnamed portal
PING = b"Q\x00\x00\x00\x05\x00"  # an empty query
CANCEL_REQUEST = 80877102

READY, ERROR, COPY_IN = b"Z", b"E", b"G"
IGNORED_REPLIES = frozenset((b"1", b"2", b"n"))  # ParseComplete, BindComplete, NoData: they have no content
ASYNCHRONOUS = frozenset((b"N", b"A", b"S"))  # notice, notification, parameter status: possible at any time
# Consecutive replies of these codes are one letter in the reply codes: rows, and COPY data. In a batch with SHOW, rows
# are not merged, because each SHOW returns one.
REPEATED = (b"D", b"d")
REPEATED_AFTER_SHOW = (b"d",)
STATUSES = (b"I", b"T", b"E")  # of ReadyForQuery: idle, in a transaction, in a failed transaction
MAX_REPLIES = 100_000  # to one batch; checking their order takes 260 bytes of memory for each (docs/adr/0024)

# Patterns of the reply codes to a batch. An error ends them early.
_REPLIES_TO_STATEMENT = rb"12(?:TD*|n)(?:C|I|Gc?C|Hd?cC)"
_OR_ERROR = rb"|[^EZ]*EZ"
REPLIES_TO_QUERY = re.compile(rb"(?:(?:TD?)?C|I|Hd?cC)+Z" + _OR_ERROR)
_FATAL = b"\x00VFATAL\x00"  # the severity: manual, 54.8 "Error and Notice Message Fields"

_int16 = Struct("!H").pack
int32 = Struct("!i").pack


class Batch(NamedTuple):
    """The messages of one flush, the pattern of their reply codes, and the context that pg8000's handlers fill."""

    messages: bytes
    replies: "re.Pattern[bytes]"
    context: Any
    shows_settings: bool = False  # SHOW runs before the statement, once for each setting


def simple_query(statement: bytes, context: Any) -> Batch:
    """Return the batch of one or several statements without parameters: manual, 54.2.2 "Simple Query"."""
    return Batch(message(b"Q", statement + b"\x00"), REPLIES_TO_QUERY, context)


def ping() -> Batch:
    return Batch(PING, REPLIES_TO_QUERY, Context(""))


def message(code: bytes, data: bytes) -> bytes:
    return code + int32(len(data) + 4) + data


def parse(statement: bytes, oids: Sequence[int] = ()) -> bytes:
    """Return a Parse of the unnamed statement. The server infers types that are 0, for which pg8000 has -1."""
    types = b"".join(int32(max(oid, 0)) for oid in oids)
    return message(b"P", b"\x00" + statement + b"\x00" + _int16(len(oids)) + types)


def bind(params: Sequence[bytes | None]) -> bytes:
    """Return a Bind to the unnamed portal, with all parameters and results as text."""
    parts = [b"\x00\x00\x00\x00", _int16(len(params))]
    for param in params:
        parts += (b"\xff\xff\xff\xff",) if param is None else (int32(len(param)), param)
    parts.append(b"\x00\x00")
    return message(b"B", b"".join(parts))


@lru_cache
def frame(begin: str, settings: tuple[tuple[str, str], ...], commits: bool) -> tuple[bytes, bytes, "re.Pattern[bytes]"]:
    """Return the messages before the Parse of a statement, the messages after its Bind, and the pattern of the replies.

    `begin` contains statements to run first, separated by semicolons. Each of `settings` is read with SHOW. SHOW takes
    no snapshot, so the statement may still be SET TRANSACTION or LOCK. With `commits`, COMMIT follows the statement.
    """
    first = begin.split(";") if begin else []
    before = b"".join(_undescribed(statement) for statement in (*first, *(f"show {name}" for name, _ in settings)))
    after = DESCRIBE + EXECUTE + (_undescribed("commit") if commits else b"") + SYNC
    replies = rb"12C" * len(first) + rb"12DC" * len(settings) + _REPLIES_TO_STATEMENT + rb"12C" * commits + rb"Z"
    return before, after, re.compile(replies + _OR_ERROR)


def _undescribed(statement: str) -> bytes:
    """Return the messages of a statement without parameters, without a Describe."""
    return parse(statement.encode()) + bind(()) + EXECUTE


def may_follow_replies(messages: bytes) -> bool:
    """Whether the server may send `messages` after ReadyForQuery: asynchronous messages, and a FATAL error."""
    start = 0
    while messages[start : start + 1] in ASYNCHRONOUS and len(messages) >= start + 5:
        start += 1 + max(4, int.from_bytes(messages[start + 1 : start + 5]))
    if messages[start : start + 1] == ERROR:
        # The reason why the server ends the connection between two statements: manual, 54.2 "Termination".
        return _FATAL in messages[start : start + 1 + int.from_bytes(messages[start + 1 : start + 5])]
    return start >= len(messages) or messages[start : start + 1] in ASYNCHRONOUS
