"""What the API's user may: read and change rows, and nothing else (docs/adr/0021)."""

from alembic.util import CommandError
from sqlalchemy import Connection, text

from handler.migrations.history import VERSION_TABLE

# What is granted on each kind of relation (PostgreSQL manual, "pg_class", relkind): on tables (also partitioned and
# foreign ones) and views (also materialized); on sequences what the default of a serial column needs.
GRANTED = dict.fromkeys("rpfvm", "SELECT, INSERT, UPDATE, DELETE ON TABLE") | {"S": "USAGE ON SEQUENCE"}
# Who is a member of it logs in with a token in place of a password. Only RDS has it (Aurora user guide, "Creating a
# database account using IAM authentication").
IAM = "rds_iam"


def grant(connection: Connection, user: str) -> None:
    """Make the role `user` where there is none, and let it use all that is ours in this schema but Alembic's table.

    Granting again what was granted changes nothing. Raises sqlalchemy.exc.DBAPIError; alembic.util.CommandError when
    the role may do what we may, so that to grant it less would be of no use.
    """
    quote = connection.dialect.identifier_preparer.quote_identifier
    role = quote(user)
    roles = set(connection.scalars(text("SELECT rolname FROM pg_roles")))
    if user not in roles:
        connection.exec_driver_sql(f"CREATE ROLE {role} LOGIN")
    if connection.scalar(text("SELECT pg_has_role(:user, current_user, 'MEMBER')"), {"user": user}):
        raise CommandError(f"DATABASE_API_USER: {user} may do what the tables' owner may, name another user")
    if IAM in roles:
        connection.exec_driver_sql(f"GRANT {IAM} TO {role}")
    database, schema = map(quote, connection.execute(text("SELECT current_database(), current_schema()")).one())
    connection.exec_driver_sql(f"GRANT CONNECT ON DATABASE {database} TO {role}")
    # Everybody's by default. A temporary table would hide the one of its name from all later requests of its session.
    connection.exec_driver_sql(f"REVOKE TEMPORARY ON DATABASE {database} FROM PUBLIC")
    connection.exec_driver_sql(f"GRANT USAGE ON SCHEMA {schema} TO {role}")
    for kind, name in connection.execute(
        text(
            "SELECT relkind, relname FROM pg_class WHERE pg_get_userbyid(relowner) = current_user"
            " AND relnamespace = quote_ident(current_schema())::regnamespace AND relname <> :bookkeeping"
        ),
        {"bookkeeping": VERSION_TABLE},
    ):
        if kind in GRANTED:
            connection.exec_driver_sql(f"GRANT {GRANTED[kind]} {schema}.{quote(name)} TO {role}")
