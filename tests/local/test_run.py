"""`make run` in a copy of the project, used through its command, HTTP and Ctrl-C."""

import os
import re
import shutil
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil
import pytest

from tests.support.database import connect, temporary_database
from tests.support.make_run import ROOT, TIMEOUT, refused, running

PATH, BODY = "/probes/", {"name": "Lamp"}


def test_it_serves_reloads_stops_and_keeps_its_data(project: Path) -> None:
    with running(project) as run:
        created = run.client.post(PATH, json=BODY)
        assert created.status_code == 201
        assert run.client.get(PATH).json()["items"] == [created.json()]
        assert run.client.get("/nowhere%1B[31m?q=SECRET").status_code == 400
        assert run.client.get("/docs").headers["content-type"] == "text/html; charset=utf-8"
        source = project / "handler" / "health.py"
        source.write_text(source.read_text().replace('"ok"', '"changed"'))
        run.wait_for("/health/live", "changed")
        source.write_text("this is no Python")
        time.sleep(1)
        source.write_text((ROOT / "handler" / "health.py").read_text())
        run.wait_for("/health/live", "ok")
    assert run.process.returncode == 0
    output = "".join(run.output)
    for text in (str(run.client.base_url), "/docs", "curl -s", "run: stopped"):
        assert text in output
    # Three for the login, one for local/debugger.py, and the two of a POST.
    first = rf"^POST {PATH} 201 \d+\.\d ms, round trips 6 with a new connection \[[-0-9a-f]{{36}}\]$"
    assert re.search(first, output, re.MULTILINE)
    assert re.search(rf"^GET {PATH} 200 \d+\.\d ms, round trips 1 \[[-0-9a-f]{{36}}\]$", output, re.MULTILINE)
    assert re.search(r"^GET /nowhere%1B%5B31m 400 ", output, re.MULTILINE)
    assert "SECRET" not in output
    with running(project) as run:
        assert run.client.get(created.headers["location"]).json() == created.json()


def test_a_service_whose_supervisor_was_killed_ends_and_the_next_start_works(used_project: Path) -> None:
    with running(used_project) as run:
        children = run.descendants()
        run.process.kill()
        run.process.wait()
        service = [child for child in children if "local.service" in " ".join(_command(child))]
        _, alive = psutil.wait_procs(service, timeout=TIMEOUT)
        assert not alive
    with running(used_project) as run:
        assert run.client.get("/health/ready").status_code == 200


def _command(process: psutil.Process) -> list[str]:
    with suppress(psutil.NoSuchProcess):
        return process.cmdline()
    return []


def test_a_service_that_is_killed_mid_request_loses_nothing_that_it_confirmed(project: Path, server_url: str) -> None:
    with temporary_database(server_url, f"killed_{os.getpid()}") as url, running(project, DATABASE_URL=url) as run:
        created: set[str] = set()

        def post() -> None:
            with suppress(httpx.HTTPError), httpx.Client(base_url=run.client.base_url, timeout=TIMEOUT) as client:
                for _ in range(10_000):
                    response = client.post(PATH, json=BODY)
                    if response.status_code == 201:
                        created.add(response.json()["id"])

        threads = [threading.Thread(target=post) for _ in range(4)]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + TIMEOUT
        while len(created) < 50 and time.monotonic() < deadline:
            time.sleep(0.01)
        for child in run.descendants():
            if "local.service" in " ".join(_command(child)):
                child.kill()
        (project / "handler" / "health.py").touch()
        for thread in threads:
            thread.join(TIMEOUT)
        with connect(url) as database:
            stored = {str(row[0]) for row in database.run("SELECT id FROM probes")}
        assert len(created) >= 50
        assert created <= stored


