"""Who we are to the database, found anew for every physical connection: static, a secret, or a signed token.

A warm function outlives its password. A secret is used until the server refuses it; then the newest is fetched, and
the pending one, which the server already takes during a rotation (Secrets Manager user guide, "Rotation strategies").
What the server took last survives an outage of Secrets Manager.
"""

import json
import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, NamedTuple

from handler.settings import DatabaseSettings

REFRESH_EVERY = 5.0  # seconds; no more often is Secrets Manager asked, whatever it answers


class CredentialsError(Exception):
    """There is nobody to be; the message names the setting, and shows no value."""


class Login(NamedTuple):
    host: str
    port: int
    database: str
    user: str
    password: str | None

    def __repr__(self) -> str:
        return f"Login(host={self.host!r}, user={self.user!r})"


_accepted: dict[str, Login] = {}  # by secret
_asked: dict[str, float] = {}  # by secret, in seconds of the monotonic clock


def logins(database: DatabaseSettings) -> Iterator[Login]:
    """What to try, in this order, until the server takes one. Raises CredentialsError."""
    if database.secret_arn:
        yield from _of_secret(database, database.secret_arn)
    elif database.iam_auth:
        yield _of_token(database)
    else:
        yield _login(database, {"username": database.user, "password": database.password})


def accept(database: DatabaseSettings, login: Login) -> None:
    """The server took this one: it is the first to try from now on."""
    if database.secret_arn:
        _accepted[database.secret_arn] = login


def _of_token(database: DatabaseSettings) -> Login:
    from handler.database import aws  # noqa: PLC0415 - only a function that signs imports it

    login = _login(database, {"username": database.user, "password": None})
    try:
        signer = aws.keys()
    except aws.AwsError as error:
        raise CredentialsError(f"DATABASE_IAM_AUTH: {error}") from error
    assert database.region is not None
    now = datetime.now(UTC)
    server = f"{login.host}:{login.port}"
    return login._replace(password=aws.database_token(server, login.user, database.region, signer, now))


def _of_secret(database: DatabaseSettings, secret: str) -> Iterator[Login]:
    tried = _accepted.get(secret)
    if tried:
        yield tried
    now = time.monotonic()
    if now - _asked.get(secret, -REFRESH_EVERY) < REFRESH_EVERY:
        if tried is None:
            raise CredentialsError("DATABASE_SECRET_ARN: the secret could not be read a moment ago")
        return
    _asked[secret] = now
    for stage in ("AWSCURRENT", "AWSPENDING"):
        try:
            login = _fetch(database, secret, stage)
        except CredentialsError:
            if tried is None:
                raise
            return  # what was accepted last is all there is
        if login and login != tried:
            _accepted.setdefault(secret, login)
            tried = login
            yield login


def _fetch(database: DatabaseSettings, secret: str, stage: str) -> Login | None:
    from handler.database import aws  # noqa: PLC0415 - only a function that has a secret imports it

    try:
        text = aws.secret_value(secret, stage, database.region or "")
    except aws.AwsError as error:
        raise CredentialsError(f"DATABASE_SECRET_ARN: {error}") from error
    if text is None:
        return None
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        raise CredentialsError("DATABASE_SECRET_ARN: the secret is not JSON") from None
    if not isinstance(fields, dict) or not all(
        isinstance(fields.get(name), str) and fields[name] for name in ("username", "password")
    ):
        raise CredentialsError("DATABASE_SECRET_ARN: the secret has no username and password, as RDS writes them")
    return _login(database, fields)


def _login(database: DatabaseSettings, fields: dict[str, Any]) -> Login:
    """The settings win; what they leave open is in the secret's `host`, `port`, `dbname`."""
    host, port = database.host or fields.get("host"), database.port or fields.get("port", 5432)
    user = fields["username"]
    name = database.database or fields.get("dbname") or user
    if not isinstance(host, str) or not host:
        raise CredentialsError("DATABASE_SECRET_ARN: neither the secret nor DATABASE_URL names a host")
    if not re.fullmatch(r"[0-9]{1,5}", str(port), re.ASCII) or not isinstance(name, str):
        raise CredentialsError("DATABASE_SECRET_ARN: the secret's port or dbname is none")
    return Login(host, int(port), name, user, fields["password"])
