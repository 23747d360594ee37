"""The built artifact with Lambda's runtime client and emulator, and no other package in the process.

The emulator is a Linux program in the SAM CLI's wheel, and needs no Docker. SnapStart and the sandbox are not tested.
"""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import dropwhile
from pathlib import Path
from typing import Any

import httpx
import pytest

from local.events import http_event
from tests.infra.conftest import HOST_ARCHITECTURE, ROOT, unavailable
from tests.infra.template.cloudformation import load
from tests.support.database import connect, free_port, temporary_database
from tests.support.event_files import FILES, check_event, name_of
from tests.support.resources import shipped_tables

INVOCATIONS = "/2015-03-31/functions/function/invocations"
TIMEOUT = 60  # seconds; on a machine that is busy with other tests
# As Lambda's bootstrap does. With -S (no site) and -I (no environment variables), no other package can be imported.
BOOTSTRAP = "import sys; sys.path[:0] = sys.argv[1:3]; del sys.argv[1:3]; "
RUNTIME_CLIENT = BOOTSTRAP + "from awslambdaric.__main__ import main; main(sys.argv)"
# The same with a folder of the test, which has the function's module.
OWN_RUNTIME_CLIENT = "import sys; sys.path.append(sys.argv.pop(1)); " + RUNTIME_CLIENT
OWN_ROUTE = """
import logging
from handler.main import app, handler

logger = logging.getLogger("orders")

@app.get("/logs/")
def write_logs() -> None:
    logger.debug("the stock is %d", 7)
    logger.info("stored")
"""
MIGRATE = BOOTSTRAP + "from handler.migrate import main; main()"


@pytest.fixture(scope="module")
def artifact(build: Callable[..., Path]) -> Path:
    return build(HOST_ARCHITECTURE)


@pytest.fixture(scope="module")
def client_library(once: Callable[..., Path]) -> Path:
    """The runtime client for the function's Python, in a folder of its own, as Lambda has it in /var/runtime."""
    code = (
        "import sys; from pathlib import Path; from deploy.build import install; "
        f"install(Path('requirements-runtime.txt'), Path(sys.argv[1]), '{HOST_ARCHITECTURE}')"
    )
    return once("awslambdaric", sys.executable, "-c", code, "")


@pytest.fixture(scope="module")
def emulator() -> Path:
    found = [*ROOT.glob(f".venv-sam/lib/*/site-packages/samcli/local/rapid/aws-lambda-rie-{HOST_ARCHITECTURE}")]
    if sys.platform != "linux":
        pytest.skip("the runtime interface emulator is a Linux program")
    if not found:
        unavailable("the SAM CLI, which ships the runtime interface emulator, is not installed: make check installs it")
    return found[0]


@contextmanager
def serving(command: list[str], artifact: Path, log: Path, **variables: str) -> Iterator[httpx.Client]:
    """Run the emulator with the runtime `command`, which has only the function's environment variables."""
    port, runtime_port = free_port(), free_port()
    addresses = ["--runtime-interface-emulator-address", f"127.0.0.1:{port}"]
    addresses += ["--runtime-api-address", f"127.0.0.1:{runtime_port}"]
    environment = {
        "DATABASE_URL": os.environ["DATABASE_URL"],
        "AUTH_MODE": "none",
        "AWS_LAMBDA_FUNCTION_TIMEOUT": "10",
        "AWS_LAMBDA_LOG_FORMAT": "JSON",
        **variables,
    }
    with log.open("wb") as output:
        process = subprocess.Popen(
            [command[0], *addresses, *command[1:]],
            cwd=artifact, env=environment, stdout=output, stderr=output, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=TIMEOUT, trust_env=False) as client:
            yield client
    finally:
        process.terminate()  # the emulator ends the runtime
        process.wait(TIMEOUT)


@pytest.fixture(scope="module")
def function(
    artifact: Path, client_library: Path, emulator: Path, runtime: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[Any], Any]]:
    """Invokes the artifact's function with an event, and returns its response."""
    log = tmp_path_factory.mktemp("runtime") / "log.txt"
    command = [str(emulator), runtime, "-I", "-S", "-c", RUNTIME_CLIENT, str(artifact), str(client_library)]
    with serving([*command, "handler.main.handler"], artifact, log) as client:
        yield lambda event: invoke(client, event, log)


def invoke(client: httpx.Client, event: Any, log: Path) -> Any:
    deadline = time.monotonic() + TIMEOUT
    while True:
        try:
            return client.post(INVOCATIONS, content=json.dumps(event)).json()
        except httpx.ConnectError:  # not listening yet
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_every_event_is_handled(path: Path, function: Callable[[Any], Any], database: Any) -> None:
    check_event(path, function, database)


