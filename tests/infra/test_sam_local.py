"""`sam local` with the built function in its container, on a PostgreSQL of this machine: `make sam-local-test`."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from deploy.smoke import OPENAPI, creation
from tests.infra.conftest import ROOT
from tests.support.database import free_port
from tests.support.event_files import FILES, check_event, name_of

if "SAM_LOCAL_TEST" not in os.environ:
    pytest.skip("needs a Docker engine, and minutes: make sam-local-test", allow_module_level=True)

TIMEOUT = 120  # seconds; the first time SAM pulls an image
LOCAL = [sys.executable, "-m", "deploy.sam"]


@contextmanager
def start_api(log: Path, database_url: str) -> Iterator[httpx.Client]:
    port = free_port()
    with log.open("wb") as output:
        environment = os.environ | {"PORT": str(port), "DATABASE_URL": database_url}
        process = subprocess.Popen([*LOCAL, "start-api"], cwd=ROOT, env=environment, stdout=output, stderr=output)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=TIMEOUT, trust_env=False) as client:
            deadline = time.monotonic() + TIMEOUT
            while f"Running on {str(client.base_url).rstrip('/')}" not in log.read_text(errors="replace"):
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.2)
            yield client
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(TIMEOUT)


@pytest.fixture(scope="module")
def client(worker_database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    with start_api(tmp_path_factory.mktemp("sam") / "log.txt", worker_database) as client:
        yield client


def test_an_entity_is_created_read_and_deleted(client: httpx.Client) -> None:
    example = creation(json.loads(OPENAPI.read_text()))
    if example is None:
        pytest.skip("no resource can be created, read and deleted")
    made, again = (client.post(example.path, json=example.body, headers={"Idempotency-Key": "key"}) for _ in range(2))
    assert made.status_code == 201
    assert (again.status_code, again.json()) == (201, made.json())
    path = made.headers["location"]
    assert client.get(path).json() == made.json()
    assert client.delete(path).status_code == 204
    gone = client.get(path)
    assert (gone.status_code, gone.headers["content-type"]) == (404, "application/problem+json")


def test_every_path_and_method_reaches_the_function(client: httpx.Client) -> None:
    assert client.get("/").status_code == 404
    assert client.get("/nothing/at/all").headers["content-type"] == "application/problem+json"
    assert client.post("/health/live").status_code == 405
    assert client.get("/openapi.json").json()["info"]


def test_one_container_keeps_one_connection(client: httpx.Client, database: Any) -> None:
    statement = (
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND backend_type = 'client backend'"
    )
    seen = []
    for _ in range(5):
        assert client.get("/health/ready").status_code == 200
        seen.append(database.run(statement))
    assert seen == seen[:1] * 5


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_every_event_is_handled_by_an_invocation(path: Path, database: Any, tmp_path: Path) -> None:
    def function(event: Any) -> Any:
        sent = tmp_path / path.name
        sent.write_text(json.dumps(event))
        for _ in range(4):
            returned = invoke(sent)
            if not isinstance(returned, dict) or returned.get("statusCode") != 503:
                break  # 503: a cold start on a busy machine left no time for the database, and nothing was stored
        return returned

    check_event(path, function, database)


def invoke(path: Path) -> Any:
    """The function's response to the event in `path`, from a container of its own."""
    command = [*LOCAL, "invoke", "ApiFunction", "--event", str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=TIMEOUT)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
