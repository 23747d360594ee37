"""Which migrations a database has been through, so that older code knows a newer database from a foreign one.

Alembic stores only the newest revision. To code that is older than it, it is a word that says nothing: its own
migrations and more, or another branch's. So the whole list is kept with it, as the comment of Alembic's table.
"""

from collections.abc import Collection

from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, MetaData, Table, text
from sqlalchemy.schema import SetTableComment

VERSION_TABLE = "alembic_version"


class DatabaseIsAhead(CommandError):
    """The database is at `revision`, which a newer release added to all of the migrations that this code has."""

    def __init__(self, revision: str) -> None:
        super().__init__(f"the schema is at {revision}, which is newer than this code: nothing was done")
        self.revision = revision


def check(connection: Connection, script: ScriptDirectory, current: Collection[str]) -> DatabaseIsAhead | None:
    """Returns that the database is ahead of this code, where it is; None where this code knows where the database is.

    Raises CommandError where the database went another way than this code's migrations.
    """
    unknown = sorted(set(current) - {one.revision for one in script.walk_revisions()})
    if not unknown:
        return None
    heads = set(script.get_heads())
    if heads and heads <= set(_read(connection).split()):
        return DatabaseIsAhead(", ".join(unknown))
    raise CommandError(
        f"the schema is at {', '.join(unknown)}, which this code does not know,"
        f" and has not been through {', '.join(sorted(heads)) or 'any'}, this code's newest:"
        " another branch's, or another service's"
    )


def remember(connection: Connection, script: ScriptDirectory, current: Collection[str]) -> None:
    """Write down all that led to `current`, where it is not written yet."""
    passed = " ".join(sorted(one.revision for one in script.iterate_revisions(tuple(current), "base")))
    if passed != _read(connection):
        connection.execute(SetTableComment(Table(VERSION_TABLE, MetaData(), comment=passed)))


def _read(connection: Connection) -> str:
    found = connection.execute(
        text("SELECT pg_catalog.obj_description(pg_catalog.to_regclass(:name), 'pg_class')"), {"name": VERSION_TABLE}
    )
    return found.scalar_one() or ""
