"""/docs and /redoc of `make run` in a real browser that reaches no other host."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.browser import browser
from tests.support.database import required_program
from tests.support.make_run import Running, copy_template, running

POST = "[id$=create_probe]"  # the operation's element in Swagger UI
STATUS = f"{POST} .live-responses-table .response .response-col_status"


@pytest.fixture(scope="module")
def run(project_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One `make run` for both pages."""
    with running(copy_template(project_template, tmp_path_factory.mktemp("docs"), with_database=True)) as run:
        yield run


def test_try_it_out_of_a_post_is_201_without_a_network(run: Running, tmp_path: Path) -> None:
    program = required_program("chromium")
    with browser(program, tmp_path / "profile") as page:
        page.open(f"{run.client.base_url}/docs")
        page.click(f"{POST} .opblock-summary-control")
        page.click(f"{POST} .try-out__btn")
        body = page.wait_for(f"document.querySelector('{POST} textarea.body-param__text')?.value")
        page.click(f"{POST} .execute")
        assert page.wait_for(f"document.querySelector('{STATUS}')?.innerText").startswith("201")
        if folder := os.environ.get("SCREENSHOTS"):
            page.screenshot(Path(folder) / "docs.png")
        (stored,) = run.client.get("/probes/").json()["items"]
        assert json.loads(body).items() <= stored.items()
        assert page.problems == []


def test_redoc_shows_the_operations_without_a_network(run: Running, tmp_path: Path) -> None:
    program = required_program("chromium")
    with browser(program, tmp_path / "profile") as page:
        page.open(f"{run.client.base_url}/redoc")
        assert page.wait_for("document.querySelector('redoc h2, redoc h1')?.innerText")
        assert "/probes/" in page.wait_for("document.body.innerText.includes('/probes/') && document.body.innerText")
        if folder := os.environ.get("SCREENSHOTS"):
            page.screenshot(Path(folder) / "redoc.png")
        # The Content-Security-Policy does not allow ReDoc's logo, neither here nor in a deployment.
        assert [one for one in page.problems if "logo-mini.svg" not in one] == []
