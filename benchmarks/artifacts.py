"""What would be deployed, ours and the tutorial's, for this machine's Python; and processes that run it."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
RUNTIME = Path(__file__).parent / "runtime.py"
PYTHON = f"python{sys.version_info.major}.{sys.version_info.minor}"
PIP_INSTALL = (
    *(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
    *("--require-hashes", "--no-deps", "--only-binary", ":all:", "--no-compile"),
)
# What the tutorial imports. The versions of all else are ours too.
TUTORIAL_REQUIREMENTS = ("fastapi", "mangum", "sqlalchemy", "pg8000")
TEMPLATE = f"""
Transform: AWS::Serverless-2016-10-31
Resources:
  Tutorial:
    Type: AWS::Serverless::Function
    Properties:
      CodeUri: source
      Handler: app.handler
      Runtime: {PYTHON}
"""


class Artifact(NamedTuple):
    """A folder with the code, and the module in it that has the handler."""

    folder: Path
    module: str


def build_ours(folder: Path) -> Artifact:
    """As build-ApiFunction of the Makefile builds it, for this machine instead of Lambda's."""
    _run(*PIP_INSTALL, "--target", str(folder), "-r", str(ROOT / "requirements.txt"))
    shutil.rmtree(folder / "bin", ignore_errors=True)
    shutil.copytree(ROOT / "handler", folder / "handler", ignore=shutil.ignore_patterns("__pycache__"))
    compile_all(folder)
    return Artifact(folder, "handler.main")


def build_tutorial(folder: Path) -> Artifact:
    """As `sam build` builds it: what its requirements.txt names, and no bytecode."""
    source = folder / "source"
    source.mkdir(parents=True)
    shutil.copy(ROOT / "benchmarks" / "peers" / "tutorial.py", source / "app.py")
    pins = re.findall(r"^\S+==[^\s;\\]+", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    (folder / "constraints.txt").write_text("\n".join(pins))
    lines = [f"-c {folder / 'constraints.txt'}", *TUTORIAL_REQUIREMENTS]
    (source / "requirements.txt").write_text("\n".join(lines))
    (folder / "template.yaml").write_text(TEMPLATE)
    # SAM looks for the runtime's Python in PATH, and uses its pip.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    sam = shutil.which("sam", path=f"{ROOT / '.venv-sam' / 'bin'}{os.pathsep}{path}")
    assert sam, "the SAM CLI is not here: make bench-cold installs it"
    template, build = str(folder / "template.yaml"), str(folder / "build")
    _run(sam, "build", "--template", template, "--build-dir", build, PATH=path, SAM_CLI_TELEMETRY="0")
    return Artifact(folder / "build" / "Tutorial", "app")


def compile_all(folder: Path) -> None:
    """Bytecode that is never compared with its source."""
    options = ("-q", "--invalidation-mode", "unchecked-hash", "-s", str(folder), "-p", "/var/task")
    _run(sys.executable, "-m", "compileall", *options, str(folder))


def _run(*command: str, **environ: str) -> None:
    done = subprocess.run(command, env=os.environ | environ, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[:4])} failed: {done.stderr[-2000:]}")


class Process:
    """An environment of Lambda's that has just started; `started` is the moment, of time.monotonic()."""

    def __init__(self, artifact: Artifact, environ: dict[str, str], *options: str) -> None:
        command = [sys.executable, "-I", "-S", "-B", *options, str(RUNTIME), str(artifact.folder), artifact.module]
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed by end()
        self.started = time.monotonic()
        self._process = subprocess.Popen(
            command, env=environ, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log
        )

    def answer(self, event: dict[str, Any]) -> dict[str, Any]:
        """What runtime.py says of the answer. Raises RuntimeError when the process has ended."""
        assert self._process.stdin
        assert self._process.stdout
        line = ""
        try:
            print(json.dumps(event), file=self._process.stdin, flush=True)
            line = self._process.stdout.readline()
        except BrokenPipeError:
            pass
        if not line:
            self._process.wait()
            self._log.seek(0)
            raise RuntimeError(f"the function ended: {self._log.read()[-2000:]}")
        said: dict[str, Any] = json.loads(line)
        return said

    def end(self) -> str:
        """What it wrote to standard error, all of it once it has ended."""
        self._process.communicate()
        self._log.seek(0)
        with self._log:
            return self._log.read()


@contextmanager
def started(artifact: Artifact, environ: dict[str, str], *options: str) -> Iterator[Process]:
    """A new process with nothing but `environ` in its environment; `options` are Python's."""
    process = Process(artifact, environ, *options)
    try:
        yield process
    finally:
        process.end()
