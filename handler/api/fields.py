"""Field types for all resources. A field accepts exactly the values that its OpenAPI schema accepts.

Names in capitals are added to a type with its limits; the others are types:

    class ProductCreate(BaseModel):
        name: Annotated[str, Field(max_length=200), NOT_BLANK]
        quantity: Annotated[int, Field(ge=1, le=1000), WHOLE]
        price: Annotated[Decimal, money(12, 2)]
        available_from: Instant

docs/adr/0040 explains why they are stricter than pydantic's own types.
"""

import re
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any
from uuid import UUID

from pydantic import AfterValidator, BeforeValidator, Field, GetPydanticSchema
from pydantic_core import PydanticCustomError, core_schema

MAX_INT64 = 2**63 - 1
MAX_SAFE_FLOAT = 2**53 - 1  # the largest integer that a double represents exactly (RFC 8259, 6 "Numbers")

# Invisible characters: white space, control characters, and Unicode's default ignorable code points (UAX 44), written
# as a character class for regular expressions of Python and of ECMAScript.
BLANK = (
    r"\s\u0000-\u001f\u007f-\u009f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e"
    r"\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb"
)
# RFC 3339, 5.6, in capitals, without second 60, and with at most six digits of a second, as datetime and timestamptz.
INSTANT = (
    r"[0-9]{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12][0-9]|3[01])T(?:[01][0-9]|2[0-3])(?::[0-5][0-9]){2}(?:\.[0-9]{1,6})?"
    r"(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
)
# The years 1 to 9999 in UTC. On the first and the last day, an offset could lead out of this range.
INSTANT_IN_RANGE = rf"(?!0000|(?:0001-01-01|9999-12-31).*[+-](?!00:00)){INSTANT}"
# RFC 9562, 4, with digits in lower case.
CANONICAL_UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"


def _described(**schema: Any) -> GetPydanticSchema:
    """Add members to a type's schema in OpenAPI.

    pydantic's own error for a `pattern` only repeats the pattern. The checks below name the problem.
    """
    return GetPydanticSchema(get_pydantic_json_schema=lambda schema_, describe: {**describe(schema_), **schema})


def _checked(check: Callable[[Any], Any], **schema: Any) -> GetPydanticSchema:
    """Add a check to a type, and the equivalent members to its schema in OpenAPI."""
    return GetPydanticSchema(
        lambda source, handler: core_schema.no_info_after_validator_function(check, handler(source)),
        lambda schema_, describe: {**describe(schema_), **schema},
    )


# Text


def storable(value: str) -> str:
    """PostgreSQL's text stores every character except NUL (manual, 8.3 "Character Types")."""
    if "\x00" in value:
        raise PydanticCustomError("nul", "Must not contain the NUL character")
    return value


def _not_blank(value: str) -> str:
    if not re.search(f"[^{BLANK}]", value):
        raise PydanticCustomError("blank", "Must not be blank")
    return storable(value)


def _searchable(value: str) -> str:
    """A trigram index finds text by three letters or digits in a row (PostgreSQL manual, F.35 "pg_trgm")."""
    if not re.search(r"[^\W_]{3}", value):
        raise PydanticCustomError("searchable", "Must have three letters or digits in a row")
    return storable(value)


# Text that PostgreSQL can store: `Annotated[str, Field(max_length=10_000), TEXT]`. JSON Schema, Python and PostgreSQL's
# char_length all count code points. The limit comes first, so that its message names characters.
TEXT = _checked(storable, pattern=r"^[^\u0000]*$")
# The same with at least one visible character.
NOT_BLANK = _checked(_not_blank, minLength=1, pattern=rf"^[^\u0000]*[^{BLANK}][^\u0000]*$")
# The same for the text of a search by trigrams. In ECMAScript, `\w` has no letters but those of ASCII.
SEARCHABLE = _checked(_searchable, pattern=r"^[^\u0000]*[\p{L}\p{N}]{3}[^\u0000]*$")


# Fields that may be absent but not null


def _without_null(schema: Any, describe: Any) -> Any:
    described = describe(schema)
    (only,) = (one for one in described.pop("anyOf") if one != {"type": "null"})
    return only | described


# For `X | None` where None means absent: OpenAPI has only X. With SkipJsonSchema[None] in place of None, pydantic would
# try both, and its errors would name both.
OR_ABSENT = GetPydanticSchema(get_pydantic_json_schema=_without_null)


# Whole numbers


def _whole(value: Any) -> Any:
    """Accept 28.0 as 28, as JSON Schema's `integer` does (Core, 6.1.1). Some clients write integers that way."""
    if isinstance(value, float) and value.is_integer() and abs(value) <= MAX_SAFE_FLOAT:
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise PydanticCustomError("whole_number", "Must be a whole number")


def _canonical_int(value: Any) -> Any:
    if isinstance(value, str) and not re.fullmatch(r"-?[1-9][0-9]{0,19}|0", value):
        raise PydanticCustomError("canonical_int", "Must be a whole number in decimal digits, without leading zeros")
    return value


