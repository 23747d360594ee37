"""`make run` as a process of its own, in a copy of the project."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from tests.support.database import free_port
from tests.support.probe_project import add_probe

ROOT = Path(__file__).parents[2]
RUN = [sys.executable, "-m", "local.run"]
TIMEOUT = 180  # seconds; on a machine that is busy with other tests


def make_template(folder: Path) -> Path:
    """What `make run` needs of the project, with the tests' own resource beside the others, in `folder`.

    It has the bytecode of its modules, and a migrated database in `.local`.
    """
    for name in ("handler", "local"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    add_probe(folder)
    subprocess.run([sys.executable, "-m", "compileall", "-q", "handler", "local"], cwd=folder, check=True)
    migrate = ["-m", "local.postgres", sys.executable, "-m", "handler.migrate"]
    subprocess.run([sys.executable, *migrate], cwd=folder, env=environment(), capture_output=True, check=True)
    return folder


def copy_template(template: Path, folder: Path, *, with_database: bool = False) -> Path:
    """A project as a developer has it, in `folder`. With the database, `make run` was used in it before."""
    for name in ("handler", "local", *([".local"] if with_database else [])):
        # With the times, by which Python knows that the bytecode is of these files, and the owner of the cluster.
        subprocess.run(["cp", "-a", str(template / name), str(folder)], check=True)
    return folder


def environment(**changes: str) -> dict[str, str]:
    """A developer's: without what the test run has set. Coverage measures nothing in a copy of the project."""
    ours = ("DATABASE_URL", "AUTH_MODE", "COVERAGE_")
    return {k: v for k, v in os.environ.items() if not k.startswith(ours)} | changes


@dataclass
class Running:
    process: "subprocess.Popen[str]"
    output: list[str]
    client: httpx.Client
    first: httpx.Response | None = None

    def wait_for(self, path: str, text: str) -> httpx.Response:
        deadline = time.monotonic() + TIMEOUT
        while True:
            with suppress(httpx.HTTPError):
                response = self.client.get(path)
                self.first = self.first or response
                if text in response.text:
                    return response
            assert time.monotonic() < deadline
            assert self.process.poll() is None, self.output
            time.sleep(0.05)

    def wait_for_output(self, text: str) -> None:
        deadline = time.monotonic() + TIMEOUT
        while text not in "".join(self.output):
            assert time.monotonic() < deadline, self.output
            time.sleep(0.05)

    def descendants(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)


@contextmanager
def running(project: Path, until: str = "ok", **changes: str) -> Iterator[Running]:
    """`make run` in `project`, from when its response has the text `until`. Then it ends, and leaves no process."""
    port = free_port()
    process = subprocess.Popen(
        RUN,
        cwd=project,
        env=environment(PORT=str(port), **changes),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert process.stdout is not None
    output: list[str] = []
    reader = threading.Thread(target=lambda: output.extend(process.stdout or ()))
    reader.start()
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=TIMEOUT) as client:
        run = Running(process, output, client)
        try:
            run.wait_for("/health/live", until)
            if until == "ok":
                run.wait_for_output("Stop with")  # the end of the banner, which may come after the first response
            yield run
        finally:
            children = run.descendants() if process.poll() is None else []
            process.send_signal(signal.SIGINT)
            process.wait(TIMEOUT)
            reader.join()
            process.stdout.close()
            _, alive = psutil.wait_procs(children, timeout=TIMEOUT)
            assert not alive, "a process still runs"


def refused(project: Path, **changes: str) -> str:
    changes = {"PORT": str(free_port())} | changes
    done = subprocess.run(
        RUN, cwd=project, env=environment(**changes), capture_output=True, text=True, timeout=TIMEOUT, check=False
    )
    assert done.returncode == 1
    assert not done.stdout
    return done.stderr


def servers(folder: Path) -> list[psutil.Process]:
    """The processes of `make run` and of PostgreSQL that belong to the project in `folder`."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            command = " ".join(process.cmdline())
            if "local." in command or "postgres" in command:
                places = [process.cwd(), *process.environ().values()]
                if any(place.startswith(str(folder)) for place in places):
                    found.append(process)
    return found


def wait_for_curl(port: str, text: str) -> dict[str, str]:
    deadline = time.monotonic() + TIMEOUT
    while True:
        command = ["curl", "-s", f"http://127.0.0.1:{port}/health/live"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
        if text in done.stdout:
            return dict(json.loads(done.stdout))
        assert time.monotonic() < deadline, done.stdout
        time.sleep(0.05)


@contextmanager
def started(folder: Path, **changes: str) -> Iterator["subprocess.Popen[str]"]:
    """`make run` in `folder`, after it has started to serve."""
    port = str(free_port())
    process = subprocess.Popen(
        RUN,
        cwd=folder,
        env=environment(PORT=port, **changes),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        wait_for_curl(port, "ok")
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=TIMEOUT)
