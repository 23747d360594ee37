"""How Alembic runs: called by `handler/migrate.py` and by the `alembic` command (`make revision`)."""

import os

from alembic import context
from sqlalchemy import Engine, NullPool, text

from handler import idempotency  # noqa: F401 - fills Base.metadata, like the next
from handler.database.base import Base
from handler.database.connection import make_engine
from handler.items import models  # noqa: F401 - add your resource's models here
from handler.settings import read_database_settings

# Any number, the same for every process that migrates this database.
ADVISORY_LOCK = 2026_11_22
# How long to wait for another process that migrates, and then for each table that requests hold.
QUEUE_TIMEOUT = "60s"
LOCK_TIMEOUT = "5s"


def run(engine: Engine) -> None:
    with engine.begin() as connection:
        # The database's own limit (versions/0002_limits.py) is for requests.
        connection.execute(text("SET LOCAL statement_timeout = 0"))
        # A migration that waits for a lock makes every later query of that table wait behind it: give up instead.
        connection.execute(text(f"SET LOCAL lock_timeout = '{QUEUE_TIMEOUT}'"))
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": ADVISORY_LOCK})
        connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'"))
        context.configure(connection=connection, target_metadata=Base.metadata, compare_server_default=True)
        with context.begin_transaction():
            context.run_migrations()


run(context.config.attributes.get("engine") or make_engine(read_database_settings(os.environ), poolclass=NullPool))
