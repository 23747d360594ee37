"""Safe retries: `Idempotency-Key`, stored with its response in the transaction of what the request did.

    @router.post("/", dependencies=[IDEMPOTENT])

The IETF draft "The Idempotency-Key HTTP Header Field": the same key and request get the first response again, another
request with the key is 422. A first try that failed leaves no key, since both roll back together. Of two at once, the
second waits for the first at the primary key. A key belongs to its caller, method and path. Keys expire; each new one
deletes some that have.
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

from handler.api.auth import owner
from handler.api.models import IdempotencyKey
from handler.api.settings import get_settings
from handler.database.session import SessionDep

SWEEP = 10  # expired keys that a new one deletes, at most


HEADER = "Idempotency-Key"
KEY: TypeAdapter[str] = TypeAdapter(Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[ -~]+$")])

# In OpenAPI.
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
# Takes the key if it is new or has expired, and then returns a row.
_CLAIM = _NEW.on_conflict_do_update(
    index_elements=[KEYS.c.scope, KEYS.c.key],
    set_={"fingerprint": _NEW.excluded.fingerprint, "response": None, "expires_at": _NEW.excluded.expires_at},
    where=KEYS.c.expires_at < func.now(),
).returning(KEYS.c.key)
_EARLIER = select(KEYS.c.fingerprint, KEYS.c.response).where(*_THIS_KEY)
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
    """The request was done before; `response` is its first response."""

    def __init__(self, response: Response) -> None:
        super().__init__("the Idempotency-Key has a stored response")
        self.response = response


async def claim_key(request: Request, session: SessionDep) -> None:
    """Claim the key of a request that has one; `handler.api.routing` stores the response before the commit.

    Raises StoredResponse for a request that was done before; HTTPException 422 when the key was used for another
    request, 409 when the first one has stored no response.
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
    scope = f"{request.method} {_path(request)} {owner(request)}"  # no caller gets what another caller's key stored
    fingerprint = hashlib.sha256(await _content(request)).digest()
    ttl = timedelta(seconds=get_settings(request).idempotency_ttl)
    new = {"scope": scope, "key": key, "fingerprint": fingerprint, "ttl": ttl}
    if session.execute(_CLAIM, new).one_or_none():
        request.scope["claimed_key"] = ClaimedKey(session, scope, key)
        return
    earlier = session.execute(_EARLIER, {"of_scope": scope, "of_key": key}).one_or_none()
    if earlier is None or earlier.response is None:
        raise HTTPException(status.HTTP_409_CONFLICT, "The Idempotency-Key is in use: try again")
    if earlier.fingerprint != fingerprint:
        raise HTTPException(422, "The Idempotency-Key was used for another request")
    raise StoredResponse(_restore(request, earlier.response))


# For `dependencies=` of a route whose retries must be safe, of the class handler.api.routing.ApiRoute.
IDEMPOTENT = Depends(claim_key, scope="function")


def store_response(request: Request, response: Response) -> None:
    """Store the response beside the key that the request claimed, in its transaction; without a key, do nothing."""
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
    """The Location is under the stage or base path of the request that asks, which may be another than the first's."""
    headers = stored["headers"]
    if stored.get("is_below_root_path"):
        headers["location"] = request.scope["root_path"] + headers["location"]
    return Response(stored["body"], stored["status"], headers)


def _path(request: Request) -> str:
    path: str = request.scope["path"]
    return path.removeprefix(request.scope["root_path"])


async def _content(request: Request) -> bytes:
    """What the request asks for: query and body, and of JSON its meaning, since its fields have no order."""
    try:
        body = json.dumps(await request.json(), sort_keys=True).encode()
    except (ValueError, RecursionError):
        body = await request.body()
    query: bytes = request.scope["query_string"]
    return query + b"\x00" + body
