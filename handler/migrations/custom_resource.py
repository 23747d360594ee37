"""The Lambda entry that CloudFormation calls before the API's code changes, as a custom resource (docs/adr/0015).

It imports no more than a response needs. Settings that are wrong, a wheel that does not fit, a migration that cannot be
read: all of them must be reported, and a module that does not import reports nothing, while CloudFormation waits.

The protocol: AWS CloudFormation user guide, "Custom resource request objects" and "response objects".
"""

import http.client
import json
import logging
import os
import re
import time
from typing import Any
from urllib.parse import urlsplit

from handler.database import https
from handler.database.deadline import sleep, timeout_after
from handler.database.error_fields import sqlstate_of
from handler.migrations.errors import redacted

# Seconds of the invocation that the database does not get: to send the response in, and to end in after that.
TIME_TO_ANSWER = 10.0
TIME_TO_END = 0.5
# Seconds that a database gets which was paused, or is starting: Aurora takes 15 to wake up, and longer after a day
# (Aurora user guide, "Scaling to Zero ACUs"). The SQLSTATEs after which to try again: the server cannot be reached; it
# takes no connections yet; the connection was lost at COMMIT, and only a second time tells whether it happened.
PATIENCE = 60.0
TRY_AGAIN = ("08001", "57P03", "08007")
PUT_TIMEOUT = 5.0  # seconds that S3 gets, each time it is asked
# Seconds until it is asked again, doubled each time.
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
# Bytes; a response has at most 4096, a PhysicalResourceId takes up to 1024 of them, and JSON may double the reason.
MAX_REASON = 1000
# The domains of regions by how their names begin; all others are in amazonaws.com.
DOMAINS = {"cn-": "amazonaws.com.cn", "eusc-": "amazonaws.eu"}

logger = logging.getLogger(__name__)
logger.setLevel(logging.INFO)


class MigrationFailed(Exception):
    """What failed and in which migration, in one line of printable characters."""

    def __init__(self, reason: str) -> None:
        super().__init__("".join(character for character in " ".join(reason.split()) if character.isprintable()))


class CallbackFailed(Exception):
    """CloudFormation did not take the response."""


class ForeignResponseURL(ValueError):
    """The event's ResponseURL does not lead to CloudFormation, so CloudFormation has not sent the event."""


def handler(event: Any, context: Any) -> dict[str, Any]:
    """Create and Update migrate to the newest schema, Delete changes nothing; CloudFormation gets a response to each.

    Returns the response, also to a failure: after an exception Lambda would invoke again, and migrate behind the back
    of a deployment that has failed. Raises CallbackFailed when CloudFormation did not get the response; then a second
    invocation is right, and finds done what is done.

    An empty event, which is an invocation by hand, migrates, returns `{"Revision": …}`, and raises MigrationFailed.
    Raises ValueError for every other event, ForeignResponseURL among them, before anything is done.
    """
    left = context.get_remaining_time_in_millis() / 1000
    for_database = left - min(TIME_TO_ANSWER, left / 3)
    if not event:
        return _migrate(for_database)
    if not isinstance(event, dict) or not isinstance(event.get("ResponseURL"), str):
        raise ValueError("the event is not CloudFormation's, and not empty: nothing was done for it")  # noqa: TRY004
    try:
        _require_response_bucket(event["ResponseURL"], os.environ.get("AWS_REGION", ""))
    except ForeignResponseURL as error:
        logger.error("%s", error)  # noqa: TRY400 - the traceback says nothing more
        raise
    with timeout_after(left - TIME_TO_END):
        response = _respond(event, for_database)
        _send_response(event["ResponseURL"], response)
    return response


def _require_response_bucket(address: str, region: str) -> None:
    """Raise ForeignResponseURL unless `address` is an HTTPS address of CloudFormation's bucket in `region`.

    The bucket is named in the CloudFormation user guide, "Considerations for CloudFormation VPC endpoints": the region
    without its dashes. S3 user guide, "Virtual hosting of buckets": the forms of its host, of which older regions use
    the one with `s3-`.
    """
    bucket = f"cloudformation-custom-resource-response-{region.replace('-', '')}"
    domain = next((one for prefix, one in DOMAINS.items() if region.startswith(prefix)), "amazonaws.com")
    hosts = [f"{bucket}.{s3}.{domain}" for s3 in ("s3", f"s3.{region}", f"s3-{region}")]
    # No port and no user; ASCII only, so that no two readers find different hosts in it.
    found = re.fullmatch(r"https://([a-z0-9.-]+)/[!-~]*", address)
    if not region or found is None or found[1] not in hosts:
        shown = address.partition("?")[0][:200]  # what follows is a signature
        raise ForeignResponseURL(
            f"the ResponseURL {shown!r} is not an HTTPS address of the bucket {bucket}: nothing was done for the event"
        )


