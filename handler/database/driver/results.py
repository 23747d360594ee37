"""The columns of a result, and limits on the values that Python converts (docs/adr/0024)."""

from functools import lru_cache
from struct import Struct
from typing import Any

from pg8000 import converters

from handler.database.driver.errors import ProtocolViolation

MAX_COLUMNS = 1664  # PostgreSQL manual, appendix K "PostgreSQL Limits"
MAX_CACHED = 4096  # bytes; longer RowDescriptions are not cached
LONG_ROW = 64 * 1024  # bytes; the values of a longer row are checked before they are converted
MAX_CONVERTED = 4 * 1024 * 1024  # bytes of a value that Python code converts character by character: 0.6 s
CONVERTED_BY_CHARACTERS = frozenset(converters.PG_TYPES) - {
    *(converters.BYTES, converters.CHAR, converters.CSTRING, converters.JSON, converters.JSONB, converters.NAME),
    *(converters.TEXT, converters.UNKNOWN, converters.VARCHAR),
}
_FIELDS = ("table_oid", "column_attrnum", "type_oid", "type_size", "type_modifier", "format")

_column = Struct("!ihihih").unpack_from
read_length = Struct("!i").unpack_from


def read_columns(description: bytes, encoding: str) -> list[dict[str, Any]]:
    """Return the columns of a RowDescription as pg8000 represents them. The list is shared: do not change it.

    Short descriptions are cached, because the server sends the same bytes each time. Raises ProtocolViolation.
    """
    read = cached_columns if len(description) <= MAX_CACHED else cached_columns.__wrapped__
    try:
        return read(description, encoding)
    except ValueError as error:
        raise ProtocolViolation("a description that cannot be read") from error


@lru_cache(maxsize=512)
def cached_columns(description: bytes, encoding: str) -> list[dict[str, Any]]:
    """As `read_columns`, cached. Raises ValueError if a name cannot be decoded. Manual, 54.7 "Message Formats"."""
    columns: list[dict[str, Any]] = []
    count, start = int.from_bytes(description[:2]), 2
    if count > MAX_COLUMNS:
        raise ProtocolViolation(f"a result of {count} columns")
    for _ in range(count):
        end = description.index(b"\x00", start)
        fields = zip(_FIELDS, _column(description, end + 1), strict=True)
        columns.append(dict(fields, name=description[start:end].decode(encoding)))
        start = end + 19
    if start != len(description):
        raise ProtocolViolation("a description that does not end with its message")
    return columns


def check_long_row(row: bytes, columns: list[dict[str, Any]]) -> None:
    """Raise ProtocolViolation if Python would take too long to convert a value of the DataRow `row`."""
    start = 2
    for column in columns:
        (length,) = read_length(row, start)
        if length > MAX_CONVERTED and column["type_oid"] in CONVERTED_BY_CHARACTERS:
            raise ProtocolViolation(f"a value of {length} bytes of the type with the oid {column['type_oid']}")
        start += 4 + max(length, 0)
