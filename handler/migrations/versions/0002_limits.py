"""Limit how long a session of this database runs a statement, waits for a lock, or keeps a transaction idle.

The limits protect the database from a session whose function is frozen or has ended. As defaults of the database they
take no round trip and work with every pooler. A role may have other values (`ALTER ROLE … SET`). They apply to sessions
that begin after the migration. The function's own deadline is 10 s.
"""

from alembic import op
from sqlalchemy import text

revision = "0002"
down_revision = "0001"

LIMITS = {"statement_timeout": "9s", "lock_timeout": "3s", "idle_in_transaction_session_timeout": "15s"}


def upgrade() -> None:
    for name, value in LIMITS.items():
        op.execute(f"ALTER DATABASE {_database()} SET {name} = '{value}'")


def downgrade() -> None:
    for name in LIMITS:
        op.execute(f"ALTER DATABASE {_database()} RESET {name}")


def _database() -> str:
    return str(op.get_bind().execute(text("SELECT pg_catalog.quote_ident(pg_catalog.current_database())")).scalar_one())
