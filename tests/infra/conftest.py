"""The artifact. The first worker that needs it builds it with the recipe of the Makefile, once for the test run."""

import fcntl
import os
import platform
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from deploy.build import BuildError, runtime_python

ROOT = Path(__file__).parents[2]
HOST_ARCHITECTURE = "arm64" if platform.machine() in ("arm64", "aarch64") else "x86_64"


def unavailable(reason: str) -> None:
    """Skip the test, or fail it if REQUIRE_SYSTEM_PROGRAMS is set (.ci/run)."""
    if "REQUIRE_SYSTEM_PROGRAMS" in os.environ:
        pytest.fail(f"{reason}, and REQUIRE_SYSTEM_PROGRAMS is set")
    pytest.skip(reason)


@pytest.fixture(scope="session")
def runtime() -> str:
    """A Python of the function's minor version."""
    try:
        return runtime_python()
    except BuildError as error:
        unavailable(str(error))
        raise


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory, runtime: str) -> Callable[..., Path]:
    """Run a command whose last argument is a new folder, once for all workers, and return the folder."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent

    def run(name: str, *command: str) -> Path:
        folder = shared / name
        with (shared / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not folder.exists():
                folder.mkdir()
                shell = [*command[:-1], command[-1] + str(folder)]
                environment = os.environ | {"BUILD_PYTHON": runtime}
                done = subprocess.run(shell, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
                if done.returncode:
                    folder.rmdir()
                    if "no package index in reach" in done.stderr:
                        unavailable(f"the artifact cannot be built: {done.stderr[-500:]}")
                    pytest.fail(done.stdout + done.stderr)
        return folder

    return run


@pytest.fixture(scope="session")
def build(once: Callable[..., Path]) -> Callable[..., Path]:
    """Build the function and return its folder. Each `name` is a separate build; `umask` is that of the build."""

    def make(architecture: str, name: str = "artifact", umask: str = "022") -> Path:
        recipe = f'umask {umask}; make --silent build-ApiFunction ARCHITECTURE={architecture} ARTIFACTS_DIR="$0"'
        return once(f"{name}-{architecture}", "sh", "-c", recipe, "")

    return make
