"""Create `items`, with the indexes of its list by name and of its search.

The check constraints also apply to programs that write to the table directly. They allow only values that the API can
represent: timestamps of the years 1 to 9999, the range of Python and RFC 3339; ids that are valid in a path; versions
that are valid in an entity tag.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

SHOWN = "{0} >= '0001-01-01 00:00:00+00' AND {0} < '10000-01-01 00:00:00+00'"


def upgrade() -> None:
    # A trusted extension: a user that may create objects in the database may create it.
    op.execute("CREATE EXTENSION IF NOT EXISTS pg_trgm")
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
        sa.CheckConstraint("id >= 1", name=op.f("ck_items_id_positive")),
        sa.CheckConstraint("version >= 1", name=op.f("ck_items_version_positive")),
        sa.CheckConstraint(SHOWN.format("created_at"), name=op.f("ck_items_created_at_shown")),
        sa.CheckConstraint(SHOWN.format("updated_at"), name=op.f("ck_items_updated_at_shown")),
    )
    op.create_index("ix_items_name_id", "items", ["name", "id"])
    op.create_index(
        "ix_items_search",
        "items",
        ["name", "description"],
        postgresql_using="gin",
        postgresql_ops={"name": "gin_trgm_ops", "description": "gin_trgm_ops"},
    )


def downgrade() -> None:
    op.drop_table("items")
    # The extension stays: it may have existed before, and other programs may use it.
