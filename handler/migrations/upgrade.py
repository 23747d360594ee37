"""Run the migrations. This can be repeated, and several processes can do it at the same time.

One process migrates; the others wait and then find no migration to run. It needs no alembic.ini and only the database
settings, so it runs from the deployed artifact, where `custom_resource.py` calls it at each deployment.
"""

from alembic import command
from alembic.config import Config
from sqlalchemy import NullPool

from handler import migrations
from handler.database.connection import make_engine
from handler.settings import DatabaseSettings


def upgrade(database: DatabaseSettings, revision: str = "head") -> str | None:
    """Run the migrations up to `revision` in one transaction: all of them or none.

    The same transaction grants `database.api_user`, if it is set, the right to read and change rows.

    Returns the revision of the schema. Raises sqlalchemy.exc.DBAPIError; migrations.history.DatabaseIsAhead if a newer
    release has migrated already; alembic.util.CommandError for other problems with revisions or rights; SettingsError
    if the CA file of the settings cannot be read.
    """
    engine = make_engine(database, poolclass=NullPool)
    alembic = Config(attributes={"engine": engine, "api_user": database.api_user})
    alembic.set_main_option(
        "script_location", str(migrations.SCRIPTS).replace("%", "%%")
    )  # configparser's interpolation
    command.upgrade(alembic, revision)
    return ", ".join(alembic.attributes["heads"]) or None
