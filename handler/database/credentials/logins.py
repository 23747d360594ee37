"""The user and the password for each new connection: static, from Secrets Manager, or an RDS IAM token.

A process may live longer than its password, so the candidates are determined again for each connection.
"""

from collections.abc import Iterator
from typing import NamedTuple

from handler.settings import DatabaseSettings


class CredentialsError(Exception):
    """There are no credentials to log in with. The message names the setting and contains no value."""


class Login(NamedTuple):
    host: str
    port: int
    database: str
    user: str
    password: str | None

    def __repr__(self) -> str:
        return f"Login(host={self.host!r}, user={self.user!r})"


def preload(database: DatabaseSettings) -> None:
    """At init, import the modules that the first login needs, and create the TLS context for AWS. Sends no request."""
    if database.secret_arn:
        from handler.database import https  # noqa: PLC0415 - only functions with a secret import them
        from handler.database.credentials import secrets_manager  # noqa: F401, PLC0415

        https.tls_context()
    elif database.iam_auth:
        from handler.database.credentials import iam_token  # noqa: F401, PLC0415 - only functions with IAM authentication import it


def candidate_logins(database: DatabaseSettings) -> Iterator[Login]:
    """The logins to try, in this order, until the server accepts one. Raises CredentialsError."""
    if database.secret_arn:
        from handler.database.credentials import secrets_manager  # noqa: PLC0415

        yield from secrets_manager.logins_of_secret(database, database.secret_arn)
    elif database.iam_auth:
        from handler.database.credentials import iam_token  # noqa: PLC0415

        yield iam_token.login_with_token(database)
    else:
        yield make_login(database, database.user, database.password)


def mark_accepted(database: DatabaseSettings, login: Login) -> None:
    """Make `login`, which the server has accepted, the first candidate from now on."""
    if database.secret_arn:
        from handler.database.credentials import secrets_manager  # noqa: PLC0415

        secrets_manager.accepted_logins[database.secret_arn] = login


def make_login(  # noqa: PLR0913 - a login has these parts
    database: DatabaseSettings,
    user: str | None,
    password: str | None,
    *,
    host: str | None = None,
    port: int | None = None,
    name: str | None = None,
) -> Login:
    """Return a login. The settings take precedence over `host`, `port` and `name`.

    Raises CredentialsError without a host.
    """
    host = database.host or host
    name = database.database or name or user
    if not host:
        raise CredentialsError("DATABASE_SECRET_ARN: neither the secret nor DATABASE_URL has a host")
    assert user is not None
    assert name is not None
    return Login(host, database.port or port or 5432, name, user, password)
