"""The bodies that clients send and receive, with the limits that OpenAPI states."""

from decimal import Decimal
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from examples.orders.models import (
    MAX_LINES,
    MAX_QUANTITY,
    NUMBER_LENGTH,
    PRICE,
    PRODUCT_LENGTH,
    TOTAL,
    OrderStatus,
)
from handler.api.fields import NOT_BLANK, OR_ABSENT, WHOLE, CanonicalUUID, Instant, JsonId, money
from handler.api.pagination import Page, PageQuery

Number = Annotated[str, Field(max_length=NUMBER_LENGTH, examples=["A-1001"]), NOT_BLANK]
Product = Annotated[str, Field(max_length=PRODUCT_LENGTH, examples=["Desk lamp"]), NOT_BLANK]
Quantity = Annotated[int, Field(ge=1, le=MAX_QUANTITY, examples=[2]), WHOLE]
Price = Annotated[Decimal, money(*PRICE), Field(examples=["12.50"])]
Total = Annotated[Decimal, money(*TOTAL), Field(examples=["25.00"])]


class OrderLineCreate(BaseModel):
    model_config = ConfigDict(extra="forbid")

    product: Product
    quantity: Quantity
    unit_price: Price


class OrderCreate(BaseModel):
    model_config = ConfigDict(extra="forbid")

    number: Number
    deliver_at: Instant | None = None
    lines: Annotated[list[OrderLineCreate], Field(min_length=1, max_length=MAX_LINES)]


class OrderUpdate(BaseModel):
    """The next status of an order."""

    model_config = ConfigDict(extra="forbid")

    status: OrderStatus


class OrderLineRead(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: JsonId
    product: Product
    quantity: Quantity
    unit_price: Price


class OrderSummary(BaseModel):
    """An order without its lines, as it stands in a list."""

    model_config = ConfigDict(from_attributes=True)

    id: CanonicalUUID
    number: Number
    status: OrderStatus
    deliver_at: Instant | None
    total: Total
    version: Annotated[int, Field(examples=[1])]
    created_at: Instant
    updated_at: Instant


class OrderRead(OrderSummary):
    lines: list[OrderLineRead]


class OrderListQuery(PageQuery):
    order: Annotated[Literal["newest", "total"], Field(description="`newest` or highest `total` first")] = "newest"
    status: Annotated[OrderStatus | None, OR_ABSENT, Field(description="Only orders of this status")] = None


class OrderPage(Page[OrderSummary]):
    """A page of orders."""
