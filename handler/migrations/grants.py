"""The grants to the API's user, which may only read and change rows (docs/adr/0021 and 0025)."""

from alembic.util import CommandError
from sqlalchemy import Connection, text

from handler.migrations.effective_rights import IAM, check
from handler.migrations.history import VERSION_TABLE

# The grants by the kind of the relation (PostgreSQL manual, "pg_class", relkind): tables, also partitioned and foreign
# ones; views, also materialized ones; and sequences, for the defaults of serial columns.
GRANTED = dict.fromkeys("rpfvm", "SELECT, INSERT, UPDATE, DELETE ON TABLE") | {"S": "USAGE ON SEQUENCE"}


def schemas(connection: Connection) -> list[str]:
    """Return the existing schemas of the search path; tables are created in the first. Raises CommandError if none."""
    found = list(connection.scalars(text("SELECT pg_catalog.unnest(pg_catalog.current_schemas(false))")))
    if not found:
        raise CommandError("no schema of the database's search_path exists")
    return found


def use_schemas(connection: Connection, *names: str) -> None:
    """Set the search path to `names`, then temporary tables, until the transaction or the savepoint ends.

    Without names the path is pg_catalog, so that no function, operator or table of another schema replaces one of
    pg_catalog (PostgreSQL manual, 5.10.3 "The Schema Search Path", and CVE-2018-1058).
    """
    quote = connection.dialect.identifier_preparer.quote_identifier
    path = ", ".join([*map(quote, names or ["pg_catalog"]), "pg_temp"])
    connection.exec_driver_sql(f"SET LOCAL search_path = {path}")


def prepare(connection: Connection, schemas: list[str], user: str) -> None:
    """Create the role `user` if it is missing, and revoke the rights with which it could change what a migration runs.

    Needs an empty search path. Raises sqlalchemy.exc.DBAPIError, and alembic.util.CommandError if the role may do more
    than read and change rows. Runs before the first migration, which could call a function that the role has created.
    """
    if user == connection.scalar(text("SELECT current_user")):
        raise CommandError(f"DATABASE_API_USER: {user} is the user that migrates, the tables' owner: name another user")
    quote = connection.dialect.identifier_preparer.quote_identifier
    if user not in set(connection.scalars(text("SELECT rolname FROM pg_roles"))):
        connection.exec_driver_sql(f"CREATE ROLE {quote(user)} LOGIN")
    # In PostgreSQL 14 and older, and in databases that come from them, every role may create objects in `public`.
    for schema in schemas:
        if connection.scalar(text("SELECT has_schema_privilege('public', :schema, 'CREATE')"), {"schema": schema}):
            connection.exec_driver_sql(f"REVOKE CREATE ON SCHEMA {quote(schema)} FROM PUBLIC")
    # Every role has TEMPORARY by default. A temporary table would hide the table of the same name from all later
    # requests on the same connection.
    database = quote(connection.scalar(text("SELECT current_database()")))
    connection.exec_driver_sql(f"REVOKE TEMPORARY ON DATABASE {database} FROM PUBLIC")
    check(connection, user)


def grant(connection: Connection, schema: str, user: str) -> None:
    """Grant `user` the use of our tables, views and sequences in `schema`, except Alembic's table.

    Needs an empty search path. Can be repeated. Raises sqlalchemy.exc.DBAPIError, and alembic.util.CommandError if the
    role may do more than read and change rows.
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
