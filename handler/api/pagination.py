"""Keyset pagination: a cursor names the row before a page, so a page costs the same at any depth.

    class OrderListQuery(PageQuery):
        status: OrderStatus | None = None

    class OrderPage(Page[OrderRead]):
        pass

    @router.get("/", response_model=OrderPage)
    async def list_orders(
        query: Annotated[OrderListQuery, Query()], session: ReadSessionDep, request: Request, response: Response
    ) -> Any:
        statement = select(Order)
        if query.status:
            statement = statement.where(Order.status == query.status)
        keyset = Keyset(query, request, Order.created_at, Order.id, descending=True)
        return paginate(session, statement, keyset, response)

A cursor belongs to its list: its checksum covers path and filters, and a cursor of another list is refused. The
checksum is not secret: a client that computes a cursor can start a page elsewhere, but sees only rows that the list
shows anyway.
"""

import hashlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from decimal import Decimal
from functools import cache
from typing import Annotated, Any, Generic, TypeVar, get_args
from urllib.parse import quote, urlencode

from fastapi import HTTPException, Request, Response, status
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Enum,
    Integer,
    Numeric,
    PrimaryKeyConstraint,
    Select,
    SmallInteger,
    String,
    UniqueConstraint,
    literal,
    true,
    tuple_,
)
from sqlalchemy.orm import InstrumentedAttribute, Session
from sqlalchemy.types import TypeEngine

from handler.api.fields import CANONICAL, OR_ABSENT, storable
from handler.database.base import Base

Entity = TypeVar("Entity")

CHECKSUM = 6  # bytes
PATH = "/:@!$&'()*+,;=-._~"  # characters that are not encoded in a path: RFC 3986, 3.3
NOT_OF_THIS_LIST = "The cursor does not belong to this list"


class PageQuery(BaseModel):
    """The query parameters of a list. Subclass it to add filters: `Annotated[OrderListQuery, Query()]`.

    An undeclared parameter is refused, because a misspelled filter would return the wrong rows.
    """

    model_config = ConfigDict(extra="forbid")

    limit: Annotated[int, Field(ge=1, le=100, description="The maximum number of items on the page"), CANONICAL] = 50
    cursor: Annotated[
        str | None, OR_ABSENT, Field(max_length=2000, description="`next_cursor` of the previous page")
    ] = None


class Page(BaseModel, Generic[Entity]):
    """A page of a list: `class OrderPage(Page[OrderRead])`."""

    items: list[Entity]
    next_cursor: Annotated[str | None, Field(description="The `cursor` of the next page; null on the last")]

    @model_validator(mode="before")
    @classmethod
    def _read_loaded(cls, value: Any) -> Any:
        """Read entities from their dictionaries, where all fields are loaded.

        pydantic would read each attribute from the entity, which takes a third of the time of a page.
        """
        (model,) = get_args(cls.__pydantic_fields__["items"].annotation)
        fields = model.__pydantic_fields__.keys()
        items = [vars(one) if isinstance(one, Base) and vars(one).keys() >= fields else one for one in value["items"]]
        return {**value, "items": items}


class Keyset:
    """The order of a list, and the start of a page.

    `keys` are columns that are not null, and unique together. Either all of them ascend or all descend, as in an index.
    Raises HTTPException 400 when the query's cursor does not belong to this list, and TypeError for keys that do not
    determine the start of a page.
    """

    def __init__(
        self, query: PageQuery, request: Request, *keys: InstrumentedAttribute[Any], descending: bool = False
    ) -> None:
        self.keys = keys
        self._codec = _codec(keys)
        self.request = request
        self.descending = descending
        # Where a response is too large for the event source, the adapter runs the request again with fewer items.
        self.limit = min(query.limit, request.scope.get("max_items") or query.limit)
        filters = query.model_dump_json(exclude={"limit", "cursor"})
        self._list = f"{_path(request)} {[key.key for key in keys]} {descending} {filters}".encode()
        self.is_first = query.cursor is None
        self._start = None if query.cursor is None else self._values(query.cursor)

    def order_by(self, *columns: ColumnElement[Any]) -> list[ColumnElement[Any]]:
        """The keys for ORDER BY, or the `columns` that correspond to them in a subquery."""
        return [key.desc() if self.descending else key.asc() for key in columns or self.keys]

    def after(self) -> ColumnElement[bool]:
        """The condition that a row comes after the cursor; true on the first page."""
        if self._start is None:
            return true()
        if len(self.keys) == 1:
            keys, start = self.keys[0].expression, self._start[0]
        else:
            start = tuple_(*(literal(value, key.type) for key, value in zip(self.keys, self._start, strict=True)))
            keys = tuple_(*self.keys)
        after: ColumnElement[bool] = keys < start if self.descending else keys > start
        return after

    def cursor(self, last: Any) -> str:
        """The cursor of the page after the entity `last`."""
        data = self._codec.dump_json(tuple(getattr(last, key.key) for key in self.keys))
        return _encode(self._checksum(data) + data)

    def _values(self, cursor: str) -> tuple[Any, ...]:
        try:
            packed = urlsafe_b64decode(cursor.encode("ascii") + b"==")
            checksum, data = packed[:CHECKSUM], packed[CHECKSUM:]
            # The decoder ignores characters outside its alphabet.
            if _encode(packed) == cursor and checksum == self._checksum(data):
                return self._codec.validate_json(data, strict=True)
        except (ValueError, ValidationError):
            pass
        raise HTTPException(status.HTTP_400_BAD_REQUEST, NOT_OF_THIS_LIST)

    def _checksum(self, data: bytes) -> bytes:
        return hashlib.blake2s(self._list + b"\x00" + data, digest_size=CHECKSUM).digest()


