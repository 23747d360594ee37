"""Alembic's environment, which runs for `upgrade.py` and for the `alembic` command (`make revision`)."""

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
from handler.migrations.locks import retry_while_locked, set_limit
from handler.settings import read_database_settings

resources.import_models()

# An arbitrary number that all processes which migrate this database share.
ADVISORY_LOCK = 2026_11_22
# Seconds to wait for another migration, and then for tables in use, if there is no deadline.
WAIT_TIMEOUT = 60.0
# The server's timeouts end this many seconds before the deadline, because the server's error names the statement.
TIMEOUT_MARGIN = 1.0


def run(engine: Engine) -> None:
    with engine.begin() as connection:
        # These replace the database's limits (versions/0002_limits.py), which are for requests. The second one makes
        # the server release the locks if the client disappears.
        set_limit(connection, "statement_timeout", _time_left() - TIMEOUT_MARGIN)
        set_limit(connection, "idle_in_transaction_session_timeout", 15)
        _wait_for_other_migrations(connection, _lock_wait())
        ahead = retry_while_locked(connection, partial(_migrate, connection), _lock_wait())
    if ahead:
        raise ahead


def _migrate(connection: Connection) -> history.DatabaseIsAhead | None:
    """Run the migrations and the grants. Returns DatabaseIsAhead if a newer release has migrated the database."""
    set_limit(connection, "statement_timeout", _time_left() - TIMEOUT_MARGIN)
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
            ahead = history.check_history(connection, context.script, context.get_context().get_current_heads())
            if ahead is None:
                raise
        else:
            heads = context.get_context().get_current_heads()
            history.store_history(connection, context.script, heads)
            context.config.attributes["heads"] = heads
    if user:  # also if the database is ahead, because the newer release may have had another user
        grants.use_schemas(connection)
        grants.grant(connection, schemas[0], user)
    return ahead


def _wait_for_other_migrations(connection: Connection, seconds: float) -> None:
    """Take the lock that only one migration of this database can hold. Raises CommandError after `seconds`."""
    set_limit(connection, "lock_timeout", seconds)
    try:
        connection.execute(text("SELECT pg_catalog.pg_advisory_xact_lock(:key)"), {"key": ADVISORY_LOCK})
    except DBAPIError as error:
        if sqlstate_of(error) == "55P03":
            raise CommandError("another process is still migrating this database") from error
        raise


def _time_left() -> float:
    """Return the seconds until the deadline, `inf` without one. Raises DeadlineExceeded."""
    return remaining() or math.inf


def _lock_wait() -> float:
    """Return for how many seconds to wait for a lock."""
    left = _time_left()
    return WAIT_TIMEOUT if left == math.inf else left - 2 * TIMEOUT_MARGIN


run(context.config.attributes.get("engine") or make_engine(read_database_settings(os.environ), poolclass=NullPool))
