"""Logins from a secret of AWS Secrets Manager.

A secret is used until the server rejects its login. Then the current version is read again, and after it the pending
version, which the server already accepts during a rotation (Secrets Manager user guide, "Rotation strategies"). While
Secrets Manager is not available, the login that the server accepted last is used.
"""

import json
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from handler.database.credentials.aws import AwsError, load_credentials, request_json
from handler.database.credentials.logins import CredentialsError, Login, make_login
from handler.database.credentials.signature import signed_headers
from handler.settings import DatabaseSettings, Port, Text

REFRESH_EVERY = 5.0  # seconds between two requests for the same secret, also after a failure

accepted_logins: dict[str, Login] = {}  # by secret
_requested: dict[str, float] = {}  # by secret, in seconds of the monotonic clock


class DatabaseSecret(BaseModel):
    """The JSON of a secret as RDS writes it: Secrets Manager user guide, "JSON structure of secrets"."""

    model_config = ConfigDict(hide_input_in_errors=True)

    username: Text = Field(min_length=1)
    password: Text = Field(min_length=1, repr=False, exclude=True)
    host: Text | None = None
    port: Port | None = None
    dbname: Text | None = None


def logins_of_secret(database: DatabaseSettings, secret_arn: str) -> Iterator[Login]:
    """Yield the login that was accepted last, then those of the versions AWSCURRENT and AWSPENDING.

    Raises CredentialsError if there is no login at all.
    """
    tried = accepted_logins.get(secret_arn)
    if tried:
        yield tried
    now = time.monotonic()
    if now - _requested.get(secret_arn, -REFRESH_EVERY) < REFRESH_EVERY:
        if tried is None:
            raise CredentialsError("DATABASE_SECRET_ARN: the secret could not be read a moment ago")
        return
    _requested[secret_arn] = now
    for stage in ("AWSCURRENT", "AWSPENDING"):
        try:
            login = _read_login(database, secret_arn, stage)
        except CredentialsError:
            if tried is None:
                raise
            return  # the login that was accepted last is the only one
        if login and login != tried:
            accepted_logins.setdefault(secret_arn, login)
            tried = login
            yield login


def _read_login(database: DatabaseSettings, secret_arn: str, stage: str) -> Login | None:
    """Return the login of the version at `stage`; None without such a version. Raises CredentialsError."""
    try:
        text = secret_value(secret_arn, stage, database.region or "")
    except AwsError as error:
        raise CredentialsError(f"DATABASE_SECRET_ARN: {error}") from error
    if text is None:
        return None
    try:
        secret = DatabaseSecret.model_validate_json(text)
    except ValidationError as error:
        fields = [str(problem["loc"][0]) for problem in error.errors(include_input=False) if problem["loc"]]
        wrong = f"the secret has no valid {', '.join(fields)}" if fields else "the secret is not a JSON object"
        raise CredentialsError(f"DATABASE_SECRET_ARN: {wrong}") from None
    return make_login(
        database, secret.username, secret.password, host=secret.host, port=secret.port, name=secret.dbname
    )


def secret_value(secret: str, stage: str, region: str) -> str | None:
    """Return the text of the version of `secret` (an ARN or a name) at `stage`; None if no version is at `stage`.

    Sends one HTTP request, without retries. Raises AwsError. Secrets Manager API reference, "GetSecretValue".
    """
    if secret.startswith("arn:"):
        region = secret.split(":")[3]
    suffix = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
    default = f"https://secretsmanager.{region}.{suffix}"
    address = os.environ.get("AWS_ENDPOINT_URL_SECRETS_MANAGER") or os.environ.get("AWS_ENDPOINT_URL") or default
    body = json.dumps({"SecretId": secret, "VersionStage": stage}).encode()
    headers = {
        "content-type": "application/x-amz-json-1.1",
        "host": urlsplit(address).netloc,
        "x-amz-target": "secretsmanager.GetSecretValue",
    }
    signed = signed_headers(headers, body, region, load_credentials(), datetime.now(UTC))
    status, found = request_json("POST", address, signed, body)
    if status == 200 and isinstance(found, dict) and isinstance(found.get("SecretString"), str):
        return str(found["SecretString"])
    reason = str(found.get("__type", "")).rpartition("#")[2] if isinstance(found, dict) else ""
    if reason == "ResourceNotFoundException" and stage != "AWSCURRENT":
        return None
    raise AwsError(f"Secrets Manager responded with {reason or f'HTTP {status} and no text'}")
