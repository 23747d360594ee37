"""Safe retries: an `Idempotency-Key` is stored with its response in the request's transaction.

    @router.post("/", dependencies=[IDEMPOTENT])

As in the IETF draft "The Idempotency-Key HTTP Header Field", the same key and request get the first response again, and
another request with the same key gets a 422. A failed request leaves no key, because the key is rolled back with it. Of
two concurrent requests, the second waits for the first at the primary key. A key belongs to its caller, method
and path. Keys expire, and each new key deletes some that have expired.
"""

import hashlib
import json
from datetime import timedelta
from typing import Annotated, Any, NamedTuple, cast

from fastapi import Depends, HTTPException, Request, Response, status
from fastapi.exceptions import RequestValidationError
from pydantic import Field, TypeAdapter, ValidationError
from sqlalchemy import Interval, Table, bindparam, delete, func, select, tuple_, update
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.orm import Session

from handler.api.auth import caller_digest
from handler.api.models import IdempotencyKey
from handler.api.settings import get_settings
from handler.database.session import SessionDep

SWEEP = 10  # the maximum number of expired keys that a new key deletes


HEADER = "Idempotency-Key"
KEY: TypeAdapter[str] = TypeAdapter(Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[ -~]+$")])

# The parameter in OpenAPI documents.
KEY_HEADER: dict[str, Any] = {
    "name": HEADER,
    "in": "header",
    "required": False,
    "description": "Makes a retry safe: the same key and request get the first response again",
    "schema": KEY.json_schema() | {"examples": ["8e03978e-40d5-43dd-bc93-6894a57f9324"]},
}

KEYS = cast("Table", IdempotencyKey.__table__)
_THIS_KEY = (KEYS.c.scope == bindparam("of_scope"), KEYS.c.key == bindparam("of_key"))
_NEW = insert(KEYS).values(expires_at=func.now() + bindparam("ttl", type_=Interval))
# Claims a key that is new or has expired. Returns a row only then.
_CLAIM = _NEW.on_conflict_do_update(
    index_elements=[KEYS.c.scope, KEYS.c.key],
    set_={"fingerprint": _NEW.excluded.fingerprint, "response": None, "expires_at": _NEW.excluded.expires_at},
    where=KEYS.c.expires_at < func.now(),
).returning(KEYS.c.key)
_STORED = select(KEYS.c.fingerprint, KEYS.c.response).where(*_THIS_KEY)
_ID = tuple_(KEYS.c.scope, KEYS.c.key)
_EXPIRED = select(KEYS.c.scope, KEYS.c.key).where(KEYS.c.expires_at < func.now()).limit(SWEEP)
_SWEPT = delete(KEYS).where(_ID.in_(_EXPIRED.with_for_update(skip_locked=True))).cte("swept")
_STORE = update(KEYS).where(*_THIS_KEY).values(response=bindparam("response", type_=JSONB)).add_cte(_SWEPT)


class ClaimedKey(NamedTuple):
    """A key that belongs to the request until its session commits."""

    session: Session
    scope: str
    key: str


class StoredResponse(Exception):
    """The request was executed before; `response` is its first response."""

    def __init__(self, response: Response) -> None:
        super().__init__("the Idempotency-Key has a stored response")
        self.response = response


async def claim_key(request: Request, session: SessionDep) -> None:
    """Claim the key of a request that has one; `handler.api.routing` stores the response before the commit.

    Raises StoredResponse for a request that was executed before, and HTTPException 422 when the key was used for
    another request, or 409 when the first request has stored no response.
    """
    if not getattr(request.scope.get("route"), "stores_responses", False):
        raise RuntimeError("IDEMPOTENT stores responses only for routes of a router with route_class=ApiRoute")
    key = request.headers.get(HEADER)
    if key is None:
        return
    try:
        KEY.validate_python(key)
    except ValidationError as error:
        raise RequestValidationError([{**one, "loc": ("header", HEADER)} for one in error.errors()]) from None
    scope = f"{request.method} {_path(request)} {caller_digest(request)}"  # callers do not share keys
    fingerprint = hashlib.sha256(await _content(request)).digest()
    ttl = timedelta(seconds=get_settings(request).idempotency_ttl)
    new = {"scope": scope, "key": key, "fingerprint": fingerprint, "ttl": ttl}
    if session.execute(_CLAIM, new).one_or_none():
        request.scope["claimed_key"] = ClaimedKey(session, scope, key)
        return
    stored = session.execute(_STORED, {"of_scope": scope, "of_key": key}).one_or_none()
    if stored is None or stored.response is None:
        raise HTTPException(status.HTTP_409_CONFLICT, "The Idempotency-Key is in use: try again")
    if stored.fingerprint != fingerprint:
        raise HTTPException(422, "The Idempotency-Key was used for another request: use a new key")
    raise StoredResponse(_restore(request, stored.response))


# For `dependencies=` of a route with safe retries. The route must be an ApiRoute (handler/api/routing.py).
IDEMPOTENT = Depends(claim_key, scope="function")


def store_response(request: Request, response: Response) -> None:
    """Store the response with the key that the request claimed, in its transaction. Without a key, do nothing."""
    claimed: ClaimedKey | None = request.scope.get("claimed_key")
    if claimed is None:
        return
    headers = {
        name: response.headers[name] for name in ("content-type", "location", "etag") if name in response.headers
    }
    stored = {"status": response.status_code, "headers": headers, "body": bytes(response.body).decode()}
    root_path: str = request.scope["root_path"]
    if headers.get("location", "").startswith(f"{root_path}/"):
        headers["location"] = headers["location"].removeprefix(root_path)
        stored["is_below_root_path"] = True
    values = {"of_scope": claimed.scope, "of_key": claimed.key, "response": stored}
    claimed.session.execute(_STORE, values)


def _restore(request: Request, stored: dict[str, Any]) -> Response:
    """The stored response, with the stage or base path of this request, not of the first, in its Location."""
    headers = stored["headers"]
    if stored.get("is_below_root_path"):
        headers["location"] = request.scope["root_path"] + headers["location"]
    return Response(stored["body"], stored["status"], headers)


def _path(request: Request) -> str:
    path: str = request.scope["path"]
    return path.removeprefix(request.scope["root_path"])


async def _content(request: Request) -> bytes:
    """The query and the body, as input of the fingerprint. JSON is sorted, because its members have no order."""
    try:
        body = json.dumps(await request.json(), sort_keys=True).encode()
    except (ValueError, RecursionError):
        body = await request.body()
    query: bytes = request.scope["query_string"]
    return query + b"\x00" + body
