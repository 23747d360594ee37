"""The fields of a database error by their letters, and which of them may be shown in a log.

PostgreSQL manual, 54.8 "Error and Notice Message Fields". The driver makes its own errors in the same form.
"""

from collections.abc import Mapping

# With these, a server refuses or ends a connection: for its user, database, limits or state (manual, appendix A). A
# function can end one too (plpy.fatal), with a class of its own.
CONNECTION_SQLSTATES = ("08", "25", "28", "3D", "42501", "53", "55", "57", "58")


class ErrorFields(dict[str, str]):
    """The fields of an error, whose text shows only what `describe` shows.

    An exception's text contains the text of its arguments, so neither a log line nor an f-string of an error whose
    argument is an ErrorFields can quote a row, which PostgreSQL's messages and details do.
    """

    def __repr__(self) -> str:
        return describe(self)


def fields_of(error: BaseException) -> Mapping[str, str]:
    """The fields of a pg8000 error, or of the one in a SQLAlchemy error; empty where it has none."""
    cause = getattr(error, "orig", None) or error
    fields = cause.args[0] if cause.args else None
    return fields if isinstance(fields, Mapping) else {}


def sqlstate_of(error: BaseException) -> str:
    """The SQLSTATE of a pg8000 or SQLAlchemy error: the server's, or the driver's for what it did not do; else ""."""
    return fields_of(error).get("C", "")


def ends_session(fields: Mapping[str, str]) -> bool:
    """Whether the server closes the connection after this error: its severity, which a pooler has only in `S`."""
    return fields.get("V", fields.get("S")) in ("FATAL", "PANIC")


def describe(fields: Mapping[str, str]) -> str:
    """The SQLSTATE, with the message where that cannot quote a value.

    It cannot where it has no source file (`F`), which PostgreSQL always sends: then the driver or a pooler wrote it,
    and neither looks into rows. It cannot either where the server refuses or ends a connection. Of all other messages
    the server's functions and triggers write some, under any SQLSTATE, and 42703 or 22P02 quote what they were sent.
    """
    sqlstate, message = fields.get("C", ""), fields.get("M", "")
    is_of_connection = ends_session(fields) and sqlstate.startswith(CONNECTION_SQLSTATES)
    return f"{sqlstate} {message}".strip() if is_of_connection or "F" not in fields else sqlstate
