"""Create the items."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "items",
        sa.Column("id", sa.BigInteger, sa.Identity(always=True), nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("description", sa.Text, nullable=True),
        sa.Column("version", sa.Integer, server_default=sa.text("1"), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_items")),
        sa.CheckConstraint("char_length(name) BETWEEN 1 AND 200", name=op.f("ck_items_name_length")),
        sa.CheckConstraint(r"name ~ '\S'", name=op.f("ck_items_name_not_blank")),
        sa.CheckConstraint("char_length(description) <= 10000", name=op.f("ck_items_description_length")),
    )


def downgrade() -> None:
    op.drop_table("items")
