"""Checks of text that more than one resource needs."""

from typing import Any

from pydantic import GetPydanticSchema
from pydantic.types import JsonValue
from pydantic_core import PydanticCustomError

# For OpenAPI, what the functions below check: as a `pattern`, pydantic would answer with the expression.
TEXT: dict[str, JsonValue] = {"pattern": r"^[^\u0000]*$"}
TEXT_NOT_BLANK: dict[str, JsonValue] = {"pattern": r"^[^\u0000]*[^\s\u0000][^\u0000]*$"}


def storable(value: str) -> str:
    """PostgreSQL's text holds every character but one (manual, 8.3 "Character Types")."""
    if "\x00" in value:
        raise PydanticCustomError("nul", "Must not contain the NUL character")
    return value


def not_blank(value: str) -> str:
    if not value.strip():
        raise PydanticCustomError("blank", "Must not be blank")
    return value


def _without_null(schema: Any, describe: Any) -> Any:
    described = describe(schema)
    (only,) = (one for one in described.pop("anyOf") if one != {"type": "null"})
    return only | described


# On `X | None` where None stands for absent: OpenAPI says X. With SkipJsonSchema[None] for the None, pydantic would try
# both, and its errors would name what it tried.
OR_ABSENT = GetPydanticSchema(get_pydantic_json_schema=_without_null)
