"""Readers of timestamps whose time is limited.

pg8000 passes text that strptime cannot read to dateutil, whose time grows with the square of the length: 36 s for 1 MB.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from pg8000 import converters
from pg8000.converters import _array_in, _multirange_in, _range_in

from handler.database.deadline import remaining

# Characters. The longest that PostgreSQL writes has a year BC and the name of a time zone (manual, 8.5).
MAX_TIMESTAMP = 64

Reader = Callable[[str], Any]


def read_timestamp(text: str) -> Any:
    """Return a timestamp without time zone as a datetime, or as text (infinity, years after 9999)."""
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return _by_pg8000(converters.timestamp_in, text)


def read_timestamptz(text: str) -> Any:
    """Return a timestamp with time zone as a datetime in UTC. pg8000 uses strptime, which takes ten times as long."""
    try:
        timestamp = datetime.fromisoformat(text)
        return timestamp if timestamp.tzinfo is UTC else timestamp.astimezone(UTC)
    except (ValueError, OverflowError):
        return _by_pg8000(converters.timestamptz_in, text)


def _by_pg8000(read: Reader, text: str) -> Any:
    """Read infinity, years before 1 or after 9999, and another DateStyle.

    Each takes 0.1 ms, so a long array would take minutes: each checks the deadline.
    """
    if len(text) > MAX_TIMESTAMP:
        raise ValueError("longer than any timestamp")
    if text.endswith(" BC"):
        return text  # pg8000 would return a year AD
    remaining()
    return read(text)


def _quoted(read: Reader) -> Reader:
    """Timestamps in a range are quoted, because they contain a space."""
    return lambda text: read(text[1:-1])


def _readers(read: Reader, *oids: int) -> dict[int, Reader]:
    """The readers of a type, its array, its range, the range's array, its multirange, the multirange's array."""
    in_range = _range_in(_quoted(read))
    in_multirange = _multirange_in(in_range)
    found = (read, _array_in(read), in_range, _array_in(in_range), in_multirange, _array_in(in_multirange))
    return dict(zip(oids, found, strict=True))


TIMESTAMP_READERS = _readers(
    read_timestamp, converters.TIMESTAMP, converters.TIMESTAMP_ARRAY, converters.TSRANGE, converters.TSRANGE_ARRAY,
    converters.TSMULTIRANGE, converters.TSMULTIRANGE_ARRAY,
) | _readers(
    read_timestamptz, converters.TIMESTAMPTZ, converters.TIMESTAMPTZ_ARRAY, converters.TSTZRANGE,
    converters.TSTZRANGE_ARRAY, converters.TSTZMULTIRANGE, converters.TSTZMULTIRANGE_ARRAY,
)  # fmt: skip
