"""Readers and writers of values, for every text format that the server may use.

pg8000 reads one format of bytea and some of interval, and loses the sign of an interval of less than an hour. Roles,
databases and servers have defaults for the settings that choose the format, and no pooler lets a client set all of
them. PostgreSQL manual: 8.4 "Binary Data Types", 8.5.5 "Interval Output".
"""

import re
from datetime import timedelta
from typing import Any

from pg8000 import PGInterval, Range
from pg8000.converters import (
    BYTES,
    BYTES_ARRAY,
    INTERVAL,
    INTERVAL_ARRAY,
    PY_TYPES,
    _parse_array,
    make_param,
)

from handler.database.driver.timestamps import TIMESTAMP_READERS

_ESCAPED = re.compile(rb"\\(\\|[0-7]{3})")
# Years and months with a hyphen between them (sql_standard), a time, or a number and its unit.
_INTERVAL_FIELD = re.compile(
    r"(?P<sign>[+-]?)(?:(?P<years>\d+)-(?P<months>\d+)|(?P<hours>\d+):(?P<minutes>\d+):(?P<seconds>[\d.]+)"
    r"|(?P<number>[\d.]+) ?(?P<unit>[A-Za-z]*))"
)
# Units of postgres and postgres_verbose, in the singular; of iso_8601, with units of time in lower case; and of
# sql_standard, which writes days without a unit.
_UNITS = (
    {"year": "years", "mon": "months", "day": "days", "hour": "hours", "min": "minutes", "sec": "seconds"}
    | {"Y": "years", "M": "months", "D": "days", "h": "hours", "m": "minutes", "s": "seconds"}
    | {"": "days"}
)


def read_bytea(text: str) -> bytes:
    """Read a bytea in the hex or the escape format."""
    if text.startswith("\\x"):
        return bytes.fromhex(text[2:])
    return _ESCAPED.sub(lambda found: b"\\" if found[1] == b"\\" else bytes((int(found[1], 8),)), text.encode("ascii"))


def read_interval(text: str) -> timedelta | PGInterval | str:
    """Read an interval in any IntervalStyle.

    Returns a timedelta, a PGInterval for one with months, whose length varies, or the text of infinity.
    """
    if text in ("infinity", "-infinity"):
        return text
    is_iso = text.startswith("P")
    if is_iso:  # before the T, M is a month; after it, a minute
        date, _, time = text.partition("T")
        text = date + time.lower()
    found = list(_INTERVAL_FIELD.finditer(text))
    # In sql_standard one sign can apply to all fields. In the other styles, a field after a negative one has a sign.
    negates_all = not is_iso and found[0]["sign"] == "-" and not any(field["sign"] for field in found[1:])
    fields: dict[str, float] = {}
    for field in found:
        sign = -1 if negates_all or field["sign"] == "-" else 1
        if field["unit"] is not None:
            fields[_UNITS[field["unit"].removesuffix("s") or field["unit"]]] = sign * _number(field["number"])
        for unit in ("years", "months", "hours", "minutes", "seconds"):
            if field[unit]:
                fields[unit] = sign * _number(field[unit])
    sign = -1 if text.endswith(" ago") else 1
    fields = {unit: sign * number for unit, number in fields.items() if number}
    if "years" in fields or "months" in fields:
        return PGInterval(**fields)
    try:
        return timedelta(**fields)
    except OverflowError:
        return PGInterval(**fields)


def _number(text: str) -> float:
    return float(text) if "." in text else int(text)


def write_timedelta(value: timedelta) -> str:
    """Write every field with a sign. With IntervalStyle sql_standard, a single leading minus negates all fields."""
    return f"{value.days:+} days {value.seconds:+} seconds {value.microseconds:+} microseconds"


def write_interval(value: PGInterval) -> str:
    """As `write_timedelta`."""
    return re.sub(r"(^| )(?=\d)", r"\1+", str(value)) or "0"


def write_array(values: list[Any]) -> str:
    """Write an array, whose elements are all quoted (manual, 8.15.6), or a multirange, whose ranges are not.

    pg8000 quotes only some elements, so it writes the text `null` as NULL.
    """
    return f"{{{','.join(map(_write_element, values))}}}"


def _write_element(value: Any) -> str:
    if isinstance(value, list):
        return write_array(value)
    text: str | None = make_param(_WRITERS, value)
    if text is None:
        return "NULL"
    if isinstance(value, Range):
        return text
    escaped = text.replace("\\", r"\\").replace('"', r"\"")
    return f'"{escaped}"'


# Readers by the oid of the type, and writers by the class of the value, as in pg8000's own dicts.
READERS = {
    BYTES: read_bytea,
    BYTES_ARRAY: lambda text: _parse_array(text, read_bytea),
    INTERVAL: read_interval,
    INTERVAL_ARRAY: lambda text: _parse_array(text, read_interval),
} | TIMESTAMP_READERS
WRITERS: dict[type, Any] = {timedelta: write_timedelta, PGInterval: write_interval, list: write_array}
_WRITERS = PY_TYPES | WRITERS
