"""The log of `make run` on its terminal."""

import io
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from local.console import Formatter
from tests.support.make_run import running

ROUTES = """
import logging
logger = logging.getLogger("shop")

@router.get("/noisy", dependencies=[requires_scopes()])
async def noisy() -> None:
    logger.debug("a detail")
    logger.info("an event: %s", 42)
    try:
        int("SECRET")
    except ValueError:
        logger.exception("a failure")
"""


@pytest.mark.parametrize("level", ["DEBUG", "INFO", "WARNING"])
def test_records_appear_by_log_level_with_the_id_of_their_request(used_project: Path, level: str) -> None:
    source = used_project / "handler" / "health.py"
    source.write_text(source.read_text() + ROUTES)
    with running(used_project, LOG_LEVEL=level) as run:
        request_id = run.client.get("/health/noisy").headers["x-request-id"]
    output = "".join(run.output)
    lines = {
        "DEBUG": rf"^\d\d:\d\d:\d\d DEBUG    shop: a detail \[{request_id}\]$",
        "INFO": rf"^\d\d:\d\d:\d\d INFO     shop: an event: 42 \[{request_id}\]$",
        "WARNING": rf"^\d\d:\d\d:\d\d ERROR    shop: a failure \[{request_id}\]$",
    }
    order = list(lines)
    for name, pattern in lines.items():
        is_shown = order.index(name) >= order.index(level)
        assert bool(re.search(pattern, output, re.MULTILINE)) is is_shown, name
    assert re.search(rf"^GET /health/noisy 200 .* \[{request_id}\]$", output, re.MULTILINE)
    assert "ValueError" in output
    assert "Traceback" in output
    assert "invalid literal" not in output, "the text of an exception that may quote a value"
    assert "\033[" not in output, "colours without a terminal"


def test_levels_have_colours_on_a_terminal() -> None:
    record = logging.LogRecord("shop", logging.ERROR, "", 0, "a failure", None, None)
    assert (
        Formatter(lambda: "id", colors=True)
        .format(record)
        .endswith("\033[31mERROR   \033[0m shop: a failure\033[2m [id]\033[0m")
    )
    assert Formatter(lambda: "", colors=False).format(record).endswith("ERROR    shop: a failure")


@pytest.mark.parametrize(("no_color", "has_colors"), [("", True), ("1", False)])
def test_a_terminal_has_colours_unless_no_color_is_set(no_color: str, has_colors: bool) -> None:
    ours, theirs = os.openpty()
    program = "import sys; from local.console import has_colors; sys.exit(has_colors(sys.stderr))"
    done = subprocess.run(
        [sys.executable, "-c", program], stderr=theirs, env=os.environ | {"NO_COLOR": no_color}, check=False
    )
    os.close(theirs)
    os.close(ours)
    assert bool(done.returncode) is has_colors


def test_a_stream_that_is_not_a_terminal_has_no_colours() -> None:
    from local.console import has_colors

    assert not has_colors(io.StringIO())
