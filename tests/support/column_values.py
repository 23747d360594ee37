"""A value of each type that the driver writes and reads: a name, the column's type, and the value."""

import datetime as dt
import uuid
from decimal import Decimal
from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    Date,
    DateTime,
    Double,
    Integer,
    Interval,
    LargeBinary,
    Numeric,
    Text,
    Time,
    Uuid,
)
from sqlalchemy.dialects import postgresql as pg
from sqlalchemy.dialects.postgresql import INT4RANGE, JSONB, NUMRANGE, TSTZRANGE, Range

HERE_AND_NOW = dt.datetime(2026, 2, 3, 4, 5, 6, 789012, dt.UTC)
VALUES: list[tuple[str, Any, Any]] = [
    ("jsonb", JSONB(), {"a": [1, 2.5, None, {"ключ": "\U0001f9e8 ' \" \\ %s $1 :x"}], "": {}}),
    ("jsonb-list", JSONB(), []),
    ("jsonb-text", JSONB(), "text"),
    ("jsonb-null", JSONB(), None),
    ("array-integer", ARRAY(Integer), [1, None, -3]),
    ("array-text", ARRAY(Text), ["", "NULL", None, '"', "\\", "{a,b}", "a b", "\U0001f9e8", "'", "\n"]),
    ("array-nested", ARRAY(Integer, dimensions=2), [[1, 2], [3, 4]]),
    ("array-empty", ARRAY(Text), []),
    ("array-uuid", ARRAY(Uuid), [uuid.UUID(int=1), uuid.UUID(int=2**128 - 1)]),
    ("array-timestamptz", ARRAY(DateTime(timezone=True)), [HERE_AND_NOW]),
    ("uuid", Uuid(), uuid.UUID("911460f2-1f43-fea2-3e2c-e01fd5b5069d")),
    ("timestamptz", DateTime(timezone=True), HERE_AND_NOW),
    ("timestamptz-offset", DateTime(timezone=True), HERE_AND_NOW.astimezone(dt.timezone(dt.timedelta(hours=5.5)))),
    ("timestamp", DateTime(), dt.datetime(1, 1, 1, 0, 0, 0, 1)),  # noqa: DTZ001 - without a zone is the point
    ("date-first", Date(), dt.date.min),
    ("date-last", Date(), dt.date.max),
    ("time", Time(), dt.time(23, 59, 59, 999999)),
    ("interval", Interval(), dt.timedelta(days=-3, hours=4, microseconds=5)),
    ("numeric", Numeric(40, 20), Decimal("-12345678901234567890.12345678901234567890")),
    ("double", Double(), 1.7976931348623157e308),
    ("double-small", Double(), 5e-324),
    ("double-infinite", Double(), float("-inf")),
    ("bigint", BigInteger(), -(2**63)),
    ("boolean", Boolean(), False),
    ("bytea", LargeBinary(), bytes(range(256))),
    ("bytea-empty", LargeBinary(), b""),
    ("text", Text(), "\U0001f469\u200d\U0001f692 %s %% $1 :x ? \\ ' \" \r\n\t \u0001 \uffff"),
    ("text-empty", Text(), ""),
    ("int4range", INT4RANGE(), Range(1, 5)),
    ("int4range-empty", INT4RANGE(), Range(empty=True)),
    ("numrange", NUMRANGE(), Range(Decimal("1.5"), None, bounds="(]")),
    ("tstzrange", TSTZRANGE(), Range(HERE_AND_NOW, HERE_AND_NOW + dt.timedelta(days=1), bounds="[]")),
    ("datemultirange", pg.DATEMULTIRANGE(), [Range(dt.date(2026, 1, 1), dt.date(2026, 2, 1))]),
    ("null", Integer(), None),
    ("null-array", ARRAY(Text), None),
    ("null-uuid", Uuid(), None),
]