@pytest.mark.parametrize(
    ("level", "messages"), [("DEBUG", ["the stock is 7", "stored"]), ("INFO", ["stored"]), ("WARNING", [])]
)
def test_the_application_s_records_are_json_with_the_request_id_by_log_level(  # noqa: PLR0913, PLR0917 - fixtures
    level: str,
    messages: list[str],
    artifact: Path,
    client_library: Path,
    emulator: Path,
    runtime: str,
    tmp_path: Path,
) -> None:
    (tmp_path / "own_route.py").write_text(OWN_ROUTE)
    log = tmp_path / "log.txt"
    folders = [str(tmp_path), str(artifact), str(client_library)]
    command = [str(emulator), runtime, "-I", "-S", "-c", OWN_RUNTIME_CLIENT, *folders, "own_route.handler"]
    # Lambda sets the variable to the function's ApplicationLogLevel.
    function = load("template.yaml")["Resources"]["ApiFunction"]["Properties"]
    lambda_level = function["LoggingConfig"]["ApplicationLogLevel"]
    with serving(command, artifact, log, LOG_LEVEL=level, AWS_LAMBDA_LOG_LEVEL=lambda_level) as client:
        for _ in range(2):
            response = invoke(client, http_event("GET", "/logs/", "", [], b""), log)
            assert response["statusCode"] == 200, log.read_text()
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    requests = [line["requestId"] for line in lines if "Requests" in line]
    assert len(set(requests)) == 2
    found = [(line["requestId"], line["message"]) for line in lines if line.get("logger") == "orders"]
    assert found == [(request, message) for request in requests for message in messages]
    during_requests = dropwhile(lambda line: not line["requestId"], lines)  # before them, the start has records too
    assert {line["requestId"] for line in during_requests} == set(requests)


def test_the_artifact_migrates_an_empty_database(artifact: Path, runtime: str, server_url: str) -> None:
    with temporary_database(server_url, f"artifact_{os.getpid()}") as url:
        command = [runtime, "-I", "-S", "-c", MIGRATE, str(artifact), str(artifact)]
        done = subprocess.run(command, env={"DATABASE_URL": url}, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        with connect(url) as connection:
            rows = connection.run("SELECT tablename::text FROM pg_tables WHERE schemaname = 'public'")
        assert {name for (name,) in rows} == {"alembic_version", *shipped_tables()}


# ------------------------------------------------------------------------------------------------- Several workers

WORKERS = 4


class RuntimeApi(ThreadingHTTPServer):
    """Lambda's Runtime API for several workers: it sends the next event when every worker has asked for one.

    Lambda developer guide, "Using the Lambda runtime API". The emulator serves one request at a time.
    """

    daemon_threads = True

    def __init__(self, event: bytes) -> None:
        super().__init__(("127.0.0.1", 0), RuntimeApiRequest)
        self.event = event
        self.everyone_asks = threading.Barrier(WORKERS)
        self.responses: queue.Queue[Any] = queue.Queue()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A worker that was killed at the end of the test has closed its connection."""

    def round(self) -> list[Any]:
        """The responses of every worker to the event."""
        return [self.responses.get(timeout=TIMEOUT) for _ in range(WORKERS)]


class RuntimeApiRequest(BaseHTTPRequestHandler):
    server: RuntimeApi
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """`/2018-06-01/runtime/invocation/next`."""
        with suppress(threading.BrokenBarrierError):
            self.server.everyone_asks.wait()
            self.send_response(200)
            self.send_header("Lambda-Runtime-Aws-Request-Id", str(uuid.uuid4()))
            self.send_header("Lambda-Runtime-Deadline-Ms", str(int((time.time() + TIMEOUT) * 1000)))
            self.send_header("Lambda-Runtime-Invoked-Function-Arn", "arn:aws:lambda:eu-west-1:123456789012:function:f")
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(self.server.event)))
            self.end_headers()
            self.wfile.write(self.server.event)

    def do_POST(self) -> None:
        """`/2018-06-01/runtime/invocation/ID/response`, `…/error` or `/2018-06-01/runtime/init/error`."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.responses.put(json.loads(body))
        self.send_response(202)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name of the method that is replaced
        pass


@contextmanager
def workers(api: RuntimeApi, artifact: Path, client_library: Path, runtime: str, log: Path) -> Iterator[None]:
    """The artifact under awslambdaric as on Lambda Managed Instances, with a process for each concurrent request."""
    url = os.environ["DATABASE_URL"]
    environment = {
        "DATABASE_URL": f"{url}{'&' if '?' in url else '?'}application_name=workers",
        "AUTH_MODE": "none",
        "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{api.server_port}",
        "AWS_LAMBDA_MAX_CONCURRENCY": str(WORKERS),
        "AWS_LAMBDA_FUNCTION_TIMEOUT": "10",
        "AWS_LAMBDA_LOG_FORMAT": "JSON",
    }
    command = [runtime, "-I", "-S", "-c", RUNTIME_CLIENT, str(artifact), str(client_library), "handler.main.handler"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=artifact, env=environment, stdout=output, stderr=output, stdin=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
    thread = threading.Thread(target=api.serve_forever)
    thread.start()
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # the workers too
        process.wait(TIMEOUT)
        api.everyone_asks.abort()
        api.shutdown()
        thread.join()
        api.server_close()


def test_each_worker_of_an_environment_has_one_connection_of_its_own(
    artifact: Path, client_library: Path, runtime: str, database: Any, tmp_path: Path
) -> None:
    """Therefore the connection budget is environments x processes x pool size (docs/adr/0045)."""

    def connections() -> set[int]:
        rows = database.run("SELECT pid FROM pg_stat_activity WHERE application_name = 'workers'")
        return {pid for (pid,) in rows}

    api = RuntimeApi((ROOT / "events" / "health-ready.json").read_bytes())
    with workers(api, artifact, client_library, runtime, tmp_path / "log.txt"):
        assert [one.get("statusCode", one) for one in api.round()] == [200] * WORKERS
        first = connections()
        assert len(first) == WORKERS
        assert [one.get("statusCode", one) for one in api.round()] == [200] * WORKERS
        assert connections() == first
