"""`make run` reports each failure of the code, a migration or the machine, and responds to every request."""

import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.support.database import connect, free_port, temporary_database
from tests.support.make_run import ROOT, RUN, TIMEOUT, environment, refused, running, servers, started, wait_for_curl
from tests.support.probe_project import REVISION

BAD_MIGRATION = f"""
from alembic import op
revision, down_revision = 'bad', {REVISION!r}
def upgrade(): op.execute('SELEC 1')
"""
# Python imports it at its start: Ctrl-C comes when the first module of local/ is looked for.
INTERRUPTED_IMPORT = """
import os, signal, sys

class Interrupt:
    def find_spec(self, name, *_):
        if name.startswith("local."):
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupt())
"""


def test_after_a_syntax_error_every_request_is_502_with_the_last_line_of_the_traceback(used_project: Path) -> None:
    source = used_project / "handler" / "health.py"
    good = source.read_text()
    with running(used_project) as run:
        source.write_text("this is no Python")
        response = run.wait_for("/health/live", "SyntaxError")
        assert (response.status_code, response.headers["content-type"]) == (502, "application/problem+json")
        assert response.json()["detail"] == "SyntaxError: invalid syntax (handler/health.py, line 1)"
        for method in ("GET", "POST", "DELETE", "OPTIONS"):
            assert run.client.request(method, "/probes/", content=b"x" * 1_000_000).status_code == 502
        assert run.client.head("/probes/").status_code == 502
        assert run.client.get("/", headers={"Host": "evil.example"}).status_code == 421
        source.write_text(f"{good}\nraise RuntimeError('no start')")
        assert run.wait_for("/", "no start").json()["detail"].startswith("RuntimeError: no start (handler/health.py")
        source.write_text(f"{good}\nimport os; os._exit(3)")
        assert run.wait_for("/", "status 3").json()["detail"] == "the service has ended with status 3"
        source.write_text(good)
        run.wait_for("/health/live", "ok")
    output = "".join(run.output)
    assert "this is no Python" in output, "the traceback is on the terminal"
    assert output.count("Listening on") == 1


def test_code_that_is_broken_at_the_start_is_502_until_it_is_corrected(project: Path) -> None:
    health, models = project / "handler" / "health.py", project / "handler" / "probes" / "models.py"
    good_health, good_models = health.read_text(), models.read_text()
    health.write_text("import nothing_of_this_name")
    models.write_text("raise RuntimeError('the migrations import it too')")
    with running(project, until="ModuleNotFoundError") as run:
        detail = run.client.get("/probes/").json()["detail"]
        assert detail == "ModuleNotFoundError: No module named 'nothing_of_this_name' (handler/health.py, line 1)"
        health.write_text(good_health)
        detail = run.wait_for("/health/live", "RuntimeError").json()["detail"]
        assert detail == "RuntimeError: the migrations import it too (handler/probes/models.py, line 1)"
        assert "Listening on" not in "".join(run.output)
        models.write_text(good_models)
        run.wait_for("/health/live", "ok")
        assert run.client.post("/probes/", json={"name": "Lamp"}).status_code == 201, "the migrations have run"
        run.wait_for_output("Listening on")
    assert "".join(run.output).count("Listening on") == 1


def test_a_migration_that_fails_names_its_file_and_every_request_is_502_until_it_is_corrected(project: Path) -> None:
    versions = project / "handler" / "migrations" / "versions"

    def check_failure(name: str) -> None:
        response = run.client.get("/probes/")
        message = f"migrate: {name}.py, line 4: database error: 42601 syntax error"
        assert (response.status_code, response.json()["detail"]) == (502, message)
        run.wait_for_output(f"{message}\n")

    # It fails after the application is imported, which has answered no request by then.
    (versions / "bad.py").write_text(
        BAD_MIGRATION.replace("op.execute", "op.execute('SELECT pg_sleep(5)'), op.execute")
    )
    with running(project, until="bad.py") as run:
        assert run.first
        assert run.first.status_code == 502
        check_failure("bad")
        assert "Listening on" not in "".join(run.output)
        (versions / "bad.py").write_text(BAD_MIGRATION.replace("SELEC", "SELECT"))
        run.wait_for("/health/live", "ok")
        worse = BAD_MIGRATION.replace("'bad'", "'worse'").replace(repr(REVISION), "'bad'")
        (versions / "worse.py").write_text(worse)
        run.wait_for("/probes/", "worse.py")
        check_failure("worse")
        (versions / "worse.py").write_text(worse.replace("SELEC", "SELECT"))
        run.wait_for("/health/live", "ok")
        run.wait_for_output("Listening on")
    assert "".join(run.output).count("Listening on") == 1


