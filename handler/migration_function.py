"""The Lambda entry that CloudFormation calls before the API's code changes, as a custom resource (docs/adr/0015).

It imports no more than an answer needs. Settings that are wrong, a wheel that does not fit, a migration that cannot be
read: all of it must be answered, and a module that does not import answers nothing, while CloudFormation waits.

The protocol: AWS CloudFormation user guide, "Custom resource request objects" and "response objects".
"""

import http.client
import json
import logging
import os
import time
from typing import Any
from urllib.parse import urlsplit

from handler.database import https
from handler.database.deadline import remaining, within

# Seconds of the invocation that the database does not get: to answer in, and to end in after that.
TIME_TO_ANSWER = 10.0
TIME_TO_END = 0.5
# Seconds that a database gets which was paused, or is starting: Aurora takes 15 to wake up, and longer after a day
# (Aurora user guide, "Scaling to Zero ACUs"). The SQLSTATEs after which to try again: nobody answers; the server takes
# no connections yet; the connection was lost at COMMIT, and only a second time tells whether it happened.
PATIENCE = 60.0
TRY_AGAIN = ("08001", "57P03", "08007")
PUT_TIMEOUT = 5.0  # seconds that S3 gets, each time it is asked
# Seconds until it is asked again, doubled each time.
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
# Bytes; an answer has at most 4096, a PhysicalResourceId takes up to 1024 of them, and JSON may double the reason.
MAX_REASON = 1000

logger = logging.getLogger(__name__)
logger.setLevel(logging.INFO)


class MigrationFailed(Exception):
    """Why, and in which migration, in words for whoever deploys: one line of at most MAX_REASON bytes."""

    def __init__(self, reason: str) -> None:
        line = "".join(character for character in " ".join(reason.split()) if character.isprintable())
        super().__init__(line.encode()[:MAX_REASON].decode(errors="ignore"))


class NobodyTold(Exception):
    """CloudFormation could not be told what came of it."""


def handler(event: Any, context: Any) -> dict[str, Any]:
    """Create and Update migrate to the newest schema, Delete touches nothing; CloudFormation is told whatever happens.

    Returns what it was told, a failure too: after an error Lambda invokes again, and would migrate behind the back of
    a deploy that has failed. Raises NobodyTold when there was no way to tell it; then a second time is right, and
    finds done what is done.

    An empty event, an invocation by hand, migrates, returns `{"Revision": …}`, and raises MigrationFailed. Any other
    event raises ValueError, and nothing is done for it.
    """
    left = context.get_remaining_time_in_millis() / 1000
    for_database = left - min(TIME_TO_ANSWER, left / 3)
    if not event:
        return _migrate(for_database)
    if not isinstance(event, dict) or not isinstance(event.get("ResponseURL"), str):
        raise ValueError("the event is not CloudFormation's, and not empty: nothing was done for it")  # noqa: TRY004
    with within(left - TIME_TO_END):
        answer = _answer(event, for_database)
        _tell(event["ResponseURL"], answer)
    return answer


def _answer(event: dict[str, Any], seconds: float) -> dict[str, Any]:
    """Do what is asked within `seconds`. Returns the answer to it, of at most 4096 bytes as JSON."""
    # The same for ever: CloudFormation deletes a resource whose id is another one after an Update.
    name = event.get("PhysicalResourceId") or event.get("LogicalResourceId") or "Migration"
    same = {key: event.get(key) for key in ("StackId", "RequestId", "LogicalResourceId")} | {"PhysicalResourceId": name}
    try:
        match event.get("RequestType"):
            case "Create" | "Update":
                return same | {"Status": "SUCCESS", "Data": _migrate(seconds)}
            case "Delete":
                return same | {"Status": "SUCCESS"}
            case _:
                return same | {"Status": "FAILED", "Reason": "RequestType is not Create, Update or Delete"}
    except MigrationFailed as error:
        return same | {"Status": "FAILED", "Reason": str(error)}
    except Exception as error:
        logger.exception("migration failed")
        return same | {"Status": "FAILED", "Reason": f"unexpected {type(error).__name__}: see the log"}


def _migrate(seconds: float) -> dict[str, str]:
    """Bring the schema up to date within `seconds`. Returns where it is. Raises MigrationFailed."""
    try:
        with within(seconds):
            revision = _upgrade(seconds)
    except MigrationFailed as error:
        # The traceback of what nobody expected only: those of the database's errors show what is in its rows.
        logger.error("migration failed: %s", error, exc_info=error.__cause__)  # noqa: TRY400
        raise
    return {"Revision": revision}


def _upgrade(seconds: float) -> str:
    try:
        from handler import migrate  # noqa: PLC0415 - may fail, and then there is somebody to tell
        from handler.migrations.history import DatabaseIsAhead  # noqa: PLC0415
        from handler.settings import read_database_settings  # noqa: PLC0415
    except Exception as error:
        raise MigrationFailed(f"the code cannot be loaded: {type(error).__name__}: {error}") from error
    patience = time.monotonic() + min(PATIENCE, seconds)
    while True:
        try:
            revision = migrate.upgrade(read_database_settings(os.environ))
        except DatabaseIsAhead as ahead:
            # A deploy that failed after its migration is being rolled back: this is the code from before it.
            logger.warning("%s", ahead)
            return ahead.revision
        except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever it is, it is told
            if migrate.code(error) in TRY_AGAIN and time.monotonic() + 1 < patience:
                time.sleep(1)
                continue
            place = migrate.place(error)
            reason = f"{place}: {migrate.reason(error)}" if place else migrate.reason(error)
            raise MigrationFailed(reason) from (None if isinstance(error, migrate.EXPECTED) else error)
        if revision is None:
            raise MigrationFailed("the code has no migrations: handler/migrations/versions was not shipped")
        logger.info("migrated: the schema is at %s", revision)
        return revision


def _tell(address: str, answer: dict[str, Any]) -> None:
    """PUT the answer to a pre-signed URL of S3, again until it is taken or the time is up. Raises NobodyTold.

    The URL was signed for a request without a content type, so there must be none.
    """
    body = json.dumps(answer, ensure_ascii=False).encode(errors="replace")
    pause = FIRST_PAUSE
    while True:
        try:
            with within(PUT_TIMEOUT):
                status, _ = https.request("PUT", address, {"content-type": ""}, body)
        except (OSError, http.client.HTTPException, ValueError) as error:
            status, said = 0, type(error).__name__
        else:
            said = f"HTTP {status}"
        if 200 <= status < 300:
            return
        if 300 <= status < 500 or not _wait(pause):
            # Not the URL: whoever has it may answer.
            message = f"CloudFormation could not be told {answer['Status']}: {urlsplit(address).hostname}: {said}"
            logger.error(message)
            raise NobodyTold(message)
        pause = min(2 * pause, LONGEST_PAUSE)


def _wait(seconds: float) -> bool:
    """Whether there is time to."""
    try:
        left = remaining()
    except TimeoutError:
        return False
    if left is not None and left <= seconds:
        return False
    time.sleep(seconds)
    return True
