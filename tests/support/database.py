"""Databases for tests, and connections to them with stock pg8000, without the code under test."""

import os
import shutil
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pg8000.native
import pytest
from sqlalchemy import Table

from handler.settings import read_database_settings


@contextmanager
def connect(url: str) -> Iterator[pg8000.native.Connection]:
    """A connection in autocommit: every statement is committed."""
    settings = read_database_settings({"DATABASE_URL": url})
    connection = pg8000.native.Connection(
        settings.user, password=settings.password, database=settings.database or settings.user,
        unix_sock=socket_path(url), ssl_context=False,  # or pg8000 loads the system's authorities, 48 ms
    )  # fmt: skip
    try:
        yield connection
    finally:
        connection.close()


# The sequences that number the rows of a table, with their first values.
RESTART = (
    "SELECT setval(seqrelid, seqstart, false) FROM pg_sequence JOIN pg_depend ON objid = seqrelid"
    " WHERE refobjid = CAST(:name AS regclass) AND deptype IN ('a', 'i')"
)


def empty_tables(connection: pg8000.native.Connection, tables: Iterable[Table]) -> None:
    """Delete every row, from referencing tables first, and restart the sequences.

    For the few rows of a test, TRUNCATE takes 30 times as long.
    """
    names = [table.fullname for table in tables]
    connection.run("BEGIN")
    connection.run(f"LOCK TABLE {', '.join(names)}")  # as TRUNCATE does: it waits for a transaction that was left open
    for name in names:
        connection.run(f"DELETE FROM {name}")
        connection.run(RESTART, name=name)
    connection.run("COMMIT")


# The database that has all migrations and the tables of the tests' own resource (tests/support/server.py).
TEMPLATE = "migrated"
# CREATE DATABASE does not copy what ALTER DATABASE ... SET has set.
SETTINGS = (
    "SELECT unnest(setconfig) FROM pg_db_role_setting JOIN pg_database d ON d.oid = setdatabase WHERE datname = :name"
)


@contextmanager
def temporary_database(server_url: str, name: str, template: str = "template1") -> Iterator[str]:
    """Yield the URL of a database that is a copy of `template` and exists during the block. By default it is empty."""
    with connect(server_url) as admin:
        admin.run(f"CREATE DATABASE {name} TEMPLATE {template}")
        try:
            for (setting,) in admin.run(SETTINGS, name=template):
                key, _, value = setting.partition("=")
                admin.run(f"ALTER DATABASE {name} SET {key} = '{value}'")
            yield url_of(server_url, name)
        finally:
            admin.run(f"DROP DATABASE {name} WITH (FORCE)")


def socket_path(url: str) -> str:
    """The unix socket that a URL leads to."""
    settings = read_database_settings({"DATABASE_URL": url})
    return f"{settings.host}/.s.PGSQL.{settings.port or 5432}"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def required_program(name: str) -> Path:
    """The path of a program of the system. Without it the test is skipped, or fails with REQUIRE_SYSTEM_PROGRAMS."""
    folders = [*sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True), Path("/usr/sbin")]
    found = shutil.which(name, path=os.pathsep.join([os.environ["PATH"], *map(str, folders)]))
    if found is None and "REQUIRE_SYSTEM_PROGRAMS" in os.environ:
        pytest.fail(f"{name} is not on this machine, and REQUIRE_SYSTEM_PROGRAMS is set")
    if found is None:
        pytest.skip(f"{name} is not on this machine: install your system's package that has it")
    return Path(found)


def url_of(server_url: str, name: str) -> str:
    """The URL of the database `name` on the same server."""
    return urlsplit(server_url)._replace(path=f"/{name}").geturl()
