from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any
from uuid import UUID

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from handler.api.fields import OR_ABSENT, TEXT, TEXT_NOT_BLANK, not_blank, storable
from handler.api.pagination import Page, PageQuery
from tests.support.probe.models import State


def _not_null(value: Any) -> Any:
    if value is None:
        raise PydanticCustomError("null", "Must not be null")
    return value


Name = Annotated[
    str,
    Field(min_length=1, max_length=200, json_schema_extra=TEXT_NOT_BLANK, examples=["Thermometer"]),
    AfterValidator(storable),
    AfterValidator(not_blank),
]
Note = Annotated[
    str,
    Field(max_length=10_000, json_schema_extra=TEXT, examples=["In the cellar"]),
    AfterValidator(storable),
]
Serial = Annotated[str, Field(pattern=r"^[A-Z0-9-]{1,40}$", examples=["T-1000"])]
# A response to a POST shows what the next read will show: the column's scale, and UTC.
Price = Annotated[
    Decimal,
    Field(max_digits=12, decimal_places=2, ge=0, examples=["19.90"]),
    AfterValidator(lambda value: value.quantize(Decimal("0.01"))),
]
Value = Annotated[
    Decimal,
    Field(max_digits=12, decimal_places=3, examples=["21.500"]),
    AfterValidator(lambda value: value.quantize(Decimal("0.001"))),
]
Instant = Annotated[
    AwareDatetime, Field(examples=["2026-01-31T12:00:00Z"]), AfterValidator(lambda value: value.astimezone(UTC))
]
NotNull = BeforeValidator(_not_null)


class ReadingCreate(BaseModel):
    model_config = ConfigDict(extra="forbid")

    value: Value


class ProbeCreate(BaseModel):
    """What a client may set, whole: for POST and PUT."""

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

    name: Annotated[Name | None, OR_ABSENT, NotNull] = None
    note: Note | None = None
    serial: Serial | None = None
    state: Annotated[State | None, OR_ABSENT, NotNull] = None
    price: Annotated[Price | None, OR_ABSENT, NotNull] = None
    installed_at: Instant | None = None


class ReadingRead(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: int
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
    state: Annotated[State | None, OR_ABSENT] = None


class ProbePage(Page[ProbeRead]):
    """A page of probes."""
