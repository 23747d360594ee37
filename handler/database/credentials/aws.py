"""The function's own AWS credentials, and JSON requests to AWS without an SDK (docs/adr/0009)."""

import http.client
import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from handler.database import https
from handler.database.deadline import timeout_after

CALL_TIMEOUT = 2.0  # seconds
RENEW_BEFORE = timedelta(minutes=5)  # before the credentials expire


class AwsError(Exception):
    """A request to AWS failed, or there are no credentials. The message contains no value."""


class AwsCredentials(NamedTuple):
    access_key: str
    secret_key: str
    session_token: str

    def __repr__(self) -> str:
        return f"AwsCredentials({self.access_key!r})"


_container_credentials: tuple[AwsCredentials, datetime] | None = None


def load_credentials() -> AwsCredentials:
    """Return the function's own credentials. Raises AwsError.

    Lambda passes them in environment variables. With SnapStart they come from a local HTTP address, because an
    environment may outlive its credentials (AWS SDKs and Tools reference, "Container credential provider").
    """
    if os.environ.get("AWS_ACCESS_KEY_ID"):
        names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
        return AwsCredentials(*(os.environ.get(name, "") for name in names))
    return _load_container_credentials()


def _load_container_credentials() -> AwsCredentials:
    global _container_credentials  # noqa: PLW0603 - a cache of the process, until the credentials are about to expire
    if _container_credentials is None or _container_credentials[1] - RENEW_BEFORE < datetime.now(UTC):
        address = os.environ.get("AWS_CONTAINER_CREDENTIALS_FULL_URI")
        if not address:
            raise AwsError("there are no AWS credentials in the environment")
        headers = {"Authorization": os.environ.get("AWS_CONTAINER_AUTHORIZATION_TOKEN", "")}
        status, found = request_json("GET", address, headers, b"")
        try:
            fresh = AwsCredentials(found["AccessKeyId"], found["SecretAccessKey"], found["Token"])
            _container_credentials = (fresh, datetime.fromisoformat(found["Expiration"]))
        except (KeyError, TypeError, ValueError) as error:
            raise AwsError(f"the container's credentials are not valid: HTTP {status}") from error
    return _container_credentials[0]


def request_json(method: str, address: str, headers: Mapping[str, str], body: bytes) -> tuple[int, Any]:
    """Send one HTTP request. Returns the status and the decoded JSON of the response. Raises AwsError."""
    try:
        with timeout_after(CALL_TIMEOUT):
            status, response = https.request(method, address, headers, body)
        return status, json.loads(response)
    except (OSError, http.client.HTTPException, ValueError, RecursionError) as error:
        raise AwsError(f"{urlsplit(address).hostname} cannot be reached: {type(error).__name__}") from error
