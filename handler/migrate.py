"""`python -m handler.migrate`: bring the database at DATABASE_URL to the newest schema.

Safe to run twice and from several processes at once: one migrates, the others wait and find nothing left to do.
It needs neither an alembic.ini nor the service's other settings, so it runs from the deployed artifact.
"""

import os
import sys
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.util import CommandError
from sqlalchemy import NullPool
from sqlalchemy.exc import DBAPIError

from handler.database.connection import make_engine
from handler.settings import DatabaseSettings, SettingsError, read_database_settings


def upgrade(database: DatabaseSettings, revision: str = "head") -> str | None:
    """Run the migrations up to `revision` in one transaction: all of them or none.

    Returns the revision that the schema is at. Raises sqlalchemy.exc.DBAPIError.
    """
    engine = make_engine(database, poolclass=NullPool)
    alembic = Config(attributes={"engine": engine})
    alembic.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    command.upgrade(alembic, revision)
    with engine.connect() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def _reason(error: DBAPIError) -> str:
    """The server's SQLSTATE and message, or the driver's text when the server said nothing."""
    assert error.orig is not None
    said = error.orig.args[0]
    return f"{said['C']} {said['M']}" if isinstance(said, dict) else str(said)


def main() -> None:
    try:
        revision = upgrade(read_database_settings(os.environ))
    except SettingsError as error:
        sys.exit(f"migrate: {error}")
    except DBAPIError as error:
        sys.exit(f"migrate: the database refused: {_reason(error)}")
    except CommandError as error:
        sys.exit(f"migrate: {error}")
    print(f"migrate: the schema is at {revision}")


if __name__ == "__main__":
    main()
