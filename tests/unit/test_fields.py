"""Every field type accepts exactly the values that its OpenAPI schema accepts, and its messages name the problem."""

from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any
from uuid import UUID

import jsonschema_rs
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, TypeAdapter, ValidationError
from sqlalchemy import DateTime, Numeric, Text, Uuid, cast, literal, select
from sqlalchemy.types import TypeEngine

from handler.api.fields import (
    INSTANT_IN_RANGE,
    MAX_SAFE_FLOAT,
    NOT_BLANK,
    SEARCHABLE,
    TEXT,
    WHOLE,
    CanonicalUUID,
    Id,
    Instant,
    Int32,
    Int64,
    JsonId,
    money,
)


class Status(StrEnum):
    DRAFT = "draft"
    PLACED = "placed"


STORES = pytest.mark.usefixtures("worker_database")  # the handler's database, which is created when a test needs it
# Field types, each with values that it accepts.
FIELDS: dict[str, tuple[Any, list[Any]]] = {
    "text": (Annotated[str, Field(max_length=5), TEXT], ["", "Lamp", "\u200b"]),
    "text that is not blank": (Annotated[str, Field(max_length=5), NOT_BLANK], ["Lamp", " a "]),
    "text of a search": (Annotated[str, Field(max_length=5), SEARCHABLE], ["lamp", "é12"]),
    "whole number": (Annotated[int, WHOLE], [-1, 28.0, 10**30]),
    "whole number with limits": (Annotated[int, Field(ge=-3, le=30), WHOLE], [-3, 28.0, 30]),
    "integer": (Int32, [-(2**31), 2**31 - 1]),
    "bigint": (Int64, [-(2**63), 2**63 - 1]),
    "id": (JsonId, [1, 2**63 - 1]),
    "UUID": (CanonicalUUID, ["01980d5c-3c5e-7cc0-8000-6d8f3a1b2c4d"]),
    "instant": (Instant, ["0001-01-01T00:00:00Z", "2026-10-25T02:30:00.000001+02:00", "9999-12-31T23:59:59.999999Z"]),
    "money": (Annotated[Decimal, money(12, 2)], ["0", "12.5", "9999999999.99"]),
    "money below zero": (Annotated[Decimal, money(5, 4, negative=True)], ["-9.9999", "-0", "0.0001"]),
    "money without decimal places": (Annotated[Decimal, money(3, 0)], ["0", "999"]),
    "money below one": (Annotated[Decimal, money(2, 2)], ["0", "0.99"]),
    "enum": (Status, ["draft", "placed"]),
}
# JSON values of all types, and texts that are nearly valid for one of the fields.
OFFSETS = st.sampled_from(["Z", "z", "", "+00:00", "-00:00", "+02:00", "-23:59", "+24:00", "+0200", "+02", " 02:00"])
MOMENTS = st.builds(
    "{}{}{}{}".format,
    st.one_of(
        st.dates().map(str),
        st.sampled_from(
            ["0000-01-01", "0001-01-01", "0001-01-02", "9999-12-30", "9999-12-31", "2023-02-29", "10000-1-1"]
        ),
    ),
    st.sampled_from(["T", "t", " ", ""]),
    st.one_of(
        st.times().map(str), st.sampled_from(["23:59:60", "24:00:00", "12:00", "12:00:00.1234567", "12:00:00,5", ""])
    ),
    OFFSETS,
)
AMOUNTS = st.one_of(
    st.decimals().map(str), st.decimals(0, 10**11, places=2).map(str), st.from_regex(r"^[+-]?[0-9._e٣]{1,8}$")
)
UUIDS = st.builds(
    lambda uuid, form: form(uuid), st.uuids(), st.sampled_from([str, lambda u: str(u).upper(), lambda u: u.hex])
)
JSON = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-40, 40),
    st.sampled_from([2**31, -(2**31), 2**63 - 1, 2**63, -(2**63), -(2**63) - 1]),
    st.floats(allow_nan=False, allow_infinity=False).filter(lambda number: abs(number) <= MAX_SAFE_FLOAT),
    st.integers(-40, 40).map(float),
    st.text(st.characters(codec="utf-8"), max_size=8),
    st.text(st.sampled_from("\x00\n\t \u200b\u3164ab1_é"), max_size=7),
    st.sampled_from([*Status, "1", "true", ""]),
    UUIDS,
    MOMENTS,
    AMOUNTS,
    st.lists(st.integers(), max_size=1),
    st.dictionaries(st.text(max_size=2), st.integers(), max_size=1),
)


