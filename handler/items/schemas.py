"""The bodies that clients send and receive, with the limits that OpenAPI states."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from handler.api.fields import NOT_BLANK, OR_ABSENT, SEARCHABLE, TEXT, JsonId
from handler.api.pagination import Page, PageQuery
from handler.items.models import DESCRIPTION_LENGTH, NAME_LENGTH


def _not_null(value: Any) -> Any:
    # In a PATCH, null removes a field (RFC 7396), and an item must have a name.
    if value is None:
        raise PydanticCustomError("null", "Must not be null")
    return value


Name = Annotated[str, Field(max_length=NAME_LENGTH, examples=["Lamp"]), NOT_BLANK]
Description = Annotated[str, Field(max_length=DESCRIPTION_LENGTH, examples=["A desk lamp"]), TEXT]
Search = Annotated[str, Field(max_length=100, examples=["lamp"]), SEARCHABLE]
Timestamp = Annotated[datetime, Field(examples=["2026-01-31T12:00:00.123456Z"])]


class ItemCreate(BaseModel):
    """All fields that a client can set, for POST and PUT."""

    model_config = ConfigDict(extra="forbid")

    name: Name
    description: Description | None = None


class ItemUpdate(BaseModel):
    """Only the fields to change; `description: null` removes it (RFC 7396)."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[Name | None, OR_ABSENT, BeforeValidator(_not_null)] = None
    description: Description | None = None


class ItemRead(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: JsonId
    name: Annotated[str, Field(examples=["Lamp"])]
    description: Annotated[str | None, Field(examples=["A desk lamp"])]
    version: Annotated[int, Field(examples=[1])]
    created_at: Timestamp
    updated_at: Timestamp


class ItemListQuery(PageQuery):
    order: Annotated[Literal["newest", "name"], Field(description="`newest` first, or by `name`")] = "newest"
    q: Annotated[
        Search | None,
        OR_ABSENT,
        Field(
            description="Only items whose name or description contains this text, in upper or lower"
            " case; it has three letters or digits in a row"
        ),
    ] = None


class ItemPage(Page[ItemRead]):
    """A page of items."""
