from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any
from uuid import UUID

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from handler.api.fields import NOT_BLANK, OR_ABSENT, TEXT, Instant, JsonId, money
from handler.api.pagination import Page, PageQuery
from tests.support.probe.models import State


def _not_null(value: Any) -> Any:
    if value is None:
        raise PydanticCustomError("null", "Must not be null")
    return value


NOT_NULL = BeforeValidator(_not_null)
Name = Annotated[str, Field(max_length=200, examples=["Thermometer"]), NOT_BLANK]
Note = Annotated[str, Field(max_length=10_000, examples=["In the cellar"]), TEXT]
Serial = Annotated[str, Field(pattern=r"^[A-Z0-9-]{1,40}$", examples=["T-1000"])]
Price = Annotated[Decimal, money(12, 2)]
Value = Annotated[Decimal, money(12, 3, negative=True)]


class ReadingCreate(BaseModel):
    model_config = ConfigDict(extra="forbid")

    value: Value


class ProbeCreate(BaseModel):
    """All fields that a client can set, for POST and PUT."""

    model_config = ConfigDict(extra="forbid")

    name: Name
    note: Note | None = None
    serial: Serial | None = None
    state: State = State.IDLE
    price: Price = Decimal("0.00")
    installed_at: Instant | None = None
    readings: Annotated[list[ReadingCreate], Field(max_length=20)] = []


class ProbeUpdate(BaseModel):
    """Only the fields to change."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[Name | None, OR_ABSENT, NOT_NULL] = None
    note: Note | None = None
    serial: Serial | None = None
    state: Annotated[State | None, OR_ABSENT, NOT_NULL] = None
    price: Annotated[Price | None, OR_ABSENT, NOT_NULL] = None
    installed_at: Instant | None = None


class ReadingRead(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: JsonId
    value: Value


class ProbeSummary(BaseModel):
    """A probe without its readings."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID
    name: str
    note: str | None
    serial: str | None
    state: State
    price: Price
    installed_at: datetime | None
    version: int
    created_at: datetime
    updated_at: datetime


class ProbeRead(ProbeSummary):
    readings: list[ReadingRead]


class ProbeListQuery(PageQuery):
    name: Annotated[Name | None, OR_ABSENT] = None
    state: Annotated[State | None, OR_ABSENT] = None


class ProbePage(Page[ProbeRead]):
    """A page of probes."""
