"""`make reset`: empty the embedded database and migrate it, also while `make run` is up."""

import os
import subprocess
import sys

from pg8000.native import Connection

from handler.settings import read_database_settings
from local.postgres import DEFAULT_PORT, PostgresError, database


def main() -> None:
    if os.environ.get("DATABASE_URL"):
        sys.exit("reset: DATABASE_URL is set, and only the embedded database is emptied: unset DATABASE_URL")
    try:
        with database() as found:
            settings = read_database_settings({"DATABASE_URL": found.url})
            address = f"{settings.host}/.s.PGSQL.{settings.port or DEFAULT_PORT}"
            # Any database but the one that is dropped; template0 allows no connections.
            with Connection(
                settings.user, password=settings.password, database="template1", unix_sock=address
            ) as connection:
                connection.run(f"DROP DATABASE IF EXISTS {settings.database} WITH (FORCE)")
                connection.run(f"CREATE DATABASE {settings.database}")
            environment = os.environ | {"DATABASE_URL": found.url}
            sys.exit(subprocess.call([sys.executable, "-m", "handler.migrate"], env=environment))
    except PostgresError as error:
        sys.exit(f"reset: {error}")


if __name__ == "__main__":
    main()
