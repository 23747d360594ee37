"""The first connection of a process with TLS and SCRAM, compared with stock pg8000. `make bench-connect`.

Each sample is a new process. It imports the driver and its dialect, and then measures the time from `create_engine` to
the result of `SELECT 1`. Stock pg8000 has its defaults: TLS if the server offers it, without verification. This project
verifies the certificate with the test's authority.
"""

import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import pg8000.native

from benchmarks.report import Result, describe_machine, main, say, table
from tests.support.certificates import authority, issue
from tests.support.database import required_program
from tests.support.environments import address_of, connect, postgres

AUTHENTICATION = """
host all postgres 127.0.0.1/32 scram-sha-256
hostssl all all 127.0.0.1/32 scram-sha-256
"""
# The URL is in the environment, because other users can read the command line.
TIMED = """
import os, sys, time
from sqlalchemy import create_engine, text
{imports}
url = os.environ["DATABASE_URL"]
cpu, started = time.process_time(), time.perf_counter()
engine = {engine}
with engine.connect() as connection:
    connection.execute(text("SELECT 1")).scalar_one()
print(time.perf_counter() - started, time.process_time() - cpu)
engine.dispose()
"""
OURS = {
    "imports": "from handler.database.connection import make_engine\n"
    "from handler.settings import read_database_settings as read",
    "engine": "make_engine(read({{'DATABASE_URL': url + '?sslmode=verify-full&sslrootcert={ca}'}}))",
}
STOCK = {
    "imports": "import pg8000\nimport sqlalchemy.dialects.postgresql.pg8000",
    "engine": "create_engine('postgresql+pg8000' + url.removeprefix('postgresql'))",
}


@contextmanager
def tls_postgres() -> Iterator[tuple[pg8000.native.Connection, str, str]]:
    """Run the system's PostgreSQL during the block. Users can connect only with TLS and SCRAM.

    Yields a superuser's connection, the URL of its database `postgres` for a user who may create databases, and the
    file of the certificate authority.
    """
    programs = required_program("postgres").parent  # the embedded server has no TLS
    with tempfile.TemporaryDirectory(prefix="items-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        with postgres(folder=folder / "postgres", programs=programs) as admin_url, connect(admin_url) as admin:
            cluster, password = folder / "postgres" / "cluster", secrets.token_hex()
            (cluster / "pg_hba.conf").write_text(AUTHENTICATION)
            issue(authority(folder / "ca.pem"), cluster, "127.0.0.1")
            admin.run(f"CREATE ROLE ann LOGIN CREATEDB PASSWORD '{password}'")
            admin.run("ALTER SYSTEM SET ssl = on")
            admin.run("SELECT pg_reload_conf()")
            host, port = address_of(admin_url)
            yield admin, f"postgresql://ann:{password}@{host}:{port}/postgres", str(folder / "ca.pem")


def sample(kind: dict[str, str], url: str, ca: str) -> list[float]:
    """Return the elapsed time and the processor time in milliseconds."""
    code = TIMED.format(imports=kind["imports"], engine=kind["engine"].format(ca=ca))
    environ = os.environ | {"DATABASE_URL": url}
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True)
    return [float(seconds) * 1000 for seconds in done.stdout.split()]


def run(samples: int) -> Result:
    times: dict[str, list[list[float]]] = {"ours": [], "stock pg8000": []}
    with tls_postgres() as (admin, url, ca):
        machine = describe_machine(admin)
        for number in range(samples):
            say(f"connect: {number + 1} of {samples}")
            for name, kind in zip(times, (OURS, STOCK), strict=True):
                times[name].append(sample(kind, url, ca))
    rows: list[tuple[Any, ...]] = [(f"Median of {samples}, ms", *times, "ratio")]
    for number, what in enumerate(("by the clock", "of the processor")):
        ours, stock = (median(found[number] for found in measured) for measured in times.values())
        rows.append((what, f"{ours:.1f}", f"{stock:.1f}", f"{ours / stock:.2f}"))
    section = f"""{machine} with TLS.

The first connection of a new process, with SCRAM over TLS on loopback: the time from `create_engine` to the result of
`SELECT 1`, without imports. Stock pg8000 has its defaults, which verify no certificate. This project verifies it.

{table(*rows)}"""
    return Result(section, table(*rows))


if __name__ == "__main__":
    main("connect", "First connection", run, needs_items=False, samples=30)