def _respond(event: dict[str, Any], seconds: float) -> dict[str, Any]:
    """Do what is asked within `seconds`. Returns the response to it, of at most 4096 bytes as JSON."""
    # The id never changes: CloudFormation deletes a resource whose id is another one after an Update.
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
        return same | {"Status": "FAILED", "Reason": str(error).encode()[:MAX_REASON].decode(errors="ignore")}
    except Exception as error:
        logger.exception("migration failed", exc_info=redacted(error))
        return same | {"Status": "FAILED", "Reason": f"unexpected {type(error).__name__}: see the log"}


def _migrate(seconds: float) -> dict[str, str]:
    """Bring the schema up to date within `seconds`. Returns its revision. Raises MigrationFailed."""
    try:
        with timeout_after(seconds):
            revision = _upgrade(seconds)
    except MigrationFailed as error:
        logger.error("migration failed: %s", error, exc_info=error.__cause__)  # noqa: TRY400 - the cause is enough
        raise
    return {"Revision": revision}


def _upgrade(seconds: float) -> str:
    """As `_migrate`. The cause of MigrationFailed is redacted; None where its message says enough."""
    try:
        from handler.migrations import failures  # noqa: PLC0415 - a failure of an import must be reported
        from handler.migrations.history import DatabaseIsAhead  # noqa: PLC0415
        from handler.migrations.upgrade import upgrade  # noqa: PLC0415
        from handler.settings import read_database_settings  # noqa: PLC0415
    except Exception as error:  # noqa: BLE001 - reported, like everything else
        # Nothing has been read yet that the text could repeat.
        reason = f"the code cannot be loaded: {type(error).__name__}: {error}"
        raise MigrationFailed(reason) from redacted(error)
    patience = time.monotonic() + min(PATIENCE, seconds)
    while True:
        try:
            revision = upgrade(read_database_settings(os.environ))
        except DatabaseIsAhead as ahead:
            # A deployment that failed after its migration is being rolled back: this is the code from before it.
            logger.warning("%s", ahead)
            return ahead.revision
        except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever it is, it is reported
            is_migration = failures.failing_migration(error) is not None  # which may raise any SQLSTATE itself
            if sqlstate_of(error) in TRY_AGAIN and not is_migration and time.monotonic() + 1 < patience:
                time.sleep(1)
                continue
            cause = None if isinstance(error, failures.EXPECTED) else redacted(error)
            raise MigrationFailed(failures.describe_failure(error)) from cause
        if revision is None:
            raise MigrationFailed("the code has no migrations: handler/migrations/versions was not shipped")
        logger.info("migrated: the schema is at %s", revision)
        return revision


def _send_response(address: str, response: dict[str, Any]) -> None:
    """PUT the response to a pre-signed URL of S3, again until it is taken or the time is up. Raises CallbackFailed.

    The URL was signed for a request without a content type, so there must be none.
    """
    body = json.dumps(response, ensure_ascii=False).encode(errors="replace")
    pause = FIRST_PAUSE
    while True:
        try:
            with timeout_after(PUT_TIMEOUT):
                status, _ = https.request("PUT", address, {"content-type": ""}, body)
        except (OSError, http.client.HTTPException, ValueError) as error:
            status, outcome = 0, type(error).__name__
        else:
            outcome = f"HTTP {status}"
        if 200 <= status < 300:
            return
        if 300 <= status < 500 or not sleep(pause):
            # Without the path and the signature: they are what allows to send a response.
            host = urlsplit(address).hostname
            message = f"CloudFormation did not get the response {response['Status']}: {host}: {outcome}"
            logger.error(message)
            raise CallbackFailed(message)
        pause = min(2 * pause, LONGEST_PAUSE)
