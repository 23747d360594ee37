"""The errors that the driver raises. The SQLSTATE determines which class of PEP 249 an error has."""

from pg8000 import dbapi

from handler.database.error_fields import ErrorFields, sqlstate_of

# By the first two characters of the SQLSTATE, its class: PostgreSQL manual, appendix A "PostgreSQL Error Codes".
ERRORS: dict[str, type[dbapi.DatabaseError]] = {
    "0A": dbapi.NotSupportedError,
    "22": dbapi.DataError,
    "23": dbapi.IntegrityError,
    "25": dbapi.InternalError,
    "42": dbapi.ProgrammingError,
    "XX": dbapi.InternalError,
} | dict.fromkeys(("08", "28", "40", "53", "55", "57", "58"), dbapi.OperationalError)


class ProtocolViolation(Exception):
    """The server sent a message that the protocol or a limit does not allow. The connection must be closed."""


class ConnectionLost(dbapi.OperationalError):  # type: ignore[misc] # pg8000 ships no types
    """The connection ended while a statement was running. It is unknown whether the statement took effect."""


def driver_error(sqlstate: str, message: str) -> dbapi.DatabaseError:
    """Return an error of the driver, with the fields of a server's error (manual, 54.8)."""
    return classified(dbapi.DatabaseError({"S": "ERROR", "C": sqlstate, "M": message}))


def classified(error: dbapi.DatabaseError) -> dbapi.DatabaseError:
    """Return `error` as the class of PEP 249 for its SQLSTATE. pg8000 raises every error as DatabaseError."""
    return ERRORS.get(sqlstate_of(error)[:2], dbapi.DatabaseError)(ErrorFields(error.args[0]))
