"""The artifacts of this project and of the tutorial, built for this machine, and processes that run them."""

import json
import os
import platform
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from deploy.build import RUNTIME, build, runtime_python
from tests.support.environments import ROOT

OURS, TUTORIAL = "ours", "tutorial"
LAMBDA = Path(__file__).parent / "runtime.py"
PYTHON = runtime_python()
# The packages that the tutorial imports. All other packages have the versions of this project.
TUTORIAL_REQUIREMENTS = ("fastapi", "mangum", "sqlalchemy", "pg8000")
TEMPLATE = f"""
Transform: AWS::Serverless-2016-10-31
Resources:
  Tutorial:
    Type: AWS::Serverless::Function
    Properties:
      CodeUri: source
      Handler: app.handler
      Runtime: python{RUNTIME}
"""


class Artifact(NamedTuple):
    """A folder with the code, and the module of the handler."""

    folder: Path
    module: str


def build_ours(folder: Path) -> Artifact:
    """Build this project as it is deployed, but for this machine's processor."""
    build(folder, "arm64" if platform.machine() in ("arm64", "aarch64") else "x86_64")
    return Artifact(folder, "handler.main")


def build_tutorial(folder: Path) -> Artifact:
    """Build the tutorial as `sam build` does: the packages of its requirements.txt, and no bytecode."""
    source = folder / "source"
    source.mkdir(parents=True)
    shutil.copy(ROOT / "benchmarks" / "peers" / "tutorial.py", source / "app.py")
    pins = re.findall(r"^\S+==[^\s;\\]+", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    (folder / "constraints.txt").write_text("\n".join(pins))
    lines = [f"-c {folder / 'constraints.txt'}", *TUTORIAL_REQUIREMENTS]
    (source / "requirements.txt").write_text("\n".join(lines))
    (folder / "template.yaml").write_text(TEMPLATE)
    # SAM uses the pip of the runtime's Python, which it finds in PATH.
    path = f"{Path(PYTHON).parent}{os.pathsep}{os.environ['PATH']}"
    sam = shutil.which("sam", path=f"{ROOT / '.venv-sam' / 'bin'}{os.pathsep}{path}")
    assert sam, "the SAM CLI is not installed: make bench-cold installs it"
    template, build = str(folder / "template.yaml"), str(folder / "build")
    _run(sam, "build", "--template", template, "--build-dir", build, PATH=path, SAM_CLI_TELEMETRY="0")
    return Artifact(folder / "build" / "Tutorial", "app")


def _run(*command: str, **environ: str) -> None:
    done = subprocess.run(command, env=os.environ | environ, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[:4])} failed: {done.stderr[-2000:]}")


class Process:
    """A Lambda environment that has just started. `started` is its start in seconds of time.monotonic()."""

    def __init__(self, artifact: Artifact, environ: dict[str, str], *options: str) -> None:
        command = [PYTHON, "-I", "-S", "-B", *options, str(LAMBDA), str(artifact.folder), artifact.module]
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed by end()
        self.started = time.monotonic()
        self._process = subprocess.Popen(
            command, env=environ, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log
        )

    def request(self, event: dict[str, Any], status: int) -> dict[str, Any]:
        """Return the report of runtime.py. Raises RuntimeError if the process has ended, or for another status."""
        assert self._process.stdin
        assert self._process.stdout
        line = ""
        with suppress(BrokenPipeError):
            print(json.dumps(event), file=self._process.stdin, flush=True)
            line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the function ended: {self.end()[-2000:]}")
        found: dict[str, Any] = json.loads(line)
        if found["status"] != status:
            raise RuntimeError(f"{event['rawPath']}: {found['status']} {found['body']}")
        return found

    def end(self) -> str:
        """End the process, and return its standard error."""
        if self._log.closed:
            return ""
        with suppress(BrokenPipeError):
            self._process.communicate()
        self._log.seek(0)
        with self._log:
            return self._log.read()


@contextmanager
def started(artifact: Artifact, environ: dict[str, str], *options: str) -> Iterator[Process]:
    """Start a process whose environment variables are `environ`. `options` are options of Python."""
    process = Process(artifact, environ, *options)
    try:
        yield process
    finally:
        process.end()
