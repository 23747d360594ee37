"""Refuse values of items that the API cannot show or address.

PostgreSQL's timestamps reach from 4713 BC to 294276 AD and to infinity, Python's and RFC 3339's from year 1 to 9999. An
id below 1 has no path, and a version below 1 no entity tag.

Where there are items already, the constraints are NOT VALID: each holds for every row that is written from now on, and
is added without reading the table, so requests wait for milliseconds. To validate reads every row, and requests would
wait for it, since the transaction that all migrations of a release share keeps its locks; it would also stop the
deployment at one wrong row. A later release can validate: `ALTER TABLE items VALIDATE CONSTRAINT ...`, in a release
that does not add the constraint, stops neither reads nor writes (PostgreSQL manual, "ALTER TABLE").
"""

from alembic import op
from sqlalchemy import text

revision = "0004"
down_revision = "0003"

SHOWN = "{0} >= '0001-01-01 00:00:00+00' AND {0} < '10000-01-01 00:00:00+00'"
CHECKS = {
    "ck_items_id_positive": "id >= 1",
    "ck_items_version_positive": "version >= 1",
    "ck_items_created_at_shown": SHOWN.format("created_at"),
    "ck_items_updated_at_shown": SHOWN.format("updated_at"),
}


def upgrade() -> None:
    # In one statement, which waits for its lock once.
    additions = [f"ADD CONSTRAINT {name} CHECK ({check}) NOT VALID" for name, check in CHECKS.items()]
    op.execute(f"ALTER TABLE items {', '.join(additions)}")
    if op.get_bind().execute(text("SELECT NOT EXISTS (SELECT FROM items)")).scalar_one():
        op.execute(f"ALTER TABLE items {', '.join(f'VALIDATE CONSTRAINT {name}' for name in CHECKS)}")


def downgrade() -> None:
    for name in CHECKS:
        op.drop_constraint(op.f(name), "items", type_="check")