def accepts(adapter: TypeAdapter[Any], value: Any) -> bool:
    try:
        adapter.validate_python(value)
    except ValidationError:
        return False
    return True


def message(field: Any, value: Any) -> str:
    with pytest.raises(ValidationError) as raised:
        TypeAdapter(field).validate_python(value)
    (error,) = raised.value.errors()
    return error["msg"]


def store(value: Any, type_: TypeEngine[Any]) -> Any:
    """The value after it was stored in a column of this type."""
    from handler.database.engine import engine

    with engine.connect() as connection:
        return connection.scalar(select(cast(literal(value, type_), type_)))


@pytest.mark.parametrize("name", FIELDS)
def test_a_value_is_accepted_exactly_when_the_schema_accepts_it_and_is_returned_as_the_same_value(name: str) -> None:
    field, valid = FIELDS[name]
    adapter = TypeAdapter(field)
    accepted = jsonschema_rs.validator_for(adapter.json_schema(), validate_formats=True)
    returned = jsonschema_rs.validator_for(adapter.json_schema(mode="serialization"), validate_formats=True)

    @given(st.one_of(st.sampled_from(valid), JSON))
    @example("0001-01-01T00:00:00+01:00")
    @example("12.50\n")
    def check(value: Any) -> None:
        assert accepts(adapter, value) == accepted.is_valid(value)
        if accepts(adapter, value):
            read = adapter.validate_python(value)
            shown = adapter.dump_python(read, mode="json")
            assert returned.is_valid(shown)
            assert adapter.validate_python(shown) == adapter.validate_python(read) == read

    assert all(accepts(adapter, value) for value in valid)
    check()


@pytest.mark.parametrize("value", [True, False, "1", "28", 2.5, None, [1], float("nan"), float("inf"), 2.0**53])
@pytest.mark.parametrize("field", [Annotated[int, WHOLE], Int32, Int64, JsonId])
def test_no_bool_text_or_inexact_double_is_a_whole_number(field: Any, value: Any) -> None:
    assert message(field, value) == "Must be a whole number"


def test_28_0_is_the_whole_number_28() -> None:
    number = TypeAdapter(Annotated[int, Field(le=28), WHOLE]).validate_python(28.0)
    assert (number, type(number)) == (28, int)


@pytest.mark.parametrize("value", ["01", "+1", "1.0", " 1", "1_0", "१", "-0", ""])
def test_an_id_in_a_path_has_one_spelling(value: str) -> None:
    assert message(Id, value) == "Must be a whole number in decimal digits, without leading zeros"


@given(st.uuids())
def test_a_uuid_has_one_spelling(uuid: UUID) -> None:
    text = str(uuid)
    assert TypeAdapter(CanonicalUUID).validate_python(text) == uuid
    others = {text.upper(), uuid.hex, f"{{{text}}}", f"urn:uuid:{text}", f"{text}\n", text.replace("-", "", 1)} - {text}
    for other in others:
        assert message(CanonicalUUID, other) == "Must be a UUID in lower case, with hyphens and without braces"


@pytest.mark.parametrize(
    "value",
    [
        *("2026-01-31T12:00:00", "2026-01-31", "2026-01-31T12:00Z", "2026-01-31 12:00:00Z", "1769860800"),
        *("2026-01-31T12:00:00.1234567Z", "2026-01-31T12:00:60Z", "2026-01-31T12:00:00 02:00", 1769860800, None),
    ],
)
def test_an_instant_has_a_zone_and_no_more_digits_than_can_be_stored(value: Any) -> None:
    expected = "Must be a date and time with a zone and at most six digits of a second, such as 2026-01-31T12:00:00.5Z"
    assert message(Instant, value) == expected


@pytest.mark.parametrize("value", ["0000-06-01T00:00:00Z", "0001-01-01T00:00:00+01:00", "9999-12-31T23:00:00-01:00"])
def test_an_instant_is_in_the_years_1_to_9999(value: str) -> None:
    assert message(Instant, value) == "Must be between the years 1 and 9999, in UTC on their first and last day"


def test_a_datetime_without_a_zone_is_refused() -> None:
    assert message(Instant, datetime(2026, 1, 31)) == "Must have a zone"  # noqa: DTZ001 - naive on purpose


