"""Servers and processes for benchmarks and for the soak: PostgreSQL on TCP, and Lambda environments beside it.

Imports nothing of `handler`, so that a process that measures another application does not have it in memory.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import pg8000.native

from local.events import HttpResponse
from local.postgres import over_tcp, server
from tests.support.ports import reserved_port

ROOT = Path(__file__).parents[2]
ITEMS = ROOT / "handler" / "items"
ITEMS_MISSING = "this measures the example resource `items`, which was removed from handler/"
ROLE = "api"  # the user of the environments; it is no superuser, for whom a part of max_connections is reserved
MAX_CONNECTIONS = 40

# Forked from a process that has imported the libraries, 64 environments start in seconds and share memory.
get_context("forkserver").set_forkserver_preload(["fastapi", "mangum", "pg8000.native", "sqlalchemy.orm", "pydantic"])


@contextmanager
def process(
    target: Callable[..., None], *arguments: Any, method: Literal["spawn", "forkserver"] = "spawn"
) -> Iterator[Connection]:
    """Run `target(connection, *arguments)` in another process during the block, and yield our end of its connection.

    `target` returns when its connection raises EOFError. `spawn` starts a fresh interpreter.
    """
    context = get_context(method)
    ours, its = context.Pipe()
    child = context.Process(target=target, args=(its, *arguments), daemon=True)  # type: ignore[attr-defined]
    child.start()
    its.close()
    try:
        yield ours
    finally:
        ours.close()
        child.join()


@contextmanager
def postgres(
    *options: str, folder: Path | None = None, port: int | None = None, programs: Path | None = None
) -> Iterator[str]:
    """Run PostgreSQL during the block, and yield its superuser's URL, by TCP.

    `options` go to the server. Its data are kept in `folder`, or removed at the end; `programs` is the folder of
    another PostgreSQL than the embedded one.
    """
    with ExitStack() as stack:
        if folder is None:
            temporary = tempfile.TemporaryDirectory(prefix="api-", ignore_cleanup_errors=True)
            folder = Path(stack.enter_context(temporary))
        port = port or stack.enter_context(reserved_port())
        yield over_tcp(stack.enter_context(server(folder, *options, port=port, programs=programs)), port)


def url_of(url: str, database: str, scheme: str = "postgresql") -> str:
    """Return the URL of another database of the server at `url`."""
    return urlsplit(url)._replace(scheme=scheme, path=f"/{database}").geturl()


def address_of(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return str(parts.hostname), int(parts.port or 0)


def role_url(url: str, port: int | None = None) -> str:
    """Return the URL of ROLE for the database at a superuser's `url`, through `port` if a proxy is between them.

    The URL names pg8000, which both the handler and SQLAlchemy's own engines accept.
    """
    host, own_port = address_of(url)
    location = f"{ROLE}:{urlsplit(url).password}@{host}:{port or own_port}"
    return urlsplit(url)._replace(scheme="postgresql+pg8000", netloc=location).geturl()


def create_role(url: str) -> None:
    """Create ROLE, which owns nothing yet and has the superuser's password."""
    with connect(url) as admin:
        admin.run(f"CREATE ROLE {ROLE} LOGIN PASSWORD '{urlsplit(url).password}'")


def migrate(url: str) -> None:
    """Migrate a database, in another process, and let ROLE use the tables if it exists."""
    command = [sys.executable, "-m", "handler.migrate"]
    environ = os.environ | {"DATABASE_URL": url}
    subprocess.run(command, env=environ, cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
    with connect(url) as admin:
        if admin.run(f"SELECT FROM pg_roles WHERE rolname = '{ROLE}'"):
            admin.run(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {ROLE}")


@contextmanager
def connect(url: str) -> Iterator[pg8000.native.Connection]:
    """Yield a connection of pg8000's own, which commits every statement."""
    parts, (host, port) = urlsplit(url), address_of(url)
    connection = pg8000.native.Connection(
        str(parts.username), password=parts.password, host=host, port=port, database=parts.path.removeprefix("/")
    )
    try:
        yield connection
    finally:
        connection.close()


def is_unavailable(response: HttpResponse) -> bool:
    """Return whether a response is the documented 503: a problem, with the time after which to try again."""
    headers = dict(response.headers)
    return (
        response.status == 503
        and headers.get("content-type") == "application/problem+json"
        and headers.get("retry-after", "").isdigit()
    )
