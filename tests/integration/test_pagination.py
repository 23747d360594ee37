"""Pagination of any resource: keys of any type in either direction, filters of any type, bound cursors."""

import enum
import random
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any
from urllib.parse import urlencode, urlsplit
from uuid import UUID

import pytest
from fastapi import APIRouter, FastAPI, Query, Request, Response
from pydantic import BaseModel, ConfigDict
from sqlalchemy import (
    BigInteger,
    DateTime,
    Enum,
    Identity,
    MetaData,
    Numeric,
    SmallInteger,
    Text,
    UniqueConstraint,
    select,
)
from sqlalchemy.orm import Mapped, Session, aliased, mapped_column

from handler.api.auth import requires_scopes
from handler.api.pagination import Keyset, Page, PageQuery, _encode, paginate
from handler.api.routing import ApiRoute
from handler.database.base import Base
from handler.database.engine import engine
from handler.database.session import ReadSessionDep
from tests.support import client
from tests.support.client import ELEMENTS, call, create_probe
from tests.support.event_sources import EVENT_SOURCES, send
from tests.support.event_sources import Request as Sent

Serve = Callable[..., FastAPI]


class TestBase(Base):
    """The base class of this module's entities, separate from the metadata that migrations and other tests read."""

    __abstract__ = True
    __test__ = False
    metadata = MetaData()


class Status(enum.Enum):
    OPEN = "open"
    PAID = "paid"
    SENT = "sent, and more"


class Order(TestBase):
    __tablename__ = "test_orders"
    __table_args__ = (UniqueConstraint("day", "count"),)

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    placed_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    day: Mapped[date]
    price: Mapped[Decimal] = mapped_column(Numeric(12, 2))
    token: Mapped[UUID] = mapped_column(unique=True)
    status: Mapped[Status] = mapped_column(Enum(Status, name="test_status"))
    is_gift: Mapped[bool]
    count: Mapped[int] = mapped_column(SmallInteger)
    weight: Mapped[float]
    name: Mapped[str] = mapped_column(Text)
    customer: Mapped[int]
    note: Mapped[str | None] = mapped_column(Text)


