"""Bound what a session may hold up, also when its function is frozen or gone.

As defaults of the database they cost no round trip, and no pooler has to know of them; a role may still have others
(`ALTER ROLE … SET`). They hold for sessions that begin from now on. The function's own deadline is 10 s.
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
