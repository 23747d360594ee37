"""The README's commands give the README's answers."""

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

from tests.local.test_run import project, running
from tests.support.database import temporary_database

__all__ = ["project"]

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
CONSOLE = "".join(re.findall(r"```console\n(.*?)```", README, re.DOTALL))
PAIRS = re.findall(r"^\$ (.*)\n((?:[^$].*\n)*)", CONSOLE, re.MULTILINE)
CHANGING = ("created_at", "updated_at", "request_id")


def test_the_requests_give_the_answers_that_are_shown(project: Path, server_url: str) -> None:
    assert len(PAIRS) >= 6
    with temporary_database(server_url, f"readme_{os.getpid()}") as url, running(project, DATABASE_URL=url) as run:
        for command, shown in PAIRS:
            here = command.replace("http://127.0.0.1:8000", str(run.client.base_url).rstrip("/"))
            done = subprocess.run(["bash", "-c", here], capture_output=True, text=True, check=True)
            assert without_changing(done.stdout) == without_changing(shown), command


def without_changing(text: str) -> Any:
    return json.loads(text, object_hook=lambda found: {k: v for k, v in found.items() if k not in CHANGING})


def test_every_make_target_that_is_named_exists_and_is_in_the_help() -> None:
    named = set(re.findall(r"`?make ([a-z][a-z-]*)", README))
    listed = re.search(r"lists them: (.*?)\.\s`python", README, re.DOTALL)
    assert listed
    named |= set(re.findall(r"`([a-z-]+)`", listed[1]))
    output = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert set(re.findall(r"make ([a-z-]+)", output)) == named


def test_the_limits_that_are_stated_are_those_of_the_code() -> None:
    from handler.app import MAX_BODY
    from handler.items.models import DESCRIPTION_LENGTH, NAME_LENGTH

    limits = f"1 to {NAME_LENGTH} characters and is not blank, a description at most {DESCRIPTION_LENGTH:,}"
    assert limits in README
    assert f"a body at most {MAX_BODY // 1024} KiB" in README


def test_every_file_of_the_layout_is_there() -> None:
    layout = re.search(r"```text\n(.*?)```", README, re.DOTALL)
    assert layout
    parents = [ROOT]
    for line in layout[1].splitlines():
        depth, name = (len(line) - len(line.lstrip())) // 2, line.split()[0]
        path = parents[depth] / name
        assert path.exists(), line
        parents[depth + 1 :] = [path]


def test_every_module_of_handler_is_in_the_layout() -> None:
    layout = re.search(r"```text\n(.*?)```", README, re.DOTALL)
    assert layout
    for path in (ROOT / "handler").rglob("*.py"):
        depth = len(path.relative_to(ROOT).parts) - 1
        if path.name != "__init__.py" and not {"items", "migrations"} & {*path.parts}:
            assert f"\n{'  ' * depth}{path.name} " in layout[1], path
