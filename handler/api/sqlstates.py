"""The response to a database error, by its SQLSTATE."""

from typing import NamedTuple


class Outcome(NamedTuple):
    """The status and the detail of the response to a database error."""

    status: int
    detail: str


UNAVAILABLE = Outcome(503, "The database is not available at the moment: try again")
BUSY = Outcome(503, "The database is busy: try again")
VALUE = Outcome(422, "The database rejected a value of the request, or the combination of its values")
EXISTS = Outcome(409, "A resource with the same unique values exists already")
IN_USE = Outcome(409, "A resource that is referred to does not exist, or this resource is still referred to")
OURS = None  # a fault of the program, the schema or the server's configuration: a 500, and a traceback in the log

READ_ONLY_TRANSACTION = "25006"

# The meaning of a SQLSTATE, of its first three characters or of its class (PostgreSQL manual, appendix A). The longest
# match applies. Where a client or the program can be the cause, it is OURS: a 500 is logged and raises an alarm.
SQLSTATES: dict[str, Outcome | None] = {
    "08": UNAVAILABLE,  # connection exception; a pooler's own errors
    "22": OURS,  # data exception, of an operation that the program chose: 22012 is a division by zero
    **dict.fromkeys(
        (
            "22000",  # a range whose bounds are in the wrong order; a parameter that the driver cannot send
            "22001",  # a string that is too long
            "22003",  # a number that is out of range
            *("22007", "22008", "22009", "22015"),  # a date, time, time zone displacement or interval
            "22018",  # a character that cannot be cast
            *("22021", "22P05"),  # a character that the database cannot store: NUL, or one that its encoding lacks
            "22026",  # a bit string of the wrong length
            "22P02",  # a text that is not a value of the type
            *("2200L", "2200M", "2200N", "2200S", "2200T"),  # a text that is not XML
            *("22030", "22032", "22037", "2203D", "2203E"),  # a text that is not JSON, or has a key twice, or too much
        ),
        VALUE,
    ),
    "23": VALUE,  # integrity constraint violation: NOT NULL, CHECK
    "23505": EXISTS,
    "23P01": EXISTS,  # an exclusion constraint: a UNIQUE constraint of other operators than =
    **dict.fromkeys(("23503", "23001"), IN_USE),  # a foreign key; 23001 is ON DELETE RESTRICT since PostgreSQL 18
    "25": OURS,  # invalid transaction state. 25P02: the program continued after a failed statement
    "25P03": UNAVAILABLE,  # idle_in_transaction_session_timeout, which ends the session
    "25P04": BUSY,  # transaction_timeout
    "28": UNAVAILABLE,  # the server refuses the user or the password
    "3D": UNAVAILABLE,  # the database does not exist
    "40": BUSY,  # serialization failure, deadlock
    "40003": UNAVAILABLE,  # it is unknown whether the statement was executed
    "44": VALUE,  # a view's WITH CHECK OPTION, which is a CHECK
    "53": UNAVAILABLE,  # no connection, memory or disk space left
    "53400": OURS,  # a limit of the configuration that a statement exceeds: temp_file_limit
    "54": OURS,  # a statement too complex, with too many columns or arguments
    "54000": VALUE,  # a value too large for an index, a row, an array or a tsvector
    "55": OURS,  # an object is not in the state that the statement requires
    "55P03": BUSY,  # lock_timeout, NOWAIT
    "57": UNAVAILABLE,  # the server shuts down or starts up, or an operator ended the session
    "57014": BUSY,  # statement_timeout, or the request's own deadline
    **dict.fromkeys(("58000", "58030"), UNAVAILABLE),  # the server's operating system or storage failed
    "58": OURS,  # a file that a statement names
    "HV": OURS,  # a foreign data wrapper
    **dict.fromkeys(("HV001", "HV00N"), UNAVAILABLE),  # the foreign server has no memory, or cannot be reached
    # Success and warnings, which a function can raise as errors; the SQL standard's classes for statements, cursors,
    # savepoints, roles and routines that are wrong; syntax, names and privileges (42); PL/pgSQL's RAISE (P0); internal
    # errors and corruption (XX). Neither another value nor another attempt helps.
    **dict.fromkeys(("00", "01", "02", "03", "09", "0A", "0B", "0F", "0L", "0P", "0Z", "10", "20", "21", "24"), OURS),
    **dict.fromkeys(("26", "27", "2B", "2D", "2F", "34", "38", "39", "3B", "3F", "42", "F0", "P0", "XX"), OURS),
}


LOST_RACES = ("40001", "40P01")  # serialization failure, deadlock: PostgreSQL rolled back the transaction


def outcome_of(sqlstate: str, *, is_read: bool) -> Outcome | None:
    """The most specific entry of SQLSTATES. OURS for a 4xx of a read, whose client stores no value."""
    outcome = next((SQLSTATES[sqlstate[:n]] for n in (5, 3, 2) if sqlstate[:n] in SQLSTATES), OURS)
    return OURS if is_read and outcome and outcome.status < 500 else outcome
