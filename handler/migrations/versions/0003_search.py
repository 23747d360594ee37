"""Search in items, list them by name, and keep the keys of safe retries."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    # A trusted extension: whoever may create in the database may create it.
    op.execute("CREATE EXTENSION IF NOT EXISTS pg_trgm")
    op.create_index("ix_items_name_id", "items", ["name", "id"])
    op.create_index(
        "ix_items_search",
        "items",
        ["name", "description"],
        postgresql_using="gin",
        postgresql_ops={"name": "gin_trgm_ops", "description": "gin_trgm_ops"},
    )
    op.create_table(
        "idempotency_keys",
        sa.Column("scope", sa.Text, nullable=False),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("fingerprint", sa.LargeBinary, nullable=False),
        sa.Column("answer", postgresql.JSONB, nullable=True),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("scope", "key", name=op.f("pk_idempotency_keys")),
    )
    op.create_index(op.f("ix_idempotency_keys_expires_at"), "idempotency_keys", ["expires_at"])


def downgrade() -> None:
    op.drop_table("idempotency_keys")
    op.drop_index("ix_items_search", "items")
    op.drop_index("ix_items_name_id", "items")
    # The extension stays: it may have been here before, and others may use it.