# For numbers in JSON: `Annotated[int, Field(ge=1, le=1000), WHOLE]`. pydantic alone accepts true and "1" as 1.
WHOLE = BeforeValidator(_whole)
# For numbers in a path or query, which arrive as text: `Annotated[int, Field(ge=1), CANONICAL]`. pydantic alone
# accepts "01", "+1", "1.0" and " 1" as 1, so one entity would have many paths, and an IAM policy names only one.
CANONICAL = BeforeValidator(_canonical_int)

# PostgreSQL's integer and bigint, in JSON. FastAPI writes the limits of a body as doubles; 2**63 - 1 is not one.
Int32 = Annotated[int, Field(ge=-(2**31), lt=2**31, json_schema_extra={"format": "int32"}), WHOLE]
Int64 = Annotated[int, Field(ge=-(2**63), lt=2**63, json_schema_extra={"format": "int64"}), WHOLE]


# Ids

# A positive bigint: `Id` in a path or query, `JsonId` in JSON.
Id = Annotated[int, Field(ge=1, le=MAX_INT64, json_schema_extra={"format": "int64"}, examples=[1]), CANONICAL]
JsonId = Annotated[int, Field(ge=1, lt=2**63, json_schema_extra={"format": "int64"}, examples=[1]), WHOLE]


def _canonical_uuid(value: Any) -> Any:
    if isinstance(value, UUID) or (isinstance(value, str) and re.fullmatch(CANONICAL_UUID, value)):
        return value
    raise PydanticCustomError("canonical_uuid", "Must be a UUID in lower case, with hyphens and without braces")


# In a path, a query or JSON. pydantic alone also accepts capitals, braces, `urn:uuid:` and no hyphens.
CanonicalUUID = Annotated[
    UUID,
    Field(examples=["01980d5c-3c5e-7cc0-8000-6d8f3a1b2c4d"]),
    BeforeValidator(_canonical_uuid),
    _described(pattern=f"^{CANONICAL_UUID}$"),
]


# Dates and times


def _instant(value: Any) -> Any:
    if isinstance(value, datetime) or (isinstance(value, str) and re.fullmatch(INSTANT_IN_RANGE, value)):
        return value
    if isinstance(value, str) and re.fullmatch(INSTANT, value):
        raise PydanticCustomError("instant", "Must be between the years 1 and 9999, in UTC on their first and last day")
    raise PydanticCustomError(
        "instant",
        "Must be a date and time with a zone and at most six digits of a second, such as 2026-01-31T12:00:00.5Z",
    )


def _in_utc(value: datetime) -> datetime:
    if value.tzinfo is None:
        raise PydanticCustomError("instant", "Must have a zone")
    return value if value.tzinfo is UTC else value.astimezone(UTC)


# A date and time with a zone, for a column DateTime(timezone=True). It is stored and returned in UTC. pydantic alone
# also accepts numbers, dates, and more digits than a column stores.
Instant = Annotated[
    datetime,
    Field(examples=["2026-01-31T12:00:00.123456Z"]),
    BeforeValidator(_instant),
    AfterValidator(_in_utc),
    _described(pattern=f"^{INSTANT_IN_RANGE}$"),
]


# Money


def money(max_digits: int, decimal_places: int, *, negative: bool = False) -> GetPydanticSchema:
    """An amount with the limits of a Numeric column, to add to Decimal.

    In JSON it is a string, because most programs read a JSON number as a double (RFC 7493, 2.2). A value has as many
    decimal places as its column stores: "12.5" becomes Decimal("12.50"). `negative` allows amounts below zero.
    """
    digits = max_digits - decimal_places
    whole = rf"(?:0|[1-9][0-9]{{0,{digits - 1}}})" if digits else "0"
    fraction = rf"(?:\.[0-9]{{1,{decimal_places}}})?" if decimal_places else ""
    pattern = f"{'-?' if negative else ''}{whole}{fraction}"
    example = ("12"[:digits] or "0") + (f".{'5'.ljust(decimal_places, '0')}" if decimal_places else "")
    message = (
        f'Must be an amount in a string, such as "{example}": at most {digits} digits before the point and'
        f" {decimal_places} after it{'' if negative else ', without a sign'}"
    )

    def check(value: Any) -> Decimal:
        if isinstance(value, Decimal):
            sign, figures, exponent = value.as_tuple()
            # The usual form of a value from a column.
            if exponent == -decimal_places and len(figures) <= max_digits and not sign:
                return value
        text = f"{value:f}" if isinstance(value, Decimal) else value
        if not isinstance(text, str) or not re.fullmatch(pattern, text):
            raise PydanticCustomError("money", message)
        units, _, rest = text.partition(".")
        # From text, because Decimal's arithmetic rounds to the 28 digits of its context.
        amount = Decimal(f"{units}.{rest.ljust(decimal_places, '0')}")
        return amount or abs(amount)  # PostgreSQL has no negative zero

    serialization = core_schema.plain_serializer_function_ser_schema(
        "{:f}".format, return_schema=core_schema.str_schema(), when_used="json"
    )
    return GetPydanticSchema(
        lambda _source, _handler: core_schema.no_info_plain_validator_function(check, serialization=serialization),
        lambda _schema, _describe: {"type": "string", "format": "decimal", "pattern": f"^{pattern}$"},
    )
