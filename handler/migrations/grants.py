"""What the API's user may do: read and change rows, and nothing else (docs/adr/0021 and 0025)."""

from alembic.util import CommandError
from sqlalchemy import Connection, text

from handler.migrations.effective_rights import IAM, check
from handler.migrations.history import VERSION_TABLE

# What is granted on each kind of relation (PostgreSQL manual, "pg_class", relkind): on tables (also partitioned and
# foreign ones) and views (also materialized); on sequences what the default of a serial column needs.
GRANTED = dict.fromkeys("rpfvm", "SELECT, INSERT, UPDATE, DELETE ON TABLE") | {"S": "USAGE ON SEQUENCE"}


def schemas(connection: Connection) -> list[str]:
    """The schemas of the search path that exist; tables are created in the first. Raises CommandError without any."""
    found = list(connection.scalars(text("SELECT pg_catalog.unnest(pg_catalog.current_schemas(false))")))
    if not found:
        raise CommandError("no schema of the database's search_path exists")
    return found


def use_schemas(connection: Connection, *names: str) -> None:
    """Search `names` behind pg_catalog until the transaction or the savepoint ends, and temporary tables last.

    Without names no function, operator or table can stand in for one of pg_catalog (PostgreSQL manual, 5.10.3 "The
    Schema Search Path", and CVE-2018-1058).
    """
    quote = connection.dialect.identifier_preparer.quote_identifier
    path = ", ".join([*map(quote, names or ["pg_catalog"]), "pg_temp"])
    connection.exec_driver_sql(f"SET LOCAL search_path = {path}")


def prepare(connection: Connection, schemas: list[str], user: str) -> None:
    """Create the role `user` if it is missing, and close what would let it change what a migration runs.

    Needs an empty search path. Raises sqlalchemy.exc.DBAPIError; alembic.util.CommandError where the role may do more
    than read and change rows: before the first migration, which would call a function that the role has planted.
    """
    if user == connection.scalar(text("SELECT current_user")):
        raise CommandError(f"DATABASE_API_USER: {user} is the user that migrates, the tables' owner: name another user")
    quote = connection.dialect.identifier_preparer.quote_identifier
    if user not in set(connection.scalars(text("SELECT rolname FROM pg_roles"))):
        connection.exec_driver_sql(f"CREATE ROLE {quote(user)} LOGIN")
    # PostgreSQL 14 and older let every role create in `public`, and so do databases that come from them.
    for schema in schemas:
        if connection.scalar(text("SELECT has_schema_privilege('public', :schema, 'CREATE')"), {"schema": schema}):
            connection.exec_driver_sql(f"REVOKE CREATE ON SCHEMA {quote(schema)} FROM PUBLIC")
    # Every role has it by default. A temporary table would hide the one of its name from all later requests of its
    # session.
    database = quote(connection.scalar(text("SELECT current_database()")))
    connection.exec_driver_sql(f"REVOKE TEMPORARY ON DATABASE {database} FROM PUBLIC")
    check(connection, user)


def grant(connection: Connection, schema: str, user: str) -> None:
    """Let `user` use every table, view and sequence of ours in `schema` but Alembic's table.

    Needs an empty search path. Granting again what was granted changes nothing. Raises sqlalchemy.exc.DBAPIError;
    alembic.util.CommandError where the role may do more than read and change rows.
    """
    quote = connection.dialect.identifier_preparer.quote_identifier
    role = quote(user)
    if connection.scalar(text("SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = :name)"), {"name": IAM}):
        connection.exec_driver_sql(f"GRANT {IAM} TO {role}")
    database = quote(connection.scalar(text("SELECT current_database()")))
    connection.exec_driver_sql(f"GRANT CONNECT ON DATABASE {database} TO {role}")
    connection.exec_driver_sql(f"GRANT USAGE ON SCHEMA {quote(schema)} TO {role}")
    relations = connection.execute(
        text(
            "SELECT relkind, relname FROM pg_class WHERE pg_get_userbyid(relowner) = current_user"
            " AND relnamespace = quote_ident(:schema)::regnamespace AND relname <> :bookkeeping"
        ),
        {"schema": schema, "bookkeeping": VERSION_TABLE},
    )
    for kind, name in relations:
        if kind in GRANTED:
            connection.exec_driver_sql(f"GRANT {GRANTED[kind]} {quote(schema)}.{quote(name)} TO {role}")
    check(connection, user)
