"""Timestamps as text, read in a time that the server does not choose.

pg8000 hands what strptime cannot read to dateutil, whose time grows with the square of the text: 36 s for 1 MB.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from pg8000 import converters
from pg8000.converters import _array_in, _multirange_in, _range_in

from handler.database.deadline import remaining

# Characters. The longest that PostgreSQL writes is a moment before Christ with a zone's name (manual, 8.5).
MAX_MOMENT = 64

Reader = Callable[[str], Any]


def read_timestamp(text: str) -> Any:
    """A timestamp without time zone: a datetime, or the text of what is none (infinity, a year after 9999)."""
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return _by_pg8000(converters.timestamp_in, text)


def read_timestamptz(text: str) -> Any:
    """A moment, in UTC. pg8000 reads it with strptime, which takes ten times as long."""
    try:
        moment = datetime.fromisoformat(text)
        return moment if moment.tzinfo is UTC else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        return _by_pg8000(converters.timestamptz_in, text)


def _by_pg8000(read: Reader, text: str) -> Any:
    """Infinity, years before 1 or after 9999, another DateStyle. An array of such takes 0.1 ms for each: minutes."""
    if len(text) > MAX_MOMENT:
        raise ValueError("longer than any timestamp")
    if text.endswith(" BC"):
        return text  # pg8000 would give a year after Christ
    remaining()
    return read(text)


def _quoted(read: Reader) -> Reader:
    """In a range, a timestamp is quoted: it has a space."""
    return lambda text: read(text[1:-1])


def _readers(read: Reader, *oids: int) -> dict[int, Reader]:
    """A type, its array, its range, their array, its multirange, their array."""
    in_range = _range_in(_quoted(read))
    in_multirange = _multirange_in(in_range)
    found = (read, _array_in(read), in_range, _array_in(in_range), in_multirange, _array_in(in_multirange))
    return dict(zip(oids, found, strict=True))


MOMENTS = _readers(
    read_timestamp, converters.TIMESTAMP, converters.TIMESTAMP_ARRAY, converters.TSRANGE, converters.TSRANGE_ARRAY,
    converters.TSMULTIRANGE, converters.TSMULTIRANGE_ARRAY,
) | _readers(
    read_timestamptz, converters.TIMESTAMPTZ, converters.TIMESTAMPTZ_ARRAY, converters.TSTZRANGE,
    converters.TSTZRANGE_ARRAY, converters.TSTZMULTIRANGE, converters.TSTZMULTIRANGE_ARRAY,
)  # fmt: skip
