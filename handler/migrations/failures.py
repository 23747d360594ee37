"""The description of a failed migration, without values of rows."""

from pathlib import Path
from traceback import walk_tb

from alembic.util import CommandError
from sqlalchemy.exc import DBAPIError

from handler import migrations
from handler.database.deadline import DeadlineExceeded
from handler.database.error_fields import describe, fields_of, sqlstate_of
from handler.migrations.errors import MigrationError
from handler.migrations.locks import statement_prefix
from handler.settings import SettingsError

# Errors for which `describe_failure` is enough. For all others the log has the traceback.
EXPECTED_ERRORS = (SettingsError, CommandError, DBAPIError, DeadlineExceeded, MigrationError)
# The names of SQLSTATEs, and of classes (the first two characters): PostgreSQL manual, appendix A.
CONDITION_NAMES = {
    "08": "connection exception",
    "0A": "feature not supported",
    "22": "data exception",
    "22001": "string data right truncation",
    "22003": "numeric value out of range",
    "22P02": "invalid text representation",
    "22P05": "untranslatable character",
    "23": "integrity constraint violation",
    "23502": "not null violation",
    "23503": "foreign key violation",
    "23505": "unique violation",
    "23514": "check violation",
    "23P01": "exclusion violation",
    "25": "invalid transaction state",
    "25006": "read only SQL transaction",
    "28": "invalid authorization",
    "28P01": "invalid password",
    "2BP01": "dependent objects still exist",
    "3D000": "the database does not exist",
    "40": "transaction rollback",
    "40P01": "deadlock detected",
    "42": "syntax error or access rule violation",
    "42501": "insufficient privilege",
    "42601": "syntax error",
    "42701": "duplicate column",
    "42703": "undefined column",
    "42704": "undefined object",
    "42710": "duplicate object",
    "42804": "datatype mismatch",
    "42883": "undefined function",
    "42939": "reserved name",
    "42P01": "undefined table",
    "42P07": "duplicate table",
    "53": "insufficient resources",
    "53300": "too many connections",
    "54": "program limit exceeded",
    "55": "object not in prerequisite state",
    "55P03": "a table stayed in use",
    "57": "operator intervention",
    "57014": "the statement took too long, or was cancelled",
    "58": "system error",
    "P0": "PL/pgSQL error",
    "P0001": "RAISE EXCEPTION",
    "XX": "internal error",
}


def describe_failure(error: BaseException) -> str:
    """Describe what failed, and in which line of which migration, without values of rows.

    A database error is described by its SQLSTATE and the name of that. The server's message is left out, because under
    any SQLSTATE it may come from a RAISE in a function, and contain a value. Another exception of a migration is
    described by its type, and a MigrationError by its text.
    """
    migration = failing_migration(error)
    match error:
        case MigrationError():
            text = str(error)
        case DBAPIError():
            text = f"database error: {_describe_database_error(error, is_ours=migration is None)}"
        case SettingsError() | CommandError() | DeadlineExceeded() if migration is None:
            text = str(error)
        case _:
            text = type(error).__name__ if migration else f"unexpected {type(error).__name__}: see the log"
    return f"{migration}: {text}" if migration else text


def failing_migration(error: BaseException) -> str | None:
    """Return the migration that failed or could not be loaded, as `0004_prices.py, line 12`; None if there is none."""
    folder = migrations.SCRIPTS / "versions"
    lines = [(Path(frame.f_code.co_filename), line) for frame, line in walk_tb(error.__traceback__)]
    if isinstance(error, SyntaxError) and error.filename:
        lines.append((Path(error.filename), error.lineno or 0))
    return next((f"{path.name}, line {line}" for path, line in reversed(lines) if path.parent == folder), None)


def _describe_database_error(error: DBAPIError, *, is_ours: bool) -> str:
    """The SQLSTATE, its name, and the beginning of the statement if it is ours or waited for a lock."""
    code = sqlstate_of(error)
    if not code:
        return type(error.orig).__name__
    shown = describe(fields_of(error))
    if shown != code:
        return shown  # a message of the driver, or of a server that rejects or ends a connection
    name = CONDITION_NAMES.get(code) or CONDITION_NAMES.get(code[:2], "")
    statement = statement_prefix(error.statement) if is_ours or code == "55P03" else ""
    return f"{code} {name}{': ' if statement else ''}{statement}".rstrip()
