"""The authorizers of API Gateway for `make run`: a JWT authorizer of a local issuer, and an IAM authorizer.

Only the development server uses them. A deployment has API Gateway's own authorizers, and `handler/` trusts the
authorizer context that they write. Tokens are signed with a random key of each checkout, in `.local/token-key`.

`python -m local.authorizer` (`make token`) prints a token with the scopes in SCOPES and the subject in SUBJECT.
"""

import base64
import hashlib
import hmac
import json
import os
import re
import secrets
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from handler.settings import Settings
from local.events import HttpResponse
from local.gateway import Authorizer, gateway_response

KEY = Path(__file__).parents[1] / ".local" / "token-key"
ISSUER, AUDIENCE = "https://local.invalid/make-run", "make-run"
LIFETIME = 3600  # seconds
# The routes that need no token if AUTH_PUBLIC is true: those of template.yaml with the condition IsPublic.
PUBLIC_ROUTES = (("GET", "/docs"), ("GET", "/openapi.json"), ("GET", "/health/live"), ("HEAD", "/health/live"))
SIGV4 = re.compile(r"AWS4-HMAC-SHA256 Credential=([\w+=,.@-]+)/\d{8}/[\w-]+/execute-api/aws4_request\b")
ACCOUNT = "000000000000"


class TokenError(Exception):
    """The token is not valid. The message is API Gateway's `error_description`."""


def sign(claims: Mapping[str, Any], key: bytes, algorithm: str = "HS256") -> str:
    """A JSON Web Token (RFC 7515, 7.1) with `claims`."""
    parts = [_encode(json.dumps(part).encode()) for part in ({"alg": algorithm, "typ": "JWT"}, claims)]
    return ".".join([*parts, _encode(_signature(".".join(parts), key))])


def verify(token: str, key: bytes) -> dict[str, Any]:
    """The claims of `token`. Raises TokenError for a token that a JWT authorizer refuses.

    API Gateway developer guide, "Control access to HTTP APIs with JWT authorizers", "Authorizing API requests". API
    Gateway accepts only RSA signatures. The signatures here are HMACs, because issuer and gateway share the key.
    """
    try:
        header, payload, signature = token.split(".")
        algorithm, claims = json.loads(_decode(header))["alg"], json.loads(_decode(payload))
        is_genuine = hmac.compare_digest(_decode(signature), _signature(f"{header}.{payload}", key))
        exp, nbf, iat = (float(claims.get(name, default)) for name, default in (("exp", 0), ("nbf", 0), ("iat", 0)))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise TokenError("the token is malformed") from error
    now = time.time()
    audience = claims.get("aud", claims.get("client_id"))
    refusals = {
        "the signature of the token is not valid": algorithm != "HS256" or not is_genuine,
        "the token does not have a valid issuer": claims.get("iss") != ISSUER,
        "the token does not have a valid audience": AUDIENCE
        not in (audience if isinstance(audience, list) else [audience]),
        "the token has expired": exp <= now,
        "the token is not valid yet": max(nbf, iat) > now + 1,
    }
    for text, is_refused in refusals.items():
        if is_refused:
            raise TokenError(text)
    return dict(claims)


def of_settings(settings: Settings, openapi: Mapping[str, Any]) -> Authorizer | None:
    """The authorizer of a deployment with these settings."""
    is_public, has_cors = settings.auth_public, bool(settings.cors_origins)
    if settings.auth_mode == "jwt":
        return jwt_authorizer(openapi, read_key(), is_public=is_public, has_cors=has_cors)
    if settings.auth_mode == "iam":
        return iam_authorizer(is_public=is_public, has_cors=has_cors)
    return None


