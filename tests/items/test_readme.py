"""The README's requests get the responses that it shows, and its route is the route of the source."""

import inspect
import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

from handler.items import routes
from tests.support.database import temporary_database
from tests.support.make_run import running

README = (Path(__file__).parents[2] / "README.md").read_text()
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
