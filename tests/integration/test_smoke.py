"""The smoke test passes for a service that works, and fails for any other."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from deploy.smoke import OPENAPI, Creation, SmokeError, creation, smoke
from tests.support.database import free_port, temporary_database
from tests.support.make_run import running

ROOT = Path(__file__).parents[2]
NOTE = json.dumps({"id": 1, "text": "example"}).encode()
EXAMPLE = Creation("/notes/", {"text": "example"})
# Status and body, by method and path. " again" marks a path after the DELETE.
Responses = dict[tuple[str, str], tuple[int, bytes]]
GOOD: Responses = {
    ("GET", "/health/live"): (200, b"{}"),
    ("GET", "/health/ready"): (200, b"{}"),
    ("POST", "/notes/"): (201, NOTE),
    ("GET", "/notes/1"): (200, NOTE),
    ("DELETE", "/notes/1"): (204, b""),
    ("GET", "/notes/1 again"): (404, b"{}"),
}


@contextmanager
def service(responses: Responses, requests: list[tuple[str, str, str | None]]) -> Iterator[str]:
    """The URL of a service with these responses, which adds each request to `requests`."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            path = self.path.removeprefix("/stage")
            again = self.command == "GET" and ("DELETE", path) in [one[:2] for one in requests]
            requests.append((self.command, path, self.headers["authorization"]))
            status, body = responses[self.command, f"{path} again" if again else path]
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.send_header("location", "/stage/notes/1")
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_DELETE = do_GET  # noqa: N815

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/stage"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_it_passes_on_the_service_and_leaves_nothing(project: Path, server_url: str) -> None:
    with temporary_database(server_url, f"smoke_{os.getpid()}") as url, running(project, DATABASE_URL=url) as run:
        command = [sys.executable, "-m", "deploy.smoke", str(run.client.base_url)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        example = creation(json.loads(OPENAPI.read_text()))
        if example:
            assert run.client.get(example.path).json()["items"] == []
            assert f"smoke: POST {example.path} 201" in done.stdout
    assert done.stdout.splitlines()[-1].endswith("404" if example else "/health/ready 200")


def test_a_service_without_resources_is_asked_for_its_health() -> None:
    requests: list[tuple[str, str, str | None]] = []
    with service(GOOD, requests) as url:
        smoke(url, None, None, patience=0)
    assert {one[:2] for one in requests} == {("GET", "/health/live"), ("GET", "/health/ready")}
    assert creation({"paths": {"/health/live": {"get": {}}}}) is None


def test_it_passes_under_a_stage_with_a_token() -> None:
    requests: list[tuple[str, str, str | None]] = []
    with service(GOOD | {("GET", "/health/ready"): (401, b"")}, requests) as url:
        smoke(url, "TOKEN", EXAMPLE, patience=0)
    assert [one[:2] for one in requests][-4:] == [
        ("POST", "/notes/"),
        ("GET", "/notes/1"),
        ("DELETE", "/notes/1"),
        ("GET", "/notes/1"),
    ]
    assert {token for _, path, token in requests if path != "/health/live"} == {"Bearer TOKEN"}


def test_an_example_that_is_stored_already_ends_the_test_and_is_not_deleted(
    capsys: pytest.CaptureFixture[str],
) -> None:
    requests: list[tuple[str, str, str | None]] = []
    conflict = (409, b'{"status": 409, "constraint": "uq_notes_text"}')
    with service(GOOD | {("POST", "/notes/"): conflict}, requests) as url:
        smoke(url, None, EXAMPLE, patience=0)
    assert [one[:2] for one in requests][-1] == ("POST", "/notes/")
    assert "smoke: the example of /notes/ is stored already" in capsys.readouterr().out


def test_without_a_token_it_passes_on_a_service_that_is_closed_and_writes_nothing() -> None:
    requests: list[tuple[str, str, str | None]] = []
    closed: Responses = {("GET", "/health/live"): (401, b""), ("GET", "/health/ready"): (401, b"")}
    with service(closed, requests) as url:
        smoke(url, None, EXAMPLE, patience=0)
    assert len(requests) == 2


@pytest.mark.parametrize(
    ("what", "response"),
    [
        (("GET", "/health/live"), (502, b"")),
        (("POST", "/notes/"), (503, b"the reason")),
        (("POST", "/notes/"), (409, b'{"status": 409}')),
        (("GET", "/notes/1"), (200, b'{"id": 2}')),
        (("GET", "/notes/1"), (404, b"")),
        (("DELETE", "/notes/1"), (500, b"")),
        (("GET", "/notes/1 again"), (200, NOTE)),
    ],
    ids=lambda value: " ".join(map(str, value)),
)
def test_it_fails_for_a_wrong_response(what: tuple[str, str], response: tuple[int, bytes]) -> None:
    with service(GOOD | {what: response}, []) as url, pytest.raises(SmokeError):
        smoke(url, None, EXAMPLE, patience=0)


def test_it_fails_without_a_server() -> None:
    with pytest.raises(SmokeError, match="GET /health/live"):
        smoke(f"http://127.0.0.1:{free_port()}", None, EXAMPLE, patience=0)


@pytest.mark.parametrize("arguments", [[], ["file:///etc/passwd"], ["https://a", "https://b"]])
def test_a_missing_or_wrong_argument_is_one_clear_line(arguments: list[str]) -> None:
    command = [sys.executable, "-m", "deploy.smoke", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "smoke: the URL of the service is missing: python3 -m deploy.smoke https://…\n"