def test_a_request_for_another_host_is_refused_with_the_hosts_that_are_served(used_project: Path) -> None:
    """A web page whose name leads to 127.0.0.1 (DNS rebinding) must not read responses of this server."""
    with running(used_project) as run:
        port = run.client.base_url.port
        for host in (f"127.0.0.1:{port}", f"localhost:{port}", f"LocalHost:{port}", f"[::1]:{port}"):
            assert run.client.get(PATH, headers={"Host": host}).status_code == 200, host
        names = ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "127.0.0.2", "192.168.1.2"]
        others = [f"{name}:{port}" for name in names]
        others += [
            *names,
            "127.0.0.1",
            "localhost",
            "[::1]",
            "localhost:1",
            f"localhost:{port}0",
            f"localhost:{port}.evil.example",
            f"localhost.:{port}",
            f"a@localhost:{port}",
            "",
        ]
        for host in others:
            response = run.client.post(PATH, json=BODY, headers={"Host": host})
            assert (response.status_code, response.headers["content-type"]) == (421, "application/problem+json"), host
            assert f"127.0.0.1:{port}, localhost:{port}, [::1]:{port}" in response.json()["detail"]
            assert "evil" not in response.text
        assert raw_status(port, f"GET {PATH} HTTP/1.0\r\n\r\n") == 421
        two = f"GET {PATH} HTTP/1.1\r\nHost: localhost:{port}\r\nHost: evil.example\r\n\r\n"
        assert raw_status(port, two) in (400, 421)
        absolute = f"GET http://evil.example{PATH} HTTP/1.1\r\nHost: evil.example\r\n\r\n"
        assert raw_status(port, absolute) == 421
        assert run.client.get(PATH).json()["items"] == []


def raw_status(port: int | None, request: str) -> int:
    """The status of the response to exactly these bytes."""
    with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT) as sock:
        sock.sendall(request.encode())
        return int(sock.recv(4096).split()[1])


@pytest.mark.parametrize("port", ["0", "70000", "http", "-1"])
def test_an_invalid_port_is_one_clear_line(project: Path, port: str) -> None:
    assert refused(project, PORT=port) == f"run: PORT must be a number between 1 and 65535, not '{port}'\n"


def test_a_busy_port_is_one_clear_line(project: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert refused(project, PORT=str(port)).startswith(f"run: port {port}: Address already in use")


def test_data_of_an_earlier_version_is_one_clear_line_that_says_what_to_do(project: Path) -> None:
    """The cluster of an earlier version was the folder itself, and accepted every process without a password."""
    data = project / ".local" / "postgres"
    data.mkdir(parents=True)
    (data / "PG_VERSION").write_text("18\n")
    if os.geteuid() == 0:
        shutil.chown(data, "nobody")
    message = f"run: {data} is of an earlier version of this project: remove it (make clean)\n"
    assert refused(project) == message
    assert (data / "PG_VERSION").read_text() == "18\n"


def test_a_folder_that_cannot_be_written_is_one_clear_line(project: Path) -> None:
    (project / ".local").write_text("a file has this name")
    assert refused(project).startswith(f"run: {project}/.local cannot be written")


def test_an_unreachable_database_is_one_clear_line(project: Path) -> None:
    message = refused(project, DATABASE_URL="postgresql://ann:HIDDEN@127.0.0.1:1/d")
    assert message.startswith("migrate: database error: 08001 cannot connect to 127.0.0.1, port 1 ")
    assert message.count("\n") == 1
    assert "HIDDEN" not in message


def test_a_user_that_may_create_no_table_is_one_line_and_no_wait_for_a_change(project: Path, server_url: str) -> None:
    user = f"reader_{os.getpid()}"
    with temporary_database(server_url, f"rights_{os.getpid()}") as url, connect(server_url) as admin:
        admin.run(f"CREATE ROLE {user} LOGIN")
        try:
            parts = urlsplit(url)
            message = refused(project, DATABASE_URL=parts._replace(netloc=f"{user}@").geturl())
        finally:
            admin.run(f"DROP ROLE {user}")
    assert message.startswith("migrate: database error: 42501")
