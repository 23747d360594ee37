"""Locks on tables that are in use: short waits, with pauses between them in which requests go on (docs/adr/0015).

Every later query of a table queues behind a migration that waits for it, so one wait is at most LOCK_TIMEOUT long.
Then all that the attempt has done is rolled back to a savepoint, which also releases the locks that it holds
(PostgreSQL manual, 13.3.1 "Table-Level Locks"), and after a pause it runs again from its beginning. What was locked
before the savepoint, which is the place in the queue of migrations, is kept.
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

# Seconds that one attempt may wait for locks in all, and the least that a statement gets of them.
LOCK_TIMEOUT, SHORTEST_LOCK_TIMEOUT = 1.0, 0.1
# Seconds until the next attempt, doubled each time, with up to half of it added or taken away.
FIRST_PAUSE, LONGEST_PAUSE = 0.25, 5.0
# lock_not_available and deadlock_detected: PostgreSQL manual, appendix A.
LOCKED = ("55P03", "40P01")
# Whether this transaction holds a lock that makes the reads or writes of others wait: manual, table 13.2.
HOLDS_UP_OTHERS = """
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
    """Call `attempt` in a savepoint of the open transaction, again while a lock cannot be had, for `seconds` at most.

    Returns its result. Raises the DBAPIError of the last attempt when the time is up, and every other exception at
    once; the transaction has failed then.
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
            if sqlstate_of(error) not in LOCKED or time.monotonic() + jittered >= until:
                raise
            savepoint.rollback()
            logger.info("in use: %s; trying again in %.1f s", beginning(error.statement), jittered)
            time.sleep(jittered)
            pause = min(2 * pause, LONGEST_PAUSE)
        else:
            savepoint.commit()
            return result


def limit(connection: Connection, name: str, seconds: float) -> None:
    """Set a time limit of the server until the transaction or the savepoint ends; `inf` is no limit."""
    milliseconds = 0 if seconds == float("inf") else max(int(seconds * 1000), 1)  # 0 is no limit
    connection.execute(text(f"SET LOCAL {name} = {milliseconds}"))


def beginning(statement: str | None) -> str:
    """The key words and names that a statement begins with, up to its first literal, at most 100 characters.

    It names the table, and shows no value.
    """
    found = re.match(r'(?:\s*(?:"[^"]*"|[^\W\d][\w$]*|[.,*]))*', statement or "")
    assert found is not None
    return " ".join(found[0].split())[:100]


@contextmanager
def _bounded_waits(connection: Connection, until: float) -> Iterator[None]:
    """Inside the block all waits for locks share LOCK_TIMEOUT, from the moment that the first lock is held.

    Without that, the readers of the first of three tables would wait three times as long.
    """
    free = time.monotonic()  # when it was last seen that nothing is held up

    def before_cursor_execute(of: Connection, *_: Any) -> None:
        nonlocal free
        cursor = of.connection.cursor()
        cursor.execute(HOLDS_UP_OTHERS)
        now = time.monotonic()
        if not cursor.fetchone()[0]:  # type: ignore[index] # EXISTS returns a row
            free = now
        seconds = min(max(LOCK_TIMEOUT - (now - free), SHORTEST_LOCK_TIMEOUT), max(until - now, 0.001))
        cursor.execute(f"SET LOCAL lock_timeout = {max(int(seconds * 1000), 1)}")
        cursor.close()

    event.listen(connection, "before_cursor_execute", before_cursor_execute)
    try:
        yield
    finally:
        event.remove(connection, "before_cursor_execute", before_cursor_execute)
