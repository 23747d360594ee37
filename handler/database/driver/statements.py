"""Properties of an SQL statement that the driver needs before it sends the statement."""

import re
from functools import lru_cache

from pg8000 import dbapi

# Comments and quoted text: PostgreSQL manual, 4.1 "Lexical Structure".
_NOT_SQL = re.compile(r"--[^\n]*|/\*.*?\*/|'[^']*'|\"[^\"]*\"|\$(\w*)\$.*?\$\1\$", re.DOTALL)
_ENDS_TRANSACTION = re.compile(
    r"(?:\A|;)\s*(commit|end|abort|prepare\s+transaction|rollback(?!(?:\s+(?:work|transaction))?\s+to\b))\b",
    re.IGNORECASE,
)


@lru_cache(maxsize=512)
def ends_transaction(statement: str) -> str | None:
    """Return the first key word in `statement` that ends a transaction, in upper case; None if there is none."""
    found = _ENDS_TRANSACTION.search(_NOT_SQL.sub(" ", statement))
    return found[1].upper() if found else None


def may_be_several(statement: str) -> bool:
    """Whether `statement` may contain several statements."""
    return ";" in statement.rstrip("; \n")


@lru_cache(maxsize=512)
def numbered(statement: str) -> str:
    """Return `statement` with `$1`, `$2`… in place of `%s`. Cached, because pg8000 examines each character."""
    return str(dbapi.convert_paramstyle("format", statement, ())[0])
