"""The errors that the driver raises: the class of PEP 249 follows from the SQLSTATE, the server's or the driver's."""

from pg8000 import dbapi

from handler.database.error_fields import ErrorFields, sqlstate_of

# By the class of the SQLSTATE, its first two characters: PostgreSQL manual, appendix A "PostgreSQL Error Codes".
ERRORS: dict[str, type[dbapi.DatabaseError]] = {
    "0A": dbapi.NotSupportedError,
    "22": dbapi.DataError,
    "23": dbapi.IntegrityError,
    "25": dbapi.InternalError,
    "42": dbapi.ProgrammingError,
    "XX": dbapi.InternalError,
} | dict.fromkeys(("08", "28", "40", "53", "55", "57", "58"), dbapi.OperationalError)


class ProtocolViolation(Exception):
    """The server has sent a message that the protocol does not allow. The connection cannot be used any more."""


class ConnectionLost(dbapi.OperationalError):  # type: ignore[misc] # pg8000 ships no types
    """The connection ended while a statement was running. It is unknown whether the statement took effect."""


def driver_error(sqlstate: str, message: str) -> dbapi.DatabaseError:
    """An error of the driver in the form of the server's errors: fields by their letters (manual, 54.8)."""
    return classified(dbapi.DatabaseError({"S": "ERROR", "C": sqlstate, "M": message}))


def classified(error: dbapi.DatabaseError) -> dbapi.DatabaseError:
    """The same error with the class that PEP 249 has for its SQLSTATE; pg8000 raises each as DatabaseError."""
    return ERRORS.get(sqlstate_of(error)[:2], dbapi.DatabaseError)(ErrorFields(error.args[0]))
