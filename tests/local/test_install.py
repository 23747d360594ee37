"""`make setup` and what `make run` installs: pinned files, one after the other, into one environment."""

import ast
import hashlib
import os
import re
import signal
import subprocess
import sys
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TIMEOUT = 180  # seconds
PROVIDED_BY_LAMBDA = {"snapshot_restore_py"}
INSTALL = [sys.executable, "-m", "local.install"]


def pins(name: str) -> dict[str, str]:
    found = re.findall(r"^([\w.-]+)==(\S+)", (ROOT / name).read_text(), re.MULTILINE)
    return {name.replace("-", "_").lower(): version for name, version in found}


def imports(file: Path) -> set[str]:
    """The top-level names that a module imports, also those within functions."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").partition(".")[0])
    return found


def test_make_run_installs_what_is_deployed_and_what_local_imports_in_the_versions_of_the_tests() -> None:
    deployed, run, tools = pins("requirements.txt"), pins("requirements-local.txt"), pins("requirements-dev.txt")
    assert deployed.items() <= run.items() <= tools.items()
    distributions = packages_distributions()
    for folder in ("handler", "local"):
        for file in (ROOT / folder).rglob("*.py"):
            others = imports(file) - sys.stdlib_module_names - {"handler", "local"} - PROVIDED_BY_LAMBDA
            names = {distributions[name][0].replace("-", "_").lower() for name in others}
            assert names <= run.keys(), file


@pytest.mark.parametrize("target", ["run", "debug", "token", "psql", "seed", "reset", "migrate"])
def test_what_serves_installs_no_tools(target: str) -> None:
    assert installed_files(target) == ["requirements-local.txt"]


def test_tests_install_their_tools_into_the_environment_of_make_run() -> None:
    assert installed_files("test", "ARGS=-k nothing") == ["requirements-local.txt", "requirements-dev.txt"]


def installed_files(*arguments: str) -> list[str]:
    """The pinned files that make would install without an environment."""
    command = ["make", "--dry-run", "VENV=.venv-that-is-not-there", *arguments]
    recipes = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return re.findall(r"^(?!test ).*-m local\.install .*(requirements\S+)", recipes, re.MULTILINE)


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    """A folder with a package that pip can install without an index."""
    folder = tmp_path / "packages"
    folder.mkdir()
    with zipfile.ZipFile(folder / "lamp-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("lamp.py", "is_on = True")
        wheel.writestr("lamp-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: lamp\nVersion: 1.0\n")
        wheel.writestr("lamp-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr("lamp-1.0.dist-info/RECORD", "")
    return folder


def start(packages: Path, file: Path, *options: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [*INSTALL, *options, str(packages.parent / "environment" / "stamp"), str(file), "a lamp"],
        cwd=ROOT,
        env=os.environ | {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(packages)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def test_an_interrupted_or_failed_install_is_repeated_once_by_two_commands_at_once(packages: Path) -> None:
    (wheel,) = packages.iterdir()
    file, stamp = packages.parent / "requirements-lamp.txt", packages.parent / "environment" / "stamp"
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    file.write_text(f"lamp==1.0 \\\n    --hash=sha256:{digest[::-1]}\n")

    interrupted = start(packages, file, "--create")
    assert interrupted.stdout
    assert interrupted.stdout.readline() == f"setup: installing a lamp into {stamp.parent}, once\n"
    os.killpg(interrupted.pid, signal.SIGINT)  # as Ctrl-C does
    assert interrupted.communicate(timeout=TIMEOUT) == ("", "")
    assert interrupted.returncode
    assert not stamp.exists()

    failed = start(packages, file, "--create")
    _, error_output = failed.communicate(timeout=TIMEOUT)
    assert failed.returncode
    assert "DO NOT MATCH THE HASHES" in error_output
    assert not stamp.exists()

    file.write_text(file.read_text().replace(digest[::-1], digest))
    both = [start(packages, file), start(packages, file)]
    outputs = [one.communicate(timeout=TIMEOUT) for one in both]
    assert [one.returncode for one in both] == [0, 0], outputs
    assert sorted(output.count("installing") for output, _ in outputs) == [0, 1]
    python = stamp.parent / "bin" / "python"
    subprocess.run([python, "-c", "import lamp; assert lamp.is_on"], check=True)
    assert start(packages, file).communicate(timeout=TIMEOUT) == ("", "")


def test_the_environment_is_created_again_only_where_the_pinned_tools_have_changed(tmp_path: Path) -> None:
    log, python = tmp_path / "log", tmp_path / "python"
    python.write_text(f'#!/bin/sh\necho "$*" >> {log}\n')
    python.chmod(0o755)
    stamps = [tmp_path / "environment" / name for name in ("run", "ready")]
    stamps[0].parent.mkdir()

    def calls(*existing: str, outdated: bool) -> list[list[str]]:
        """The installer's arguments. With `outdated`, the stamp of the tools is older than their pinned versions."""
        for stamp in stamps:
            stamp.unlink(missing_ok=True)
            if stamp.name in existing:
                stamp.touch()
        pinned = (ROOT / "requirements-dev.txt").stat().st_mtime
        if outdated:
            os.utime(stamps[1], (pinned - 10, pinned - 10))
        log.write_text("")
        command = ["make", "setup", f"PYTHON={python}", f"VENV={stamps[0].parent}"]
        subprocess.run(command, cwd=ROOT, check=True)
        return [line.split()[2:-1] for line in log.read_text().splitlines() if "local.install" in line]

    create = ["--create", str(stamps[0]), "requirements-local.txt"]
    tools = ["--compile", str(stamps[1]), "requirements-dev.txt"]
    for existing, outdated, expected in (
        ((), False, [create, tools]),
        (("run",), False, [tools]),
        (("run", "ready"), False, []),
        (("run", "ready"), True, [create, tools]),
    ):
        assert [one[:3] for one in calls(*existing, outdated=outdated)] == expected
