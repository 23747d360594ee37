"""The user and the password for each new physical connection: static, from a secret, or a signed token.

A process outlives its password. A secret is used until the server refuses it; then the current version is fetched, and
the pending one, which the server already accepts during a rotation (Secrets Manager user guide, "Rotation strategies").
The login that the server accepted last survives an outage of Secrets Manager.
"""

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from handler.settings import DatabaseSettings, Port, Text

REFRESH_EVERY = 5.0  # seconds between two requests for the same secret, whatever the response


class CredentialsError(Exception):
    """There are no credentials to log in with. The message names the setting and shows no value."""


class Login(NamedTuple):
    host: str
    port: int
    database: str
    user: str
    password: str | None

    def __repr__(self) -> str:
        return f"Login(host={self.host!r}, user={self.user!r})"


class DatabaseSecret(BaseModel):
    """The JSON of a secret as RDS writes it: Secrets Manager user guide, "JSON structure of secrets"."""

    model_config = ConfigDict(hide_input_in_errors=True)

    username: Text = Field(min_length=1)
    password: Text = Field(min_length=1, repr=False, exclude=True)
    host: Text | None = None
    port: Port | None = None
    dbname: Text | None = None


_accepted: dict[str, Login] = {}  # by secret
_requested: dict[str, float] = {}  # by secret, in seconds of the monotonic clock


def preload(database: DatabaseSettings) -> None:
    """Make at init what the first login needs and no server has to be asked for: code, and a TLS context."""
    if database.secret_arn or database.iam_auth:
        from handler.database import https  # noqa: PLC0415 - only a function that signs imports them
        from handler.database.credentials import aws  # noqa: F401, PLC0415 - only a function that signs imports them

        if database.secret_arn:
            https.tls_context()


def candidate_logins(database: DatabaseSettings) -> Iterator[Login]:
    """The logins to try, in this order, until the server accepts one. Raises CredentialsError."""
    if database.secret_arn:
        yield from _logins_of_secret(database, database.secret_arn)
    elif database.iam_auth:
        yield _login_of_token(database)
    else:
        yield _login(database, database.user, database.password)


def mark_accepted(database: DatabaseSettings, login: Login) -> None:
    """Remember that the server accepted `login`: it is the first candidate from now on."""
    if database.secret_arn:
        _accepted[database.secret_arn] = login


def _login_of_token(database: DatabaseSettings) -> Login:
    from handler.database.credentials import aws  # noqa: PLC0415 - only a function that signs imports it

    login = _login(database, database.user, None)
    try:
        signer = aws.load_credentials()
    except aws.AwsError as error:
        raise CredentialsError(f"DATABASE_IAM_AUTH: {error}") from error
    assert database.region is not None
    now = datetime.now(UTC)
    server = f"{login.host}:{login.port}"
    return login._replace(password=aws.database_token(server, login.user, database.region, signer, now))


def _logins_of_secret(database: DatabaseSettings, secret_arn: str) -> Iterator[Login]:
    tried = _accepted.get(secret_arn)
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
            login = _fetch(database, secret_arn, stage)
        except CredentialsError:
            if tried is None:
                raise
            return  # the login that was accepted last is the only one
        if login and login != tried:
            _accepted.setdefault(secret_arn, login)
            tried = login
            yield login


def _fetch(database: DatabaseSettings, secret_arn: str, stage: str) -> Login | None:
    from handler.database.credentials import aws  # noqa: PLC0415 - only a function that has a secret imports it

    try:
        text = aws.secret_value(secret_arn, stage, database.region or "")
    except aws.AwsError as error:
        raise CredentialsError(f"DATABASE_SECRET_ARN: {error}") from error
    if text is None:
        return None
    try:
        secret = DatabaseSecret.model_validate_json(text)
    except ValidationError as error:
        fields = [str(problem["loc"][0]) for problem in error.errors(include_input=False) if problem["loc"]]
        wrong = f"the secret has no valid {', '.join(fields)}" if fields else "the secret is not a JSON object"
        raise CredentialsError(f"DATABASE_SECRET_ARN: {wrong}") from None
    return _login(database, secret.username, secret.password, secret)


def _login(
    database: DatabaseSettings, user: str | None, password: str | None, secret: DatabaseSecret | None = None
) -> Login:
    """The settings take precedence over the secret's `host`, `port` and `dbname`."""
    host = database.host or (secret and secret.host)
    port = database.port or (secret and secret.port) or 5432
    name = database.database or (secret and secret.dbname) or user
    if not host:
        raise CredentialsError("DATABASE_SECRET_ARN: neither the secret nor DATABASE_URL has a host")
    assert user is not None
    assert name is not None
    return Login(host, port, name, user, password)
