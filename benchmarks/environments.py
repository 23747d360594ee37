"""Lambda environments as scale.py and soak.py need them: a process each, one request at a time, on one PostgreSQL.

Processes are forked from one that has imported the libraries, or starting 64 of them would take a minute and 6 GB.
Handler, engine and event loop are each process's own.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import pg8000.native

from handler.settings import read_database_settings
from local.postgres import over_tcp, server
from tests.support.pgbouncer import reserved_port

ROLE = "api"  # not a superuser: a part of max_connections is kept for those
MAX_CONNECTIONS = 40

processes = get_context("forkserver")
processes.set_forkserver_preload(["fastapi", "mangum", "pg8000.native", "sqlalchemy.orm", "pydantic"])


@contextmanager
def process(target: Callable[..., None], *arguments: Any) -> Iterator[Connection]:
    """`target(connection, *arguments)` in another process as long as the block, and our end of its connection."""
    ours, its = processes.Pipe()
    child = processes.Process(target=target, args=(its, *arguments), daemon=True)
    child.start()
    its.close()
    try:
        yield ours
    finally:
        ours.close()
        child.join()


class Postgres(NamedTuple):
    """A server that listens on a TCP port: `admin_url` is its superuser's, by unix socket; `url` is ROLE's.

    `url` names the driver, as SQLAlchemy's own engines want it and ours may have it.
    """

    admin_url: str
    url: str
    port: int


@contextmanager
def listening_server(data: Path, port: int) -> Iterator[Postgres]:
    """PostgreSQL on `data`, made if it is missing, and on 127.0.0.1:`port`, a `reserved_port`."""
    with server(data, "-c", f"max_connections={MAX_CONNECTIONS}", port=port) as admin_url:
        yield Postgres(admin_url, url_of(admin_url, port), port)


def url_of(admin_url: str, port: int) -> str:
    """ROLE's URL by 127.0.0.1:`port`. ROLE has the superuser's password, which is random."""
    return over_tcp(admin_url, port).replace("postgresql://postgres:", f"postgresql+pg8000://{ROLE}:", 1)


def create_role(admin_url: str) -> None:
    """Make ROLE, which owns nothing yet."""
    password = read_database_settings({"DATABASE_URL": admin_url}).password
    with connect(admin_url) as admin:
        admin.run(f"CREATE ROLE {ROLE} LOGIN PASSWORD '{password}'")


@contextmanager
def new_folder() -> Iterator[Path]:
    """A folder that goes at the end."""
    with tempfile.TemporaryDirectory(prefix="items-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@contextmanager
def new_server() -> Iterator[Postgres]:
    """A PostgreSQL of its own, where ROLE exists and owns nothing yet."""
    with new_folder() as folder, reserved_port() as port, listening_server(folder / "data", port) as postgres:
        create_role(postgres.admin_url)
        yield postgres


def migrate(admin_url: str) -> None:
    """Our schema, which ROLE may use."""
    command = [sys.executable, "-m", "handler.migrate"]
    subprocess.run(command, env=os.environ | {"DATABASE_URL": admin_url}, stdout=subprocess.DEVNULL, check=True)
    with connect(admin_url) as admin:
        admin.run(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {ROLE}")


@contextmanager
def connect(url: str) -> Iterator[pg8000.native.Connection]:
    """A connection by unix socket, past the code under test; every statement is committed."""
    database = read_database_settings({"DATABASE_URL": url})
    path = f"{database.host}/.s.PGSQL.{database.port}"
    connection = pg8000.native.Connection(
        database.user, password=database.password, database=database.database, unix_sock=path
    )
    try:
        yield connection
    finally:
        connection.close()
