"""Short waits for locks on tables that are in use, with pauses in which requests continue (docs/adr/0015).

While a migration waits for a table, all later queries of the table wait behind it. So one wait lasts LOCK_TIMEOUT at
most. Then the attempt is rolled back to a savepoint, which releases its locks (PostgreSQL manual, 13.3.1 "Table-Level
Locks"), and after a pause it runs again from the beginning. The lock that keeps other migrations out was taken before
the savepoint and is kept.
"""

import logging
import random
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from sqlalchemy import Connection, event, text
from sqlalchemy.exc import DBAPIError

from handler.database.error_fields import sqlstate_of

# Seconds for which one attempt may wait for locks in all, and the minimum for each statement.
LOCK_TIMEOUT, SHORTEST_LOCK_TIMEOUT = 1.0, 0.1
# Seconds until the next attempt, doubled each time, with a jitter of 50 %.
FIRST_PAUSE, LONGEST_PAUSE = 0.25, 5.0
# lock_not_available and deadlock_detected: PostgreSQL manual, appendix A.
LOCK_SQLSTATES = ("55P03", "40P01")
# Whether this transaction holds a lock that blocks reads or writes of other sessions: manual, table 13.2.
HOLDS_BLOCKING_LOCK = """
SELECT EXISTS (
    SELECT FROM pg_catalog.pg_locks
    WHERE pid = pg_catalog.pg_backend_pid() AND locktype = 'relation' AND granted
    AND mode NOT IN ('AccessShareLock', 'RowShareLock', 'RowExclusiveLock', 'ShareUpdateExclusiveLock')
)
"""

Result = TypeVar("Result")
logger = logging.getLogger(__name__)
logger.setLevel(logging.INFO)


def retry_while_locked(connection: Connection, attempt: Callable[[], Result], seconds: float) -> Result:
    """Call `attempt` in a savepoint of the open transaction, again for `seconds` at most if it cannot get a lock.

    Returns its result. Raises the DBAPIError of the last attempt after `seconds`, and every other exception at once.
    After an exception the transaction has failed.
    """
    until = time.monotonic() + seconds
    pause = FIRST_PAUSE
    while True:
        savepoint = connection.begin_nested()
        try:
            with _bounded_waits(connection, until):
                result = attempt()
        except DBAPIError as error:
            jittered = pause * random.uniform(0.5, 1.5)  # noqa: S311 - no secret
            if sqlstate_of(error) not in LOCK_SQLSTATES or time.monotonic() + jittered >= until:
                raise
            savepoint.rollback()
            logger.info("table in use: %s; retrying in %.1f s", statement_prefix(error.statement), jittered)
            time.sleep(jittered)
            pause = min(2 * pause, LONGEST_PAUSE)
        else:
            savepoint.commit()
            return result


def set_limit(connection: Connection, name: str, seconds: float) -> None:
    """Set a timeout of the server until the transaction or the savepoint ends; `inf` disables it."""
    milliseconds = 0 if seconds == float("inf") else max(int(seconds * 1000), 1)  # 0 disables the timeout
    connection.execute(text(f"SET LOCAL {name} = {milliseconds}"))


def statement_prefix(statement: str | None) -> str:
    """Return the key words and names before the first literal of a statement, at most 100 characters.

    They include the table, and no value.
    """
    found = re.match(r'(?:\s*(?:"[^"]*"|[^\W\d][\w$]*|[.,*]))*', statement or "")
    assert found is not None
    return " ".join(found[0].split())[:100]


@contextmanager
def _bounded_waits(connection: Connection, until: float) -> Iterator[None]:
    """Inside the block, all waits after the first blocking lock share LOCK_TIMEOUT.

    Otherwise the readers of the first of three tables would wait three times as long.
    """
    last_free = time.monotonic()  # when this transaction last held no blocking lock

    def before_cursor_execute(of: Connection, *_: Any) -> None:
        nonlocal last_free
        cursor = of.connection.cursor()
        cursor.execute(HOLDS_BLOCKING_LOCK)
        now = time.monotonic()
        if not cursor.fetchone()[0]:  # type: ignore[index] # EXISTS returns a row
            last_free = now
        seconds = min(max(LOCK_TIMEOUT - (now - last_free), SHORTEST_LOCK_TIMEOUT), max(until - now, 0.001))
        cursor.execute(f"SET LOCAL lock_timeout = {max(int(seconds * 1000), 1)}")
        cursor.close()

    event.listen(connection, "before_cursor_execute", before_cursor_execute)
    try:
        yield
    finally:
        event.remove(connection, "before_cursor_execute", before_cursor_execute)
