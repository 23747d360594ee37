"""The requests, the route, the layout and the files that the README and the documentation show exist."""

import inspect
import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from handler.items import routes
from tests.support.database import temporary_database
from tests.support.make_run import running

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("docs/adr/*.md")]
CONSOLE = "".join(re.findall(r"```console\n(.*?)```", README, re.DOTALL))
PAIRS = re.findall(r"^\$ (.*)\n((?:[^$].*\n)*)", CONSOLE, re.MULTILINE)
CHANGING = ("created_at", "updated_at", "request_id")


def test_the_requests_get_the_responses_that_are_shown(project: Path, server_url: str) -> None:
    assert len(PAIRS) == 3
    with temporary_database(server_url, f"readme_{os.getpid()}") as url, running(project, DATABASE_URL=url) as run:
        for command, shown in PAIRS:
            here = command.replace("http://127.0.0.1:8000", str(run.client.base_url).rstrip("/"))
            done = subprocess.run(["bash", "-c", here], capture_output=True, text=True, check=True)
            assert without_changing(done.stdout) == without_changing(shown), command


def without_changing(text: str) -> Any:
    return json.loads(text, object_hook=lambda found: {k: v for k, v in found.items() if k not in CHANGING})


def test_the_route_that_is_shown_is_the_route_of_the_source() -> None:
    (shown,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert shown == inspect.getsource(routes.create_item)


def test_every_file_of_the_layout_is_there() -> None:
    layout = re.search(r"```text\n(.*?)```", README, re.DOTALL)
    assert layout
    parents = [ROOT]
    for line in layout[1].splitlines():
        depth, name = (len(line) - len(line.lstrip())) // 2, line.split()[0]
        path = parents[depth] / name
        assert path.exists(), line
        parents[depth + 1 :] = [path]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_file_that_a_page_names_exists(path: Path) -> None:
    # `make ca-bundle`, `make resource NAME=orders` and the tests of `make run` write these files.
    written = re.compile(r"handler/ca-bundle.pem|handler/probes/|(handler|tests|events)/orders/.*")
    named = re.findall(
        r"`((?:handler|tests|local|deploy|infra|benchmarks|events|docs|examples)/[\w./-]+)`", path.read_text()
    )
    assert [name for name in named if not (ROOT / name).exists() and not written.fullmatch(name)] == []
