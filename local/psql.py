"""`make psql`: PostgreSQL's own client on the database of `make run`, or on the one in DATABASE_URL."""

import os
import shutil
import signal
import subprocess
import sys

from handler.settings import SettingsError, read_database_settings
from local.postgres import PostgresError, database, embedded_programs

# libpq's variables (PostgreSQL manual, 32.15). The password is not an argument, because other users can see those.
VARIABLES = {
    "host": "PGHOST",
    "port": "PGPORT",
    "user": "PGUSER",
    "password": "PGPASSWORD",
    "database": "PGDATABASE",
    "sslmode": "PGSSLMODE",
    "ca_bundle": "PGSSLROOTCERT",
}


def find_psql(*, embedded: bool) -> str:
    """The path of psql. The embedded one has the version of the embedded server; the system's one supports TLS."""
    own, systems = embedded_programs() / "psql", shutil.which("psql")
    if embedded or not systems:
        return str(own)
    return systems


def main() -> None:
    """Start psql with the arguments of the command line."""
    try:
        with database() as found:
            settings = read_database_settings(os.environ | {"DATABASE_URL": found.url})
            values = {variable: getattr(settings, name) for name, variable in VARIABLES.items()}
            environment = os.environ | {variable: str(value) for variable, value in values.items() if value is not None}
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for psql, which cancels the statement
            program = find_psql(embedded=found.process is not None)
            command = [program, *sys.argv[1:]]
            sys.exit(subprocess.call(command, env=environment, preexec_fn=_default_interrupt))
    except (PostgresError, SettingsError) as error:
        sys.exit(f"psql: {error}")


def _default_interrupt() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


if __name__ == "__main__":
    main()
