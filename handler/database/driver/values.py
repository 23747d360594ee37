"""Values as text, whichever of its formats the server writes.

pg8000 reads one format of a bytea, some of an interval, and loses the sign of an interval of less than an hour. The
settings that choose the format are role, database and server defaults, and no pooler lets a client set all of them.
PostgreSQL manual: 8.4 "Binary Data Types", 8.5.5 "Interval Output".
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

from handler.database.driver.moments import MOMENTS

_ESCAPED = re.compile(rb"\\(\\|[0-7]{3})")
# Years and months with a hyphen between (sql_standard), a time, or a number and its unit.
_INTERVAL_FIELD = re.compile(
    r"(?P<sign>[+-]?)(?:(?P<years>\d+)-(?P<months>\d+)|(?P<hours>\d+):(?P<minutes>\d+):(?P<seconds>[\d.]+)"
    r"|(?P<number>[\d.]+) ?(?P<unit>[A-Za-z]*))"
)
# Of postgres and postgres_verbose in the singular, of iso_8601 (a time in small letters here), and a day of
# sql_standard, which has none.
_UNITS = (
    {"year": "years", "mon": "months", "day": "days", "hour": "hours", "min": "minutes", "sec": "seconds"}
    | {"Y": "years", "M": "months", "D": "days", "h": "hours", "m": "minutes", "s": "seconds"}
    | {"": "days"}
)


def read_bytea(text: str) -> bytes:
    """A bytea in the hex or the escape format."""
    if text.startswith("\\x"):
        return bytes.fromhex(text[2:])
    return _ESCAPED.sub(lambda found: b"\\" if found[1] == b"\\" else bytes((int(found[1], 8),)), text.encode("ascii"))


def read_interval(text: str) -> timedelta | PGInterval | str:
    """An interval in any IntervalStyle; with months, which have no length, a PGInterval; infinity as text."""
    if text in ("infinity", "-infinity"):
        return text
    is_iso = text.startswith("P")
    if is_iso:  # M is a month before the T, and a minute after it
        date, _, time = text.partition("T")
        text = date + time.lower()
    found = list(_INTERVAL_FIELD.finditer(text))
    # The sign before all fields of sql_standard. In the other styles a field after a negative one has its own.
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
    """Every field with its sign: with IntervalStyle sql_standard, a first and only minus would negate all of them."""
    return f"{value.days:+} days {value.seconds:+} seconds {value.microseconds:+} microseconds"


def write_interval(value: PGInterval) -> str:
    """The same of what is not a timedelta."""
    return re.sub(r"(^| )(?=\d)", r"\1+", str(value)) or "0"


def write_array(values: list[Any]) -> str:
    """An array with all elements quoted (manual, 8.15.6), or a multirange, whose ranges are not.

    pg8000 quotes where it sees a need: the text `null` is then no text any more.
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


# By the oid of the type, and by the class of the value, as pg8000 keeps its own.
READERS = {
    BYTES: read_bytea,
    BYTES_ARRAY: lambda text: _parse_array(text, read_bytea),
    INTERVAL: read_interval,
    INTERVAL_ARRAY: lambda text: _parse_array(text, read_interval),
} | MOMENTS
WRITERS: dict[type, Any] = {timedelta: write_timedelta, PGInterval: write_interval, list: write_array}
_WRITERS = PY_TYPES | WRITERS
