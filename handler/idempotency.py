"""Safe retries: `Idempotency-Key`, stored with its answer in the transaction of what it did.

The IETF draft "The Idempotency-Key HTTP Header Field": the same key and request get the first answer again, another
request with the key is 422. A first try that failed leaves no key, since both roll back together. Of two at once, the
second waits for the first at the primary key. Keys expire; each new one sweeps some that have.
"""

import hashlib
from datetime import datetime, timedelta
from typing import Annotated, Any, cast

from fastapi import HTTPException, Request, Response, status
from fastapi.exceptions import RequestValidationError
from pydantic import Field, TypeAdapter, ValidationError
from sqlalchemy import DateTime, Interval, LargeBinary, Table, Text, bindparam, delete, func, select, tuple_, update
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.orm import Mapped, Session, mapped_column

from handler.database.base import Base
from handler.settings import settings

SWEEP = 10  # expired keys that a new one takes with it, at most


class IdempotencyKey(Base):
    __tablename__ = "idempotency_keys"

    scope: Mapped[str] = mapped_column(Text, primary_key=True)  # what it makes safe: a method and a route
    key: Mapped[str] = mapped_column(Text, primary_key=True)
    fingerprint: Mapped[bytes] = mapped_column(LargeBinary)
    answer: Mapped[Any | None] = mapped_column(JSONB(none_as_null=True))
    expires_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), index=True)


HEADER = "Idempotency-Key"
_key: TypeAdapter[str] = TypeAdapter(Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[ -~]+$")])
# For `openapi_extra=` of a route that calls `key_of`.
IDEMPOTENCY_KEY: dict[str, Any] = {
    "parameters": [
        {
            "name": HEADER,
            "in": "header",
            "required": False,
            "description": "Makes a retry safe: the same key and body get the first answer again, "
            "and nothing is done twice",
            "schema": _key.json_schema() | {"examples": ["8e03978e-40d5-43dd-bc93-6894a57f9324"]},
        }
    ]
}

KEYS = cast("Table", IdempotencyKey.__table__)
_OURS = (KEYS.c.scope == bindparam("of_scope"), KEYS.c.key == bindparam("of_key"))
_NEW = insert(KEYS).values(expires_at=func.now() + bindparam("ttl", type_=Interval))
# Takes the key if it is new or has expired, and then returns a row.
_CLAIM = _NEW.on_conflict_do_update(
    index_elements=[KEYS.c.scope, KEYS.c.key],
    set_={"fingerprint": _NEW.excluded.fingerprint, "answer": None, "expires_at": _NEW.excluded.expires_at},
    where=KEYS.c.expires_at < func.now(),
).returning(KEYS.c.key)
_EARLIER = select(KEYS.c.fingerprint, KEYS.c.answer).where(*_OURS)
_ID = tuple_(KEYS.c.scope, KEYS.c.key)
_EXPIRED = select(KEYS.c.scope, KEYS.c.key).where(KEYS.c.expires_at < func.now()).limit(SWEEP)
_SWEPT = delete(KEYS).where(_ID.in_(_EXPIRED.with_for_update(skip_locked=True))).cte("swept")
_REMEMBER = update(KEYS).where(*_OURS).values(answer=bindparam("its_answer", type_=JSONB)).add_cte(_SWEPT)


def key_of(request: Request) -> str | None:
    """The key of a request that has one. Raises RequestValidationError.

    Called, not declared: as FastAPI's `Header()` it takes a twenty-fifth of a POST that has none (docs/adr/0020).
    """
    key = request.headers.get(HEADER)
    if key is None:
        return None
    try:
        return _key.validate_python(key)
    except ValidationError as error:
        raise RequestValidationError([{**one, "loc": ("header", HEADER)} for one in error.errors()]) from None


def earlier_answer(session: Session, scope: str, key: str, request: bytes) -> Response | None:
    """The answer that this key has had for `request`, or None: the key is then taken, until the session commits.

    Raises HTTPException 422 when it was another request, 409 when the first one's answer cannot be known.
    """
    fingerprint = hashlib.sha256(request).digest()
    ttl = timedelta(seconds=settings().idempotency_ttl)
    new = {"scope": scope, "key": key, "fingerprint": fingerprint, "ttl": ttl}
    if session.execute(_CLAIM, new).one_or_none():
        return None
    earlier = session.execute(_EARLIER, {"of_scope": scope, "of_key": key}).one_or_none()
    if earlier is None or earlier.answer is None:
        raise HTTPException(status.HTTP_409_CONFLICT, "The Idempotency-Key is in use: try again")
    if earlier.fingerprint != fingerprint:
        raise HTTPException(422, "The Idempotency-Key was used for another request")
    return _response(earlier.answer)


def remember_answer(session: Session, scope: str, key: str, response: Response) -> None:
    """Store what `response` says beside the key, in the same transaction as what it says it of."""
    headers = {
        name: response.headers[name] for name in ("content-type", "location", "etag") if name in response.headers
    }
    answer = {"status": response.status_code, "headers": headers, "body": bytes(response.body).decode()}
    session.execute(_REMEMBER, {"of_scope": scope, "of_key": key, "its_answer": answer})


def _response(answer: dict[str, Any]) -> Response:
    return Response(answer["body"], answer["status"], answer["headers"])