class OrderRead(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: int
    placed_at: datetime
    day: date
    price: Decimal
    token: UUID
    status: Status
    is_gift: bool
    count: int
    weight: float
    name: str
    customer: int
    note: str | None


class OrderPage(Page[OrderRead]):
    pass


class OrderListQuery(PageQuery):
    order: str = "id"
    descending: bool = False
    status: Status | None = None
    price: Decimal | None = None
    day: date | None = None
    token: UUID | None = None
    since: datetime | None = None
    is_gift: bool | None = None
    name: list[str] | None = None


@pytest.fixture(scope="module", autouse=True)
def _table() -> Iterator[None]:
    TestBase.metadata.create_all(engine)
    yield
    TestBase.metadata.drop_all(engine)
    engine.dispose()


@pytest.fixture
def orders() -> Iterator[list[Order]]:
    """Forty orders. Each value except the ids and tokens occurs several times."""
    choice = random.Random(1)
    moments = [datetime(2026, 3, 29, 1, 59, 59, 999_999, UTC) + timedelta(microseconds=number) for number in range(7)]
    with Session(engine, expire_on_commit=False) as session:
        session.execute(Order.__table__.delete())  # type: ignore[attr-defined] # a Table
        found = [
            Order(
                placed_at=choice.choice([*moments, datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC)]),
                day=date(2026, 1, 1) + timedelta(days=number // 3),
                price=choice.choice([Decimal("0.10"), Decimal("-1.50"), Decimal("9999999999.99"), Decimal(0)]),
                token=UUID(int=choice.getrandbits(128)),
                status=choice.choice([*Status]),
                is_gift=choice.choice([True, False]),
                count=number % 3 - 1,
                weight=choice.choice([0.1, 1e300, -5e-324, 1 / 3]),
                name=choice.choice(["a", "B", "ä", "", '"\\', "\U0001f4a1", "\x01\n", "字" * 100]),
                customer=number % 2,
                note=None if number % 4 else "a note",
            )
            for number in range(40)
        ]
        session.add_all(found)
        session.commit()
        yield found


def add_orders(app: FastAPI) -> None:
    router = APIRouter(route_class=ApiRoute, dependencies=[requires_scopes()])

    @router.get("/orders/", response_model=OrderPage)
    @router.get("/archive/orders/", response_model=OrderPage, name="list_archive")
    @router.get("/customers/{customer}/orders/", response_model=OrderPage, name="list_orders_of_customer")
    async def _list_orders(
        query: Annotated[OrderListQuery, Query()],
        session: ReadSessionDep,
        request: Request,
        response: Response,
        customer: int | None = None,
    ) -> Any:
        statement = select(Order)
        for column, value in [
            (Order.status, query.status),
            (Order.price, query.price),
            (Order.day, query.day),
            (Order.token, query.token),
            (Order.is_gift, query.is_gift),
            (Order.customer, customer),
        ]:
            if value is not None:
                statement = statement.where(column == value)
        if query.since:
            statement = statement.where(Order.placed_at >= query.since)
        if query.name:
            statement = statement.where(Order.name.in_(query.name))
        keys = [getattr(Order, name) for name in query.order.split(",")]
        return paginate(session, statement, Keyset(query, request, *keys, descending=query.descending), response)

    app.include_router(router)


def listed(path: str = "/orders/", **parameters: Any) -> client.Response:
    return call("GET", path, query=urlencode(parameters, doseq=True))


def follow(response: client.Response) -> client.Response:
    url = urlsplit(response.headers["link"].partition(">")[0].lstrip("<"))
    return call("GET", url.path, query=url.query)


def pages(path: str = "/orders/", **parameters: Any) -> list[int]:
    """The ids of every page, following the links."""
    response = listed(path, **parameters)
    assert response.status == 200, response.body
    found = [one["id"] for one in response.json[ELEMENTS]]
    while response.json["next_cursor"]:
        response = follow(response)
        assert response.status == 200, response.body
        found += [one["id"] for one in response.json[ELEMENTS]]
    return found


KEYS = [
    "placed_at,id",
    "day,id",
    "price,id",
    "token",
    "status,id",
    "is_gift,id",
    "count,id",
    "weight,id",
    "name,id",
    "id",
]
KEYS += ["customer,id", "day,count", "status,is_gift,price,placed_at,id"]


@pytest.mark.parametrize("keys", KEYS)
@pytest.mark.parametrize("descending", [False, True], ids=["ascending", "descending"])
def test_pages_have_every_row_once_in_the_order_of_any_keys(
    keys: str, descending: bool, serve: Serve, orders: list[Order]
) -> None:
    serve(add_orders)
    columns = [getattr(Order, name) for name in keys.split(",")]
    with Session(engine) as session:
        statement = select(Order.id).order_by(*(column.desc() if descending else column for column in columns))
        expected = list(session.scalars(statement))
    assert len(expected) == len(orders)
    for limit in (1, 3, 39, 40, 41):
        assert pages(order=keys, descending=descending, limit=limit) == expected


FILTERS: list[dict[str, Any]] = [
    {"status": "paid"},
    {"status": "sent, and more"},
    {"price": "0.10"},
    {"price": "-1.5"},
    {"day": "2026-01-02"},
    {"is_gift": "true"},
    {"since": "2026-03-29T02:00:00Z"},
    {"since": "2026-03-29T04:00:00+02:00"},
    {"name": ["a", "B"]},
    {"status": "open", "is_gift": "false", "name": ["a", "B", "ä", ""]},
]


@pytest.mark.parametrize("filters", FILTERS, ids=str)
def test_pages_of_a_filtered_list_have_the_rows_of_a_single_page(
    filters: dict[str, Any], serve: Serve, orders: list[Order]
) -> None:
    serve(add_orders)
    expected = [one["id"] for one in listed(**filters, limit=100).json[ELEMENTS]]
    assert 0 < len(expected) < len(orders)
    assert pages(**filters, limit=1) == expected
    assert pages(**filters, limit=2, order="price,id", descending=True) == pages(
        **filters, limit=100, order="price,id", descending=True
    )


def test_a_uuid_filter_finds_its_row(serve: Serve, orders: list[Order]) -> None:
    serve(add_orders)
    assert pages(token=orders[7].token) == [orders[7].id]


BAD_FILTERS: list[dict[str, Any]] = [
    {"status": "PAID"},
    {"status": ""},
    {"price": "x"},
    {"price": "NaN"},
    {"day": "2026-02-30"},
    {"token": "x"},
]
BAD_FILTERS += [{"since": "yesterday"}, {"is_gift": "maybe"}, {"states": "paid"}, {"status": ["paid", "open"]}]


@pytest.mark.parametrize("filters", BAD_FILTERS, ids=str)
def test_a_filter_of_another_type_or_name_is_422(filters: dict[str, Any], serve: Serve) -> None:
    serve(add_orders)
    assert listed(**filters).status == 422


# A cursor is bound to its path and all its filters.


def test_a_cursor_of_another_list_is_refused(serve: Serve, orders: list[Order]) -> None:
    serve(add_orders)
    for number in range(3):
        create_probe(f"Probe {number}")
    cursor = listed(status="paid", limit=1).json["next_cursor"]
    others: list[tuple[str, dict[str, Any]]] = [
        ("/probes/", {}),
        ("/orders/", {}),
        ("/orders/", {"status": "open"}),
        ("/orders/", {"status": "paid", "price": "0.10"}),
        ("/orders/", {"status": "paid", "is_gift": "false"}),
        ("/orders/", {"status": "paid", "name": ["a"]}),
        ("/orders/", {"status": "paid", "descending": "true"}),
        ("/orders/", {"status": "paid", "order": "price,id"}),
        ("/archive/orders/", {"status": "paid"}),
        ("/customers/1/orders/", {"status": "paid"}),
    ]
    for path, parameters in others:
        response = listed(path, **parameters, cursor=cursor)
        assert (response.status, response.json["detail"]) == (400, "The cursor does not belong to this list"), (
            path,
            parameters,
        )
    assert listed(status="paid", cursor=call("GET", "/probes/", query="limit=1").json["next_cursor"]).status == 400
    assert orders


def test_a_cursor_of_a_list_below_another_resource_is_bound_to_that_resource(serve: Serve, orders: list[Order]) -> None:
    serve(add_orders)
    cursor = listed("/customers/1/orders/", limit=1).json["next_cursor"]
    assert listed("/customers/1/orders/", cursor=cursor).status == 200
    assert listed("/customers/0/orders/", cursor=cursor).status == 400
    assert pages("/customers/1/orders/", limit=3) == [order.id for order in orders if order.customer == 1]


def test_the_limit_the_order_of_parameters_and_the_spelling_of_a_filter_may_change(
    serve: Serve, orders: list[Order]
) -> None:
    serve(add_orders)
    cursor = listed(status="paid", price="0.10", since="2026-03-29T02:00:00Z", limit=1).json["next_cursor"]
    changed: list[dict[str, Any]] = [
        {"limit": 100, "since": "2026-03-29T02:00:00Z", "price": "0.10", "status": "paid"},
        {"status": "paid", "price": "0.10", "since": "2026-03-29T02:00:00+00:00", "order": "id", "descending": "false"},
    ]
    for parameters in changed:
        assert listed(**parameters, cursor=cursor).status == 200
    assert orders


def test_a_cursor_is_valid_behind_every_stage(serve: Serve, orders: list[Order]) -> None:
    serve(add_orders)
    cursor = listed(limit=1).json["next_cursor"]
    event = EVENT_SOURCES["REST API"](Sent("GET", "/orders/", f"limit=1&cursor={cursor}"))
    event["requestContext"] |= {"domainName": "a1b2c3.execute-api.eu-central-1.amazonaws.com", "stage": "dev"}
    response = send(event)
    assert response.status == 200
    assert response.headers["link"].startswith("</dev/orders/?limit=1&cursor=")
    assert orders


# Invalid keys of a list.


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ("note,id", "Order.note: a key of a list must not be nullable"),
        ("note", "Order.note: a key of a list must not be nullable"),
        ("name", "Order.name: the keys of a list must contain those of a primary key or a unique constraint"),
        ("status,day", "Order.status, Order.day: the keys of a list must contain those of a primary key"),
    ],
)
def test_keys_that_do_not_determine_the_start_of_a_page_are_a_type_error(keys: str, message: str) -> None:
    request = Request({"type": "http", "path": "/orders/", "root_path": ""})
    with pytest.raises(TypeError, match=f"^{message}"):
        Keyset(PageQuery(), request, *(getattr(Order, name) for name in keys.split(",")))


