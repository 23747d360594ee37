"""One PostgreSQL for the test run. It starts when a test needs it, so a run without database tests starts none.

Its URL is known before it starts, because modules that import the handler read it while pytest collects them. With
pytest-xdist the controller owns the server, and the first worker that needs it asks the controller to start it.
"""

import os
import secrets
import shutil
import socket
import tempfile
import threading
from contextlib import ExitStack
from pathlib import Path

from local.postgres import server
from tests.support.database import TEMPLATE, connect, socket_path, url_of
from tests.support.migrated import migrate

# Roles that represent IAM users have no password. They log in by the unix socket, whose folder other users cannot
# enter.
AUTHENTICATION = """
local all postgres scram-sha-256
local all all trust
"""
# In memory where it is large enough: the run creates hundreds of databases.
MEMORY = Path("/dev/shm")  # noqa: S108 - the server's folder gets an unpredictable name there
NEEDED = 4 * 1024**3  # bytes; WAL alone may take 1 GB
REQUESTS = "requests"  # the unix socket in the server's folder on which other processes request the start
START, STOP = b"start", b"stop"


class SharedServer:
    """The server, in the process that owns it. `url` is that of the database `postgres` as superuser."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        has_room = MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > NEEDED
        parent = MEMORY if has_room and "TMPDIR" not in os.environ else None
        folder = tempfile.TemporaryDirectory(prefix="tests-", dir=parent, ignore_cleanup_errors=True)
        self.folder = Path(self._stack.enter_context(folder))
        self.folder.chmod(0o711)  # PgBouncer runs as the server's user, which must reach the socket in this folder
        self._password = secrets.token_urlsafe(32)
        self.url = f"postgresql://postgres:{self._password}@/postgres?host={self.folder / 'socket'}&port=5432"
        self._is_started = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the server and migrate its template database, once. Raises local.postgres.PostgresError."""
        if self._is_started:
            return
        folder = self.folder / "postgres"
        url = self._stack.enter_context(server(folder, "-c", "fsync=off"))
        (folder / "cluster" / "pg_hba.conf").write_text(AUTHENTICATION)
        with connect(url) as admin:
            admin.run("SELECT pg_reload_conf()")
            admin.run(f"ALTER ROLE postgres PASSWORD '{self._password}'")
            admin.run(f"CREATE DATABASE {TEMPLATE}")
        (self.folder / "socket").symlink_to(Path(socket_path(url)).parent)
        migrate(url_of(self.url, TEMPLATE))
        self._is_started = True

    def start_on_request(self) -> None:
        """Start the server in a thread, as soon as another process calls `request_start`."""
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(self.folder / REQUESTS))
        listener.listen()
        self._thread = threading.Thread(target=self._serve, args=(listener,))
        self._thread.start()

    def _serve(self, listener: socket.socket) -> None:
        with listener:
            while True:
                with listener.accept()[0] as connection:
                    if connection.recv(100) == STOP:
                        return
                    try:
                        self.start()
                    except Exception as error:  # noqa: BLE001 - the process that asks reports it
                        connection.sendall(repr(error).encode())

    def close(self) -> None:
        if self._thread:
            _send(self.folder, STOP)
            self._thread.join()
        self._stack.close()


def request_start(folder: Path) -> None:
    """Wait until the server of `folder` is started. Raises RuntimeError with the reason where it cannot be."""
    if failure := _send(folder, START):
        raise RuntimeError(f"PostgreSQL cannot be started: {failure}")


def _send(folder: Path, request: bytes) -> str:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(folder / REQUESTS))
        connection.sendall(request)
        with connection.makefile("rb") as response:
            return response.read().decode()
