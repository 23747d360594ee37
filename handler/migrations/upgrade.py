"""Run the migrations: safe to do twice, and from several processes at once.

One process migrates, the others wait and find nothing left to do. It needs neither an alembic.ini nor the service's
other settings, so it runs from the deployed artifact, where `custom_resource.py` calls it at each deploy.
"""

from alembic import command
from alembic.config import Config
from sqlalchemy import NullPool

from handler import migrations
from handler.database.connection import make_engine
from handler.settings import DatabaseSettings


def upgrade(database: DatabaseSettings, revision: str = "head") -> str | None:
    """Run the migrations up to `revision` in one transaction: all of them or none.

    The same transaction lets `database.api_user`, where it is set, read and change rows.

    Returns the revision that the schema is at. Raises sqlalchemy.exc.DBAPIError; migrations.history.DatabaseIsAhead
    when a newer release has migrated already; alembic.util.CommandError for what cannot be right; SettingsError when
    the CA file of the settings cannot be read.
    """
    engine = make_engine(database, poolclass=NullPool)
    alembic = Config(attributes={"engine": engine, "api_user": database.api_user})
    alembic.set_main_option(
        "script_location", str(migrations.SCRIPTS).replace("%", "%%")
    )  # configparser's interpolation
    command.upgrade(alembic, revision)
    return ", ".join(alembic.attributes["heads"]) or None
