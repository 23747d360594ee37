"""The two requests to AWS that a connection may need, without an SDK: a secret, and a signed RDS token.

botocore would add 55 ms to a cold start to sign, and 110 ms to make a client; this module adds 0.5 ms (docs/adr/0009).
Signature Version 4: AWS General Reference, "Create a signed AWS API request".
"""

import hashlib
import hmac
import http.client
import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode, urlsplit

from handler.database import https
from handler.database.deadline import timeout_after

CALL_TIMEOUT = 2.0  # seconds
TOKEN_LIFETIME = 900  # seconds, the longest that RDS accepts
RENEW_BEFORE = timedelta(minutes=5)  # before the credentials expire


class AwsError(Exception):
    """A request to AWS failed, or there are no credentials for it. The message shows no value of either."""


class AwsCredentials(NamedTuple):
    access_key: str
    secret_key: str
    session_token: str

    def __repr__(self) -> str:
        return f"AwsCredentials({self.access_key!r})"


_container_credentials: tuple[AwsCredentials, datetime] | None = None


def load_credentials() -> AwsCredentials:
    """The function's own credentials. Raises AwsError.

    Lambda passes them in the environment. With SnapStart, where an environment may outlive its credentials, they come
    from a local address (AWS SDKs and Tools reference, "Container credential provider").
    """
    if os.environ.get("AWS_ACCESS_KEY_ID"):
        names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
        return AwsCredentials(*(os.environ.get(name, "") for name in names))
    return _load_container_credentials()


def _load_container_credentials() -> AwsCredentials:
    global _container_credentials  # noqa: PLW0603 - kept for the life of the process, until they are about to expire
    if _container_credentials is None or _container_credentials[1] - RENEW_BEFORE < datetime.now(UTC):
        address = os.environ.get("AWS_CONTAINER_CREDENTIALS_FULL_URI")
        if not address:
            raise AwsError("there are no AWS credentials in the environment")
        headers = {"Authorization": os.environ.get("AWS_CONTAINER_AUTHORIZATION_TOKEN", "")}
        status, found = _request("GET", address, headers, b"")
        try:
            fresh = AwsCredentials(found["AccessKeyId"], found["SecretAccessKey"], found["Token"])
            _container_credentials = (fresh, datetime.fromisoformat(found["Expiration"]))
        except (KeyError, TypeError, ValueError) as error:
            raise AwsError(f"the container's credentials are not valid: HTTP {status}") from error
    return _container_credentials[0]


def secret_value(secret: str, stage: str, region: str) -> str | None:
    """The text of the version of `secret` (an ARN or a name) at `stage`; None when no version is at `stage`.

    Secrets Manager API reference, "GetSecretValue". One HTTP request, no retries. Raises AwsError.
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
    status, found = _request("POST", address, signed, body)
    if status == 200 and isinstance(found, dict) and isinstance(found.get("SecretString"), str):
        return str(found["SecretString"])
    reason = str(found.get("__type", "")).rpartition("#")[2] if isinstance(found, dict) else ""
    if reason == "ResourceNotFoundException" and stage != "AWSCURRENT":
        return None
    raise AwsError(f"Secrets Manager responds {reason or f'HTTP {status}, without a text'}")


def database_token(server: str, user: str, region: str, signer: AwsCredentials, now: datetime) -> str:
    """A password for `user` that RDS accepts for 15 minutes at `server`, HOST:PORT: a signed URL without its scheme.

    Amazon RDS user guide, "Connecting to your DB instance using IAM authentication".
    """
    stamp, scope = _stamp(now), _scope(now, region, "rds-db")
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
    request = f"GET\n/\n{parameters}\nhost:{server}\n\nhost\n{_sha256(b'')}"
    signature = _signature(signer, scope, stamp, request)
    return f"{server}/?{parameters}&X-Amz-Signature={signature}"


def signed_headers(
    headers: Mapping[str, str], body: bytes, region: str, signer: AwsCredentials, now: datetime
) -> dict[str, str]:
    """`headers` of a POST to Secrets Manager, with those of its signature. Names are in lower case."""
    stamp, scope = _stamp(now), _scope(now, region, "secretsmanager")
    every = {**headers, "x-amz-date": stamp}
    if signer.session_token:
        every["x-amz-security-token"] = signer.session_token
    lines = "".join(f"{name}:{value}\n" for name, value in sorted(every.items()))
    names = ";".join(sorted(every))
    signature = _signature(signer, scope, stamp, f"POST\n/\n\n{lines}\n{names}\n{_sha256(body)}")
    credential = f"Credential={signer.access_key}/{scope}, SignedHeaders={names}, Signature={signature}"
    return every | {"authorization": f"AWS4-HMAC-SHA256 {credential}"}


def _signature(signer: AwsCredentials, scope: str, stamp: str, request: str) -> str:
    key = f"AWS4{signer.secret_key}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{_sha256(request.encode())}"
    return hmac.digest(key, text.encode(), "sha256").hex()


def _stamp(now: datetime) -> str:
    return f"{now:%Y%m%dT%H%M%SZ}"


def _scope(now: datetime, region: str, service: str) -> str:
    return f"{now:%Y%m%d}/{region}/{service}/aws4_request"


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _request(method: str, address: str, headers: Mapping[str, str], body: bytes) -> tuple[int, Any]:
    """Status and decoded JSON of one HTTP request. Raises AwsError."""
    try:
        with timeout_after(CALL_TIMEOUT):
            status, response = https.request(method, address, headers, body)
        return status, json.loads(response)
    except (OSError, http.client.HTTPException, ValueError, RecursionError) as error:
        raise AwsError(f"{urlsplit(address).hostname} cannot be reached: {type(error).__name__}") from error