def jwt_authorizer(openapi: Mapping[str, Any], key: bytes, *, is_public: bool, has_cors: bool) -> Authorizer:
    """A JWT authorizer with the routes of template.yaml, whose scopes are those that `openapi` declares.

    The gateway has a route for each method: a token needs one of the scopes of the method's operations. An operation
    without a scope, such as the readiness check, has a separate route.
    """
    scopes, open_to_tokens = _required_scopes(openapi)

    def authorize(method: str, path: str, headers: Mapping[str, str]) -> dict[str, Any] | HttpResponse | None:
        if _is_open(method, path, is_public=is_public, has_cors=has_cors):
            return None
        read_method = "GET" if method == "HEAD" else method
        required = [] if (read_method, path) in open_to_tokens else scopes.get(read_method, scopes["$default"])
        token = re.sub("^Bearer ", "", headers.get("authorization", ""), flags=re.IGNORECASE)
        if not token:
            return gateway_response(401, "Unauthorized", www_authenticate="Bearer")
        try:
            claims = verify(token, key)
        except TokenError as error:
            return _challenge(401, "Unauthorized", required, "invalid_token", str(error))
        granted = claims.get("scope", claims.get("scp", ""))
        granted = granted.split(" ") if isinstance(granted, str) else granted
        if required and not set(required) & set(granted):
            text = "the token does not have one of the scopes of the route"
            return _challenge(403, "Forbidden", required, "insufficient_scope", text)
        return {
            "jwt": {"claims": {name: _as_text(value) for name, value in claims.items()}, "scopes": required or None}
        }

    return authorize


def iam_authorizer(*, is_public: bool, has_cors: bool) -> Authorizer:
    """An IAM authorizer that accepts every signature. The access key id is the name of the user that signed."""

    def authorize(method: str, path: str, headers: Mapping[str, str]) -> dict[str, Any] | HttpResponse | None:
        if _is_open(method, path, is_public=is_public, has_cors=has_cors):
            return None
        signed = SIGV4.match(headers.get("authorization", ""))
        if not signed:
            return gateway_response(403, "Forbidden")
        user = {"accessKey": signed[1], "callerId": signed[1], "userId": signed[1]}
        arn = f"arn:aws:iam::{ACCOUNT}:user/{signed[1]}"
        return {"iam": user | {"accountId": ACCOUNT, "userArn": arn, "cognitoIdentity": None, "principalOrgId": None}}

    return authorize


def read_key(path: Path = KEY) -> bytes:
    """The key of this checkout's tokens. It is created if it is missing."""
    path.parent.mkdir(exist_ok=True)
    with suppress(FileExistsError), os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(secrets.token_hex(32))
    return bytes.fromhex(path.read_text())


def _required_scopes(openapi: Mapping[str, Any]) -> tuple[dict[str, list[str]], set[tuple[str, str]]]:
    """The scopes of each method and of `$default`, and the operations (method and path) that need none."""
    scopes: dict[str, set[str]] = {"$default": set()}
    without = set()
    for path, operations in openapi["paths"].items():
        for name, operation in operations.items():
            found = {scope for one in operation.get("security", ()) for scope in one.get("jwt", ())}
            if found:
                scopes["$default"] |= found
                scopes.setdefault(name.upper(), set()).update(found)
            elif "security" in operation:
                without.add((name.upper(), path))
    return {method: sorted(found) for method, found in scopes.items()}, without


def _is_open(method: str, path: str, *, is_public: bool, has_cors: bool) -> bool:
    return (has_cors and method == "OPTIONS") or (is_public and (method, path) in PUBLIC_ROUTES)


def _challenge(status: int, message: str, scopes: list[str], error: str, text: str) -> HttpResponse:
    challenge = f'Bearer scope="{" ".join(scopes)}" error="{error}" error_description="{text}"'
    return gateway_response(status, message, www_authenticate=challenge)


def _as_text(value: Any) -> str:
    """A claim as an HTTP API passes it: every value is a string, and a list is `[a b]`."""
    if isinstance(value, list):
        return f"[{' '.join(map(_as_text, value))}]"
    return value if isinstance(value, str) else json.dumps(value)


def _signature(signed: str, key: bytes) -> bytes:
    return hmac.digest(key, signed.encode(), hashlib.sha256)


def _encode(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def main() -> None:
    """Print a token of this checkout's issuer."""
    now = int(time.time())
    scopes = os.environ.get("SCOPES")
    if not scopes:
        sys.exit('token: SCOPES is missing: make token SCOPES="items:read items:write"')
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": os.environ.get("SUBJECT") or "ann", "scope": scopes}
    print(sign(claims | {"iat": now, "exp": now + LIFETIME}, read_key()))


if __name__ == "__main__":
    main()
