"""How Alembic runs: called by `upgrade.py` and by the `alembic` command (`make revision`)."""

import math
import os
from functools import partial

from alembic import context
from alembic.util import CommandError
from sqlalchemy import Connection, Engine, NullPool, text
from sqlalchemy.exc import DBAPIError

from handler import resources
from handler.database.base import Base
from handler.database.connection import make_engine
from handler.database.deadline import remaining
from handler.database.error_fields import sqlstate_of
from handler.migrations import grants, history
from handler.migrations.locks import limit, retry_while_locked
from handler.settings import read_database_settings

resources.import_models()

# Any number, the same for every process that migrates this database.
ADVISORY_LOCK = 2026_11_22
# Seconds to wait for another process that migrates, and then for tables in use, where no deadline says it.
WAIT_TIMEOUT = 60.0
# Seconds before our own deadline at which the server gives up by itself: it can say what it waited for.
HEAD_START = 1.0


def run(engine: Engine) -> None:
    with engine.begin() as connection:
        # The database's own limits (versions/0002_limits.py) are for requests. One holds here too, and before it is
        # set: a server whose client has vanished lets go of our locks.
        limit(connection, "statement_timeout", _time_left() - HEAD_START)
        limit(connection, "idle_in_transaction_session_timeout", 15)
        _queue(connection, _patience())
        ahead = retry_while_locked(connection, partial(_migrate, connection), _patience())
    if ahead:
        raise ahead


def _migrate(connection: Connection) -> history.DatabaseIsAhead | None:
    """Run the migrations and the grants. Returns that the database is ahead of this code, where it is."""
    limit(connection, "statement_timeout", _time_left() - HEAD_START)
    user = context.config.attributes.get("api_user")
    schemas = grants.schemas(connection)
    if user:
        grants.use_schemas(connection)
        grants.prepare(connection, schemas, user)
    grants.use_schemas(connection, *schemas)
    context.configure(connection=connection, target_metadata=Base.metadata, compare_server_default=True)
    ahead = None
    with context.begin_transaction():
        try:
            context.run_migrations()
        except CommandError:
            ahead = history.check(connection, context.script, context.get_context().get_current_heads())
            if ahead is None:
                raise
        else:
            heads = context.get_context().get_current_heads()
            history.remember(connection, context.script, heads)
            context.config.attributes["heads"] = heads
    if user:  # after a newer release's migrations too: the user may be another than that release was given
        grants.use_schemas(connection)
        grants.grant(connection, schemas[0], user)
    return ahead


def _queue(connection: Connection, seconds: float) -> None:
    """Wait until no other process migrates this database."""
    limit(connection, "lock_timeout", seconds)
    try:
        connection.execute(text("SELECT pg_catalog.pg_advisory_xact_lock(:key)"), {"key": ADVISORY_LOCK})
    except DBAPIError as error:
        if sqlstate_of(error) == "55P03":
            raise CommandError("another process has been migrating this database all the time") from error
        raise


def _time_left() -> float:
    """Seconds until the deadline, `inf` without one. Raises DeadlineExceeded."""
    return remaining() or math.inf


def _patience() -> float:
    """Seconds that may be spent waiting for a lock."""
    left = _time_left()
    return WAIT_TIMEOUT if left == math.inf else left - 2 * HEAD_START


run(context.config.attributes.get("engine") or make_engine(read_database_settings(os.environ), poolclass=NullPool))
