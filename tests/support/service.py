"""The service that `make run` starts, and clients of its contract."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from local.openapi import PATH
from tests.support.database import free_port, temporary_database

ROOT = Path(__file__).parents[2]
PROGRAMS = Path(sys.executable).parent
TIMEOUT = 300  # seconds
PACKAGE = "generated_client"
READY = "Stop with"  # the last line that `make run` prints when it serves


@contextmanager
def running_service(server_url: str, folder: Path) -> Iterator[str]:
    """The address of a service as `make run` starts it, with a database of its own. The log is written to `folder`."""
    port, log = str(free_port()), folder / "output.txt"
    with temporary_database(server_url, f"consumers_{os.getpid()}") as database, log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "local.run"],
            cwd=ROOT,
            env=os.environ | {"PORT": port, "DATABASE_URL": database, "AUTH_MODE": "none"},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            deadline = time.monotonic() + TIMEOUT
            while READY not in log.read_text():
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.05)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(TIMEOUT)


def run_program(folder: Path, program: str, *arguments: str) -> str:
    """Run a program of the virtual environment in `folder`, and return its output. If it fails, the test fails."""
    path = os.pathsep.join([str(PROGRAMS), os.environ["PATH"]])
    done = subprocess.run(
        [program, *arguments],
        cwd=folder,
        env=os.environ | {"PATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@contextmanager
def generated_client(url: str, folder: Path) -> Iterator[Any]:
    """A client that openapi-python-client generates from the committed contract. Its package can be imported."""
    generate = ["generate", "--path", str(PATH), "--meta", "none", "--output-path", str(folder / PACKAGE)]
    run_program(folder, "openapi-python-client", *generate, "--fail-on-warning")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        with import_module(PACKAGE).AuthenticatedClient(base_url=url, token="of-no-caller") as client:
            yield client