@pytest.mark.parametrize(
    "command", [path.stem for path in sorted((ROOT / "local").glob("*.py")) if "__main__" in path.read_text()]
)
def test_ctrl_c_while_a_command_is_imported_prints_no_traceback(tmp_path: Path, command: str) -> None:
    (tmp_path / "sitecustomize.py").write_text(INTERRUPTED_IMPORT)
    done = subprocess.run(
        [sys.executable, "-m", f"local.{command}"],
        cwd=ROOT,
        env=environment(PYTHONPATH=str(tmp_path)),
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("", "")
    assert done.returncode


@pytest.mark.parametrize("change", ["DROP COLUMN note", "RENAME TO old_probes"])
def test_a_model_without_a_migration_hints_at_make_revision(project: Path, server_url: str, change: str) -> None:
    with temporary_database(server_url, f"hint_{os.getpid()}") as url, running(project, DATABASE_URL=url) as run:
        with connect(url) as database:
            database.run(f"ALTER TABLE probes {change}")
        assert run.client.get("/probes/").status_code == 500
        assert run.client.get("/health/ready").status_code == 200
    assert "".join(run.output).count('make revision MESSAGE="') == 1


def test_the_settings_are_checked_before_postgresql_starts(project: Path) -> None:
    assert refused(project, AUTH_MODE="nope") == "run: settings: AUTH_MODE is not valid: write one of none, iam, jwt\n"
    message = refused(project, LOG_LEVEL="loud", DATABASE_RECYCLE="never")
    assert message.startswith("run: settings: ")
    assert "LOG_LEVEL is not valid: write one of " in message
    assert "DATABASE_RECYCLE is not valid: write seconds from 1 to 3600" in message
    assert not (project / ".local").exists()


def test_when_postgresql_is_killed_it_ends_with_one_line_and_no_process_left(used_project: Path) -> None:
    with started(used_project) as process:
        started_server = json.loads((used_project / ".local" / "postgres" / "server.json").read_text())
        os.kill(started_server["process"], signal.SIGKILL)
        _, error_output = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 1
    (line,) = [line for line in error_output.splitlines() if line.startswith("run: ")]
    assert line.startswith("run: PostgreSQL has ended: ")
    assert not servers(used_project)
    with running(used_project) as run:
        assert run.client.get("/health/ready").status_code == 200


def test_a_second_make_run_shares_the_database_and_survives_the_end_of_the_first(used_project: Path) -> None:
    with running(used_project) as second_to_end:
        with running(used_project) as first_to_end:
            created = first_to_end.client.post("/probes/", json={"name": "Lamp"}).json()
        assert second_to_end.client.get(f"/probes/{created['id']}").json() == created
        with running(used_project) as third:
            assert third.client.get(f"/probes/{created['id']}").json() == created
        second_to_end.client.post("/probes/", json={"name": "Table"}).raise_for_status()
    assert not servers(used_project)


def test_the_command_that_started_the_database_may_end_first(used_project: Path) -> None:
    with started(used_project) as first, running(used_project) as second:
        first.send_signal(signal.SIGINT)
        assert "stopped" in first.communicate(timeout=TIMEOUT)[0]
        assert second.client.post("/probes/", json={"name": "Lamp"}).status_code == 201
    assert not servers(used_project)


def test_two_commands_that_start_at_the_same_time_share_the_database(project: Path) -> None:
    ports = [str(free_port()), str(free_port())]
    processes = [subprocess.Popen(RUN, cwd=project, env=environment(PORT=port)) for port in ports]
    try:
        for port in ports:
            wait_for_curl(port, "ok")
    finally:
        for process in processes:
            process.send_signal(signal.SIGINT)
        assert [process.wait(TIMEOUT) for process in processes] == [0, 0]
    assert not servers(project)


def test_a_busy_port_does_not_affect_the_first_command(used_project: Path) -> None:
    with running(used_project) as run:
        port = str(run.client.base_url.port)
        message = f"run: port {port}: Address already in use. Choose another: make run PORT=8001\n"
        assert refused(used_project, PORT=port) == message
        assert run.client.get("/health/ready").status_code == 200


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small disk: run the tests as root")
@pytest.mark.parametrize("megabytes", [1, 20])
def test_a_full_disk_is_one_line_and_no_process_left(project: Path, megabytes: int) -> None:
    disk = project / ".local"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this machine allows no mount")
    try:
        message = refused(project)
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    assert message.startswith("run: ")
    assert "No space left on device" in message
    assert message.count("\n") == 1
    assert not servers(project)


def test_a_folder_without_write_permission_is_one_line(project: Path) -> None:
    """Root may write everywhere, so a file has the name of the folder."""
    if os.geteuid() == 0:
        (project / ".local").write_text("")
    else:
        project.chmod(0o555)
    message = refused(project)
    project.chmod(0o755)
    assert message.startswith(f"run: {project}/.local cannot be written")
    assert message.count("\n") == 1
    assert not servers(project)


def test_a_command_of_the_folder_that_is_killed_leaves_a_server_that_the_next_one_uses(used_project: Path) -> None:
    show = [sys.executable, "-m", "local.postgres", "sh", "-c", "echo $DATABASE_URL; cat"]
    options = {"cwd": used_project, "env": environment(), "text": True}
    first = subprocess.Popen(show, stdin=subprocess.PIPE, stdout=subprocess.PIPE, **options)  # type: ignore[call-overload]
    assert first.stdout
    url = first.stdout.readline()
    child = psutil.Process(first.pid).children()
    first.kill()
    first.communicate()
    for process in child:
        with suppress(psutil.NoSuchProcess):
            if process.name() in ("sh", "cat"):
                process.kill()
    done = subprocess.run(show, input="", capture_output=True, check=True, **options)  # type: ignore[call-overload]
    assert done.stdout == url
    psutil.wait_procs(servers(used_project), timeout=TIMEOUT)
    assert not servers(used_project)


def test_the_removal_of_the_folder_while_it_is_used_is_not_an_error(used_project: Path) -> None:
    """`make clean` runs in another terminal."""
    with started(used_project) as process:
        shutil.rmtree(used_project / ".local")
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=TIMEOUT)
    assert not servers(used_project)
