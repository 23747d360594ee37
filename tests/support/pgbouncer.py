"""A real PgBouncer in front of PostgreSQL, in transaction mode (Debian: `apt-get install pgbouncer`)."""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from handler.settings import read_database_settings
from local.postgres import identity

START_TIMEOUT = 10  # seconds


class PgbouncerError(Exception):
    """PgBouncer cannot start. The message has the reason."""


def binary() -> str | None:
    """Return the path of PgBouncer, or None. Debian installs it in a folder that only root has in PATH."""
    return shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")


# In CI the tests are not skipped: pgbouncer() raises without the program.
needs_pgbouncer = pytest.mark.skipif(
    binary() is None and "REQUIRE_SYSTEM_PROGRAMS" not in os.environ,
    reason="PgBouncer is not installed: apt-get install pgbouncer",
)


@contextmanager
def pgbouncer(upstream: str, port: int, *, pool_size: int = 2, **settings: str | float) -> Iterator[str]:
    """Run PgBouncer on 127.0.0.1:`port`, a `reserved_port`, with at most `pool_size` connections to a database.

    `upstream` is the URL of a database, with a user and a password, which PgBouncer's clients need as well (SCRAM);
    `settings` go to pgbouncer.ini. Yields the URL of the same database through PgBouncer. Raises PgbouncerError.
    """
    program = binary()
    if program is None:
        raise PgbouncerError("PgBouncer is not on this machine: apt-get install pgbouncer")
    database = read_database_settings({"DATABASE_URL": upstream})
    options: dict[str, str | float] = {
        "listen_addr": "127.0.0.1",
        "listen_port": port,
        "unix_socket_dir": "",
        "auth_type": "scram-sha-256",
        "auth_file": "users.txt",
        "admin_users": str(database.user),  # the password of the console, which is the database `pgbouncer`
        "pool_mode": "transaction",
        "default_pool_size": pool_size,
    }
    upstream_is = f"host={database.host} port={database.port or 5432} user={database.user}"
    lines = ["[databases]", f"* = {upstream_is}", "[pgbouncer]"]
    lines += [f"{name} = {value}" for name, value in (options | settings).items()]
    with tempfile.TemporaryDirectory(prefix="pgbouncer-") as folder:
        log = Path(folder, "log.txt")
        Path(folder, "pgbouncer.ini").write_text("\n".join(lines))
        Path(folder, "users.txt").write_text(f'"{database.user}" "{database.password}"\n')
        user = identity()  # PgBouncer refuses to run as root, and only the server's user can enter its socket's folder
        if user:
            shutil.chown(folder, user["user"])
        with log.open("wb") as output:
            process = subprocess.Popen(
                [program, "pgbouncer.ini"],
                cwd=folder,
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                **user,
            )
        try:
            _wait_until_ready(process, port, log)
            yield f"postgresql://{database.user}:{database.password}@127.0.0.1:{port}/{database.database}"
        finally:
            # PgBouncer has nothing to store. Since 1.23 the other signals wait for clients.
            process.kill()
            process.wait()


def _wait_until_ready(process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while process.poll() is None and time.monotonic() < deadline:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.01)
    lines = log.read_text(errors="replace").strip().splitlines()
    raise PgbouncerError(f"PgBouncer did not start: {lines[-1] if lines else 'no log'}")
