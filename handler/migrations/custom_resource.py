"""The custom resource that CloudFormation calls before it changes the API's code (docs/adr/0015).

At import it loads only what it needs to send a response. Wrong settings, a wheel for another platform or a migration
that cannot be imported must be reported; CloudFormation would wait for a module that fails to import.

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

# Seconds of the invocation that are reserved: for sending the response, and for returning after that.
TIME_TO_RESPOND = 10.0
TIME_TO_RETURN = 0.5
# Seconds to wait for a database that was paused or is starting. Aurora takes 15 to resume, and longer after a day
# (Aurora user guide, "Scaling to Zero ACUs").
STARTUP_WAIT = 60.0
# SQLSTATEs after which the migration runs again: the server cannot be reached; it does not accept connections yet; the
# connection was lost during COMMIT, and only another attempt shows whether the transaction was committed.
RETRYABLE_SQLSTATES = ("08001", "57P03", "08007")
PUT_TIMEOUT = 5.0  # seconds for each attempt to send the response to S3
# Seconds between the attempts, doubled each time.
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
# Bytes. A response may have 4096, of which a PhysicalResourceId takes up to 1024, and JSON may double the reason.
MAX_REASON = 1000
# Domains by the beginning of the region's name; the default is amazonaws.com.
DOMAINS = {"cn-": "amazonaws.com.cn", "eusc-": "amazonaws.eu"}

logger = logging.getLogger(__name__)
logger.setLevel(logging.INFO)


class MigrationFailed(Exception):
    """A migration failed. The message is one line of printable characters that names the failure and the migration."""

    def __init__(self, reason: str) -> None:
        super().__init__("".join(character for character in " ".join(reason.split()) if character.isprintable()))


class CallbackFailed(Exception):
    """CloudFormation did not accept the response."""


class ForeignResponseURL(ValueError):
    """The event's ResponseURL is not an address of CloudFormation, so CloudFormation did not send the event."""


def handler(event: Any, context: Any) -> dict[str, Any]:
    """Migrate to the newest schema for Create and Update, do nothing for Delete, and send CloudFormation a response.

    Returns the response, also after a failed migration: after an exception, Lambda would invoke the function again, and
    migrate for a deployment that has failed. Raises CallbackFailed if CloudFormation did not get the response. Then a
    second invocation is correct, since a migration that was applied is not applied again.

    For an empty event, which is a manual invocation, migrates and returns `{"Revision": …}`, or raises MigrationFailed.
    Raises ValueError, also ForeignResponseURL, for any other event, without doing anything.
    """
    left = context.get_remaining_time_in_millis() / 1000
    for_database = left - min(TIME_TO_RESPOND, left / 3)
    if not event:
        return _migrate(for_database)
    if not isinstance(event, dict) or not isinstance(event.get("ResponseURL"), str):
        raise ValueError("the event is neither empty nor from CloudFormation: it was ignored")  # noqa: TRY004
    try:
        _require_response_bucket(event["ResponseURL"], os.environ.get("AWS_REGION", ""))
    except ForeignResponseURL as error:
        logger.error("%s", error)  # noqa: TRY400 - the message is enough
        raise
    with timeout_after(left - TIME_TO_RETURN):
        response = _respond(event, for_database)
        _send_response(event["ResponseURL"], response)
    return response


def _require_response_bucket(address: str, region: str) -> None:
    """Raise ForeignResponseURL unless `address` is an HTTPS address of CloudFormation's bucket in `region`.

    The name of the bucket ends with the region without its dashes: CloudFormation user guide, "Considerations for
    CloudFormation VPC endpoints". The forms of its host are in the S3 user guide, "Virtual hosting of buckets"; older
    regions use the one with `s3-`.
    """
    bucket = f"cloudformation-custom-resource-response-{region.replace('-', '')}"
    domain = next((one for prefix, one in DOMAINS.items() if region.startswith(prefix)), "amazonaws.com")
    hosts = [f"{bucket}.{s3}.{domain}" for s3 in ("s3", f"s3.{region}", f"s3-{region}")]
    # No port and no user. Only ASCII, so that all parsers find the same host.
    found = re.fullmatch(r"https://([a-z0-9.-]+)/[!-~]*", address)
    if not region or found is None or found[1] not in hosts:
        shown = address.partition("?")[0][:200]  # the query contains the signature
        raise ForeignResponseURL(
            f"the ResponseURL {shown!r} is not an HTTPS address of the bucket {bucket}: the event was ignored"
        )


def _respond(event: dict[str, Any], seconds: float) -> dict[str, Any]:
    """Handle the request within `seconds`. Returns the response, which has at most 4096 bytes as JSON."""
    # The id never changes, because CloudFormation deletes the old resource if an Update returns another id.
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
    """Migrate to the newest schema within `seconds`. Returns its revision. Raises MigrationFailed."""
    try:
        with timeout_after(seconds):
            revision = _upgrade(seconds)
    except MigrationFailed as error:
        logger.error("migration failed: %s", error, exc_info=error.__cause__)  # noqa: TRY400 - the cause is enough
        raise
    return {"Revision": revision}


def _upgrade(seconds: float) -> str:
    """As `_migrate`. The cause of MigrationFailed is redacted, and None if the message is enough."""
    try:
        from handler.migrations import failures  # noqa: PLC0415 - a failed import must be reported
        from handler.migrations.history import DatabaseIsAhead  # noqa: PLC0415
        from handler.migrations.upgrade import upgrade  # noqa: PLC0415
        from handler.settings import read_database_settings  # noqa: PLC0415
    except Exception as error:  # noqa: BLE001 - every failure is reported
        # The text cannot contain a value of a row or a setting, because none was read.
        reason = f"the code cannot be loaded: {type(error).__name__}: {error}"
        raise MigrationFailed(reason) from redacted(error)
    retry_until = time.monotonic() + min(STARTUP_WAIT, seconds)
    while True:
        try:
            revision = upgrade(read_database_settings(os.environ))
        except DatabaseIsAhead as ahead:
            # A deployment failed after its migration, and this is the older code to which it is rolled back.
            logger.warning("%s", ahead)
            return ahead.revision
        except (Exception, SystemExit) as error:  # noqa: BLE001 - every failure is reported
            is_migration = failures.failing_migration(error) is not None  # a migration may raise any SQLSTATE itself
            is_retryable = sqlstate_of(error) in RETRYABLE_SQLSTATES and not is_migration
            if is_retryable and time.monotonic() + 1 < retry_until:
                time.sleep(1)
                continue
            cause = None if isinstance(error, failures.EXPECTED_ERRORS) else redacted(error)
            raise MigrationFailed(failures.describe_failure(error)) from cause
        if revision is None:
            raise MigrationFailed("the code has no migrations: handler/migrations/versions was not deployed")
        logger.info("migrated: the schema is at %s", revision)
        return revision


def _send_response(address: str, response: dict[str, Any]) -> None:
    """PUT the response to a pre-signed URL of S3, with retries until the deadline. Raises CallbackFailed.

    The URL was signed for a request without a content type, so the header is empty.
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
            # Only the host, because with the path and the signature a reader of the log could send a response.
            host = urlsplit(address).hostname
            message = f"CloudFormation did not get the response {response['Status']}: {host}: {outcome}"
            logger.error(message)
            raise CallbackFailed(message)
        pause = min(2 * pause, LONGEST_PAUSE)
