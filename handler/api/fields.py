"""Types of fields that more than one resource needs, each with its OpenAPI schema."""

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, GetPydanticSchema
from pydantic.types import JsonValue
from pydantic_core import PydanticCustomError

MAX_INT64 = 2**63 - 1

# Characters that show nothing: white space, control characters, and those of no width (Unicode's default ignorable code
# points, UAX 44), as they stand in a class of a regular expression, of Python and of ECMAScript alike.
BLANK = (
    r"\s\u0000-\u001f\u007f-\u009f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e"
    r"\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb"
)
# For OpenAPI, what the functions below check: as a `pattern`, pydantic would answer with the expression.
TEXT: dict[str, JsonValue] = {"pattern": r"^[^\u0000]*$"}
TEXT_NOT_BLANK: dict[str, JsonValue] = {"pattern": rf"^[^\u0000]*[^{BLANK}][^\u0000]*$"}

SEARCHABLE: dict[str, JsonValue] = {"pattern": r"^[^\u0000]*[^\W_]{3}[^\u0000]*$"}


def storable(value: str) -> str:
    """PostgreSQL's text holds every character but one (manual, 8.3 "Character Types")."""
    if "\x00" in value:
        raise PydanticCustomError("nul", "Must not contain the NUL character")
    return value


def not_blank(value: str) -> str:
    if not re.search(f"[^{BLANK}]", value):
        raise PydanticCustomError("blank", "Must not be blank")
    return value


def searchable(value: str) -> str:
    """A trigram index finds text by three letters or digits in a row (PostgreSQL manual, F.35 "pg_trgm")."""
    if not re.search(r"[^\W_]{3}", value):
        raise PydanticCustomError("searchable", "Must have three letters or digits in a row")
    return value


def _without_null(schema: Any, describe: Any) -> Any:
    described = describe(schema)
    (only,) = (one for one in described.pop("anyOf") if one != {"type": "null"})
    return only | described


# On `X | None` where None stands for absent: OpenAPI says X. With SkipJsonSchema[None] for the None, pydantic would try
# both, and its errors would name what it tried.
OR_ABSENT = GetPydanticSchema(get_pydantic_json_schema=_without_null)


def _canonical(value: Any) -> Any:
    if isinstance(value, str) and not re.fullmatch(r"-?[1-9][0-9]{0,19}|0", value):
        raise PydanticCustomError("canonical_int", "Must be a whole number in decimal digits, without leading zeros")
    return value


# For numbers in a path or query, which arrive as text: `Annotated[int, Field(ge=1), CANONICAL]`. pydantic alone takes
# "01", "+1", "1.0" and " 1" for 1, so that one entity has many names; an IAM policy on a path knows only one of them.
CANONICAL = BeforeValidator(_canonical)
# The id of an entity in a path: a positive bigint.
Id = Annotated[int, Field(ge=1, le=MAX_INT64, json_schema_extra={"format": "int64"}, examples=[1]), CANONICAL]
Int64 = Annotated[int, Field(json_schema_extra={"format": "int64"})]
