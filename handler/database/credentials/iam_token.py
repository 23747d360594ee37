"""The login of RDS IAM authentication, whose password is a signed token.

Amazon RDS user guide, "Connecting to your DB instance using IAM authentication".
"""

from datetime import UTC, datetime
from urllib.parse import quote, urlencode

from handler.database.credentials.aws import AwsCredentials, AwsError, load_credentials
from handler.database.credentials.logins import CredentialsError, Login, make_login
from handler.database.credentials.signature import credential_scope, sha256_hex, sign, timestamp
from handler.settings import DatabaseSettings

TOKEN_LIFETIME = 900  # seconds, the longest that RDS accepts


def login_with_token(database: DatabaseSettings) -> Login:
    """Return the login of the settings, with a new token as its password. Raises CredentialsError."""
    login = make_login(database, database.user, None)
    try:
        signer = load_credentials()
    except AwsError as error:
        raise CredentialsError(f"DATABASE_IAM_AUTH: {error}") from error
    assert database.region is not None
    server = f"{login.host}:{login.port}"
    return login._replace(password=database_token(server, login.user, database.region, signer, datetime.now(UTC)))


def database_token(server: str, user: str, region: str, signer: AwsCredentials, now: datetime) -> str:
    """Return a password for `user` that RDS accepts for 15 minutes: a signed URL without its scheme.

    `server` is HOST:PORT.
    """
    stamp, scope = timestamp(now), credential_scope(now, region, "rds-db")
    query = {
        "Action": "connect",
        "DBUser": user,
        "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
        "X-Amz-Credential": f"{signer.access_key}/{scope}",
        "X-Amz-Date": stamp,
        "X-Amz-Expires": str(TOKEN_LIFETIME),
        "X-Amz-SignedHeaders": "host",
    }
    if signer.session_token:
        query["X-Amz-Security-Token"] = signer.session_token
    parameters = urlencode(sorted(query.items()), quote_via=quote, safe="-_.~")
    request = f"GET\n/\n{parameters}\nhost:{server}\n\nhost\n{sha256_hex(b'')}"
    signature = sign(signer, scope, stamp, request)
    return f"{server}/?{parameters}&X-Amz-Signature={signature}"
