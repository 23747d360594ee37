"""What travels: the bodies that clients send and get, with the limits that OpenAPI states."""

from datetime import datetime
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from handler.items.models import DESCRIPTION_LENGTH, NAME_LENGTH
from handler.text import OR_ABSENT, TEXT, TEXT_NOT_BLANK, not_blank, storable

MAX_ID = 2**63 - 1


def _not_null(value: Any) -> Any:
    # In a PATCH, null means "remove" (RFC 7396), and an item cannot be without a name.
    if value is None:
        raise PydanticCustomError("null", "Must not be null")
    return value


Name = Annotated[
    str,
    Field(min_length=1, max_length=NAME_LENGTH, json_schema_extra=TEXT_NOT_BLANK, examples=["Lamp"]),
    AfterValidator(storable),
    AfterValidator(not_blank),
]
Description = Annotated[
    str,
    Field(max_length=DESCRIPTION_LENGTH, json_schema_extra=TEXT, examples=["A desk lamp"]),
    AfterValidator(storable),
]
ItemId = Annotated[int, Field(ge=1, le=MAX_ID, examples=[1])]
Timestamp = Annotated[datetime, Field(examples=["2026-01-31T12:00:00.123456Z"])]


class ItemIn(BaseModel):
    """The whole of what a client may set: for POST and PUT."""

    model_config = ConfigDict(extra="forbid")

    name: Name
    description: Description | None = None


class ItemPatch(BaseModel):
    """Only the fields to change; `description: null` removes it (RFC 7396)."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[Name | None, OR_ABSENT, BeforeValidator(_not_null)] = None
    description: Description | None = None


class ItemOut(BaseModel):
    id: Annotated[int, Field(examples=[1])]
    name: Annotated[str, Field(examples=["Lamp"])]
    description: Annotated[str | None, Field(examples=["A desk lamp"])]
    version: Annotated[int, Field(examples=[1])]
    created_at: Timestamp
    updated_at: Timestamp


class ItemPage(BaseModel):
    items: list[ItemOut]
    next_cursor: Annotated[str | None, Field(description="The `cursor` of the next page; null on the last")]