@STORES
@given(st.from_regex(INSTANT_IN_RANGE, fullmatch=True).filter(lambda text: accepts(TypeAdapter(Instant), text)))
@example("0001-01-01T00:00:00Z")
@example("9999-12-31T23:59:59.999999+00:00")
@example("2026-10-25T02:30:00.000001+02:00")
def test_an_instant_is_the_same_after_it_was_stored(text: str) -> None:
    instant = TypeAdapter(Instant).validate_python(text)
    stored = store(instant, DateTime(timezone=True))
    assert (stored, stored.tzinfo, instant.tzinfo) == (instant, UTC, UTC)
    assert TypeAdapter(Instant).dump_json(stored) == TypeAdapter(Instant).dump_json(instant)


@pytest.mark.parametrize("value", [12, 12.5, "NaN", "Infinity", "-1", "1e2", "007", "1_0", "12.505", ".5", "5.", True])
def test_money_is_a_string_of_limited_digits(value: Any) -> None:
    assert message(Annotated[Decimal, money(12, 2)], value) == (
        'Must be an amount in a string, such as "12.50": at most 10 digits before the point and 2 after it, without a'
        " sign"
    )


@pytest.mark.parametrize("value", [Decimal("NaN"), Decimal("Infinity"), Decimal("0.001"), Decimal(10**10), Decimal(-1)])
def test_a_decimal_of_the_program_has_the_limits_of_its_column(value: Decimal) -> None:
    assert message(Annotated[Decimal, money(12, 2)], value).startswith("Must be an amount")


@STORES
@pytest.mark.parametrize(("digits", "places"), [(12, 2), (40, 10), (3, 0), (9, 9)])
def test_money_is_the_same_after_it_was_stored(digits: int, places: int) -> None:
    adapter = TypeAdapter(Annotated[Decimal, money(digits, places, negative=True)])

    @given(st.integers(-(10**digits) + 1, 10**digits - 1), st.integers(0, places))
    @example(0, 0)
    def check(units: int, zeros: int) -> None:
        text = f"{'-' if units < 0 else ''}{abs(units):0{places + 1}d}"
        text = f"{text[:-places]}.{text[-places:]}" if places else text
        shorter = text.removesuffix("0" * zeros).removesuffix(".") if places and zeros else text
        amount = adapter.validate_python(shorter)
        stored = store(amount, Numeric(digits, places))
        assert (str(stored), adapter.dump_json(stored)) == (str(amount), adapter.dump_json(amount))
        assert adapter.dump_python(stored, mode="json") == text

    check()


def test_minus_zero_is_zero() -> None:
    assert str(TypeAdapter(Annotated[Decimal, money(5, 2, negative=True)]).validate_python("-0.0")) == "0.00"


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("text that is not blank", "", "Must not be blank"),
        ("text that is not blank", "\t\u200b ", "Must not be blank"),
        ("text that is not blank", "too long", "String should have at most 5 characters"),
        ("text that is not blank", "a\x00", "Must not contain the NUL character"),
        ("text", "\x00", "Must not contain the NUL character"),
        ("text of a search", "a b c", "Must have three letters or digits in a row"),
        ("text of a search", "abc\x00", "Must not contain the NUL character"),
        ("enum", "paid", "Input should be 'draft' or 'placed'"),
    ],
)
def test_a_message_says_what_is_wrong(field: str, value: str, expected: str) -> None:
    assert message(FIELDS[field][0], value) == expected


@STORES
@given(st.text(max_size=5))
def test_text_that_is_accepted_can_be_stored(text: str) -> None:
    if accepts(TypeAdapter(Annotated[str, TEXT]), text):
        assert store(text, Text()) == text


@STORES
@given(st.uuids())
def test_a_uuid_is_the_same_after_it_was_stored(uuid: UUID) -> None:
    assert store(TypeAdapter(CanonicalUUID).validate_python(str(uuid)), Uuid()) == uuid


def test_the_types_work_as_fields_of_a_model_and_in_any_order() -> None:
    class Product(BaseModel):
        name: Annotated[str, NOT_BLANK, Field(max_length=5, description="Shown to customers")]
        price: Annotated[Decimal | None, Field(description="With tax"), money(5, 2)] = None
        sold_at: Annotated[Instant, Field(description="In the shop")] | None = None

    product = Product.model_validate({"name": "Lamp", "price": "1.5", "sold_at": "2026-01-31T12:00:00+01:00"})
    assert product.model_dump_json() == '{"name":"Lamp","price":"1.50","sold_at":"2026-01-31T11:00:00Z"}'
    name = Product.model_json_schema()["properties"]["name"]
    assert (name["minLength"], name["maxLength"], name["description"]) == (1, 5, "Shown to customers")
    for wrong in ({"name": " "}, {"name": "too long"}):
        with pytest.raises(ValidationError):
            Product.model_validate(wrong)
