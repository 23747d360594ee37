"""The fields of a database error, and which of them a log may show.

PostgreSQL manual, 54.8 "Error and Notice Message Fields": each field has a letter. The errors of the driver have the
same form.
"""

from collections.abc import Mapping

# The SQLSTATEs, and their beginnings, with which a server rejects or ends a connection (manual, appendix A). A function
# can end a connection too (plpy.fatal), with a class of its own.
CONNECTION_SQLSTATES = ("08", "25", "28", "3D", "42501", "53", "55", "57", "58")


class ErrorFields(dict[str, str]):
    """The fields of an error. Their `repr` is what `describe` returns.

    PostgreSQL's messages and details quote rows. The text of an exception contains the `repr` of its arguments, so the
    text of an error with an ErrorFields quotes no row in a log line or an f-string.
    """

    def __repr__(self) -> str:
        return describe(self)


def fields_of(error: BaseException) -> Mapping[str, str]:
    """Return the fields of a pg8000 error, or of the one in a SQLAlchemy error; empty for another error."""
    cause = getattr(error, "orig", None) or error
    fields = cause.args[0] if cause.args else None
    return fields if isinstance(fields, Mapping) else {}


def sqlstate_of(error: BaseException) -> str:
    """Return the SQLSTATE of a pg8000 or SQLAlchemy error, which the server or the driver has set; "" without one."""
    return fields_of(error).get("C", "")


def ends_session(fields: Mapping[str, str]) -> bool:
    """Whether the server closes the connection after this error. Poolers send the severity only in the field S."""
    return fields.get("V", fields.get("S")) in ("FATAL", "PANIC")


def describe(fields: Mapping[str, str]) -> str:
    """Return the SQLSTATE, followed by the message if the message cannot quote a value.

    Two kinds of messages cannot: those without a source file (field F), which PostgreSQL always sends, so the driver or
    a pooler wrote the message; and those with which the server rejects or ends a connection. Other messages can:
    functions and triggers write messages under any SQLSTATE, and 42703 and 22P02 quote what was sent.
    """
    sqlstate, message = fields.get("C", ""), fields.get("M", "")
    is_of_connection = ends_session(fields) and sqlstate.startswith(CONNECTION_SQLSTATES)
    return f"{sqlstate} {message}".strip() if is_of_connection or "F" not in fields else sqlstate
