"""Databases with all migrations, and with the tables of the tests' own resource, which no migration creates."""

import pg8000.native
from sqlalchemy import NullPool

from handler.database.connection import make_engine
from handler.migrations.upgrade import upgrade
from handler.settings import read_database_settings
from tests.support.resources import probe_tables


def migrate(url: str) -> None:
    """Run the migrations on the database at `url`, and create the tables of the tests' own resource beside them."""
    upgrade(read_database_settings({"DATABASE_URL": url}))
    create_probe_tables(url)


def create_probe_tables(url: str) -> None:
    """Create the tables of the tests' own resource, as the user in `url`."""
    engine = make_engine(read_database_settings({"DATABASE_URL": url}), poolclass=NullPool)
    for table in probe_tables():  # create_all would also create the enum types of other resources
        table.create(engine, checkfirst=True)


def grant_probes(admin: pg8000.native.Connection, users: str) -> None:
    """Let `users` read and change the tests' own resource, as the migrations do for the API's user."""
    admin.run(f"GRANT ALL ON probes, probe_readings TO {users}")
    admin.run(f"GRANT USAGE ON SEQUENCE probes_id_seq TO {users}")
