"""The history of a database's migrations, with which older code recognizes a newer version of its own schema.

Alembic stores only the newest revision. Older code does not know that revision, and cannot tell whether it follows its
own migrations or comes from another branch. So the list of all revisions is stored as the comment of Alembic's table.
"""

from collections.abc import Collection

from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, MetaData, Table, text
from sqlalchemy.schema import SetTableComment

VERSION_TABLE = "alembic_version"


class DatabaseIsAhead(CommandError):
    """The database is at `revision` of a newer release, and has all migrations of this code."""

    def __init__(self, revision: str) -> None:
        super().__init__(f"the schema is at {revision}, which is newer than this code: no migration was run")
        self.revision = revision


def check_history(connection: Connection, script: ScriptDirectory, current: Collection[str]) -> DatabaseIsAhead | None:
    """Return DatabaseIsAhead if the database is ahead of this code, or None if this code knows its revisions `current`.

    Raises CommandError if the database does not have all migrations of this code.
    """
    unknown = sorted(set(current) - {one.revision for one in script.walk_revisions()})
    if not unknown:
        return None
    heads = set(script.get_heads())
    if heads and heads <= set(_read(connection).split()):
        return DatabaseIsAhead(", ".join(unknown))
    raise CommandError(
        f"the schema is at {', '.join(unknown)}, which this code does not know, and this code's newest migration"
        f" ({', '.join(sorted(heads)) or 'none'}) was not applied: the schema is of another branch or service"
    )


def store_history(connection: Connection, script: ScriptDirectory, current: Collection[str]) -> None:
    """Store all revisions up to `current`, unless they are stored already."""
    passed = " ".join(sorted(one.revision for one in script.iterate_revisions(tuple(current), "base")))
    if passed != _read(connection):
        connection.execute(SetTableComment(Table(VERSION_TABLE, MetaData(), comment=passed)))


def _read(connection: Connection) -> str:
    found = connection.execute(
        text("SELECT pg_catalog.obj_description(pg_catalog.to_regclass(:name), 'pg_class')"), {"name": VERSION_TABLE}
    )
    return found.scalar_one() or ""
