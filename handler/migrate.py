"""`python -m handler.migrate`: bring the database at DATABASE_URL to the newest schema.

Safe to run twice and from several processes at once: one migrates, the others wait and find nothing left to do.
It needs neither an alembic.ini nor the service's other settings, so it runs from the deployed artifact, where
`migration_function.py` calls it at each deploy.
"""

import os
import re
import sys
from pathlib import Path
from traceback import walk_tb

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import NullPool
from sqlalchemy.exc import DBAPIError

from handler.database.connection import make_engine, sqlstate
from handler.database.deadline import OutOfTime
from handler.settings import DatabaseSettings, SettingsError, read_database_settings

SCRIPTS = Path(__file__).parent / "migrations"
# What `reason` has words for.
EXPECTED = (SettingsError, CommandError, DBAPIError, OutOfTime)


def upgrade(database: DatabaseSettings, revision: str = "head") -> str | None:
    """Run the migrations up to `revision` in one transaction: all of them or none.

    The same transaction lets `database.api_user`, where it is set, read and change rows.

    Returns the revision that the schema is at. Raises sqlalchemy.exc.DBAPIError; migrations.history.DatabaseIsAhead
    when a newer release has migrated already; alembic.util.CommandError for what cannot be right; SettingsError when
    the CA file of the settings cannot be read.
    """
    engine = make_engine(database, poolclass=NullPool)
    alembic = Config(attributes={"engine": engine, "api_user": database.api_user})
    alembic.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))  # configparser's interpolation
    command.upgrade(alembic, revision)
    return ", ".join(alembic.attributes["heads"]) or None


def code(error: BaseException) -> str:
    """The SQLSTATE of an error of the database, else ""."""
    return sqlstate(error) if isinstance(error, DBAPIError) else ""


def reason(error: BaseException) -> str:
    """Why it failed, for whoever deploys, in one line that shows neither a secret nor what is in a row."""
    match error:
        case SettingsError() | CommandError() | ImportError() | SyntaxError() | OutOfTime():
            return str(error)
        case DBAPIError():
            return f"the database refused: {_said(error)}"
        case _ if place(error):
            return f"{type(error).__name__}: {error}"  # the words of whoever wrote the migration
        case _:
            return f"unexpected {type(error).__name__}: see the log"


def place(error: BaseException) -> str | None:
    """The migration that was running, `0004_prices.py, line 12`; None where it was none."""
    folder = SCRIPTS / "versions"
    lines = [(Path(frame.f_code.co_filename), line) for frame, line in walk_tb(error.__traceback__)]
    return next((f"{path.name}, line {line}" for path, line in reversed(lines) if path.parent == folder), None)


def _said(error: DBAPIError) -> str:
    """The server's SQLSTATE and message, or the driver's text when the server said nothing."""
    if not (state := sqlstate(error)):
        return str(error.orig)
    assert error.orig is not None
    message = str(error.orig.args[0].get("M", ""))
    if state.startswith("22"):  # data exception: manual, appendix A
        message = re.sub('".*"', '"…"', message, flags=re.DOTALL)  # the value
    return f"{state} {message}"


def main() -> None:
    try:
        revision = upgrade(read_database_settings(os.environ))
    except (SettingsError, DBAPIError, CommandError) as error:
        sys.exit(f"migrate: {reason(error)}")
    print(f"migrate: the schema is at {revision}")


if __name__ == "__main__":
    main()