def paginate(
    session: Session, statement: Select[Any], keyset: Keyset, response: Response, *, unique: bool = False
) -> dict[str, Any]:
    """A page of the entities that `statement` selects, for a `Page` model. It executes one statement.

    The statement must select each entity once. `unique` is for a collection that is loaded with `joinedload`, as in
    `Result.unique()` of SQLAlchemy.
    """
    # order_by(None) removes the statement's own order, because a page has the order of its keys.
    page = statement.order_by(None).order_by(*keyset.order_by()).limit(keyset.limit + 1)
    if not keyset.is_first:
        page = page.where(keyset.after())
    found = session.scalars(page)
    return page_of((found.unique() if unique else found).all(), keyset, response)


def page_of(found: Sequence[Any], keyset: Keyset, response: Response) -> dict[str, Any]:
    """The page of the first `keyset.limit` entities of `found`. One more entity means that there is a next page."""
    items, cursor = found[: keyset.limit], None
    keyset.request.scope["page_items"] = len(items)
    if len(found) > keyset.limit:
        cursor = keyset.cursor(items[-1])
        response.headers["Link"] = _link_to_next(keyset.request, cursor)
    return {"items": items, "next_cursor": cursor}


@cache
def _codec(keys: tuple[InstrumentedAttribute[Any], ...]) -> TypeAdapter[tuple[Any, ...]]:
    """Raises TypeError for keys that do not determine the start of a page, because they may be equal or null."""
    columns = {key: key.property.columns[0] for key in keys}
    for key, column in columns.items():
        if column.nullable:
            raise TypeError(f"{key}: a key of a list must not be nullable")
    constraints = [constraint for column in columns.values() for constraint in column.table.constraints]
    unique = [{*one.columns} for one in constraints if isinstance(one, PrimaryKeyConstraint | UniqueConstraint)]
    if not any(one <= {*columns.values()} for one in unique):
        names = ", ".join(map(str, keys))
        raise TypeError(f"{names}: the keys of a list must contain those of a primary key or a unique constraint")
    types = tuple(_stored(key.type) for key in keys)
    return TypeAdapter(tuple.__class_getitem__(types))  # type: ignore[arg-type] # a type that is created at run time


def _stored(type_: TypeEngine[Any]) -> Any:
    """The values that a column of this type stores; Python's type may have more (PostgreSQL manual, 8.1 and 8.3)."""
    match type_:
        case Integer():
            bits = 15 if isinstance(type_, SmallInteger) else 63 if isinstance(type_, BigInteger) else 31
            return Annotated[int, Field(ge=-(2**bits), lt=2**bits)]
        case Numeric() if type_.precision is not None and type_.asdecimal:
            return Annotated[Decimal, Field(max_digits=type_.precision, decimal_places=type_.scale)]
        case String() if not isinstance(type_, Enum):
            return Annotated[str, AfterValidator(storable)]
    return type_.python_type


def _link_to_next(request: Request, cursor: str) -> str:
    """A Link header's value (RFC 8288): the same list, from `cursor` on."""
    parameters = [(name, value) for name, value in request.query_params.multi_items() if name != "cursor"]
    return f'<{quote(request.scope["path"], safe=PATH)}?{urlencode([*parameters, ("cursor", cursor)])}>; rel="next"'


def _path(request: Request) -> str:
    """The path without stage or base path. It includes the ids of a list below another resource."""
    path: str = request.scope["path"]
    return path.removeprefix(request.scope["root_path"])


def _encode(packed: bytes) -> str:
    return urlsafe_b64encode(packed).decode().rstrip("=")