def test_the_order_of_a_list_is_checked_at_its_first_request_also_where_it_has_no_rows(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    serve(add_orders)
    assert listed(order="note,id", token=UUID(int=0)).status == 500
    assert "Order.note: a key of a list must not be nullable" in caplog.text


# OpenAPI.


def references(document: Any) -> Iterator[str]:
    if isinstance(document, dict):
        for name, value in document.items():
            if name == "$ref":
                yield value
            yield from references(value)
    elif isinstance(document, list):
        for value in document:
            yield from references(value)


def test_openapi_describes_every_filter_and_refers_to_nothing_that_it_does_not_have(serve: Serve) -> None:
    document = serve(add_orders).openapi()
    schemas = document["components"]["schemas"]
    assert {*references(document)} <= {f"#/components/schemas/{name}" for name in schemas}
    parameters = {one["name"]: one for one in document["paths"]["/orders/"]["get"]["parameters"]}
    del parameters["customer"]  # in the path of another route
    assert {name: one["in"] for name, one in parameters.items()} == dict.fromkeys(
        ["limit", "cursor", *OrderListQuery.__annotations__], "query"
    )

    def resolve(schema: dict[str, Any]) -> dict[str, Any]:
        kinds = [one for one in schema.get("anyOf", [schema]) if one != {"type": "null"}]
        if len(kinds) > 1:
            return {"types": {kind["type"] for kind in kinds}}
        return schemas[kinds[0]["$ref"].rpartition("/")[2]] if "$ref" in kinds[0] else kinds[0]  # type: ignore[no-any-return]

    found = {name: resolve(one["schema"]) for name, one in parameters.items()}
    assert found["status"]["enum"] == ["open", "paid", "sent, and more"]
    assert {name: found[name].get("format") for name in ("day", "token", "since")} == {
        "day": "date",
        "token": "uuid",
        "since": "date-time",
    }
    assert found["price"]["types"] == {"number", "string"}
    assert found["is_gift"]["type"] == "boolean"
    assert found["name"]["items"] == {"type": "string"}
    assert found["limit"]["maximum"] == 100


def add_list(statement: Any, path: str = "/ordered/") -> Callable[[FastAPI], None]:
    def add(app: FastAPI) -> None:
        router = APIRouter(route_class=ApiRoute, dependencies=[requires_scopes()])

        @router.get(path, response_model=OrderPage)
        async def _list(
            query: Annotated[PageQuery, Query()], session: ReadSessionDep, request: Request, response: Response
        ) -> Any:
            return paginate(session, statement, Keyset(query, request, Order.id), response)

        app.include_router(router)

    return add


def test_the_keys_replace_the_order_of_a_statement(serve: Serve, orders: list[Order]) -> None:
    serve(add_list(select(Order).order_by(Order.name.desc())))
    page, found = listed("/ordered/", limit=7), []
    found += page.json[ELEMENTS]
    while page.json["next_cursor"]:
        page = follow(page)
        found += page.json[ELEMENTS]
    assert [one["id"] for one in found] == sorted(order.id for order in orders)


def test_a_join_that_repeats_an_entity_is_an_error(serve: Serve, orders: list[Order]) -> None:
    other = aliased(Order)
    serve(add_list(select(Order).join(other, other.is_gift == Order.is_gift)))
    page = listed("/ordered/", limit=3)
    assert [one["id"] for one in page.json[ELEMENTS]] == [min(order.id for order in orders)] * 3
    assert page.json["next_cursor"]


def test_a_path_is_encoded_in_the_link(serve: Serve, orders: list[Order]) -> None:
    assert orders
    serve(add_list(select(Order), "/of/{customer}/"))
    page = call("GET", "/of/Ā>; rel=prev/", query="limit=1")
    assert page.status == 200
    assert page.headers["link"].startswith("</of/%C4%80%3E;%20rel=prev/?limit=1&cursor=")


@pytest.mark.parametrize(
    ("order", "keys"),
    [("count,id", b"[32768,1]"), ("customer,id", b"[2147483648,1]"), ("id", b"[9223372036854775808]")]
    + [("price,id", f'["{price}",1]'.encode()) for price in ("1e200000", "1E-20000", "12345678901.00", "NaN")],
)
def test_a_computed_cursor_with_values_out_of_range_is_refused(
    order: str, keys: bytes, serve: Serve, orders: list[Order]
) -> None:
    assert orders
    serve(add_orders)
    query: Any = OrderListQuery(order=order)
    request = Request({"type": "http", "path": "/orders/", "root_path": ""})
    keyset = Keyset(query, request, *(getattr(Order, name) for name in order.split(",")))
    assert listed(order=order, cursor=_encode(keyset._checksum(keys) + keys)).status == 400
