"""What the benchmarks say and where: RESULTS.md, the terminal, the machine that they ran on."""

import os
import platform
import re
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pg8000.native
from tqdm import tqdm

RESULTS = Path(__file__).parent / "RESULTS.md"
PACKAGES = ("fastapi", "mangum", "sqlalchemy", "pg8000")


def progress(what: str, total: int) -> "tqdm[Any]":
    """A bar on standard error where that is a terminal, else nothing; `update()` it `total` times."""
    return tqdm(desc=what, total=total, disable=None, leave=False)


class Progress:
    """The same for what lasts a known time, in seconds."""

    def __init__(self, expected: float) -> None:
        self._bar = progress("bench", round(expected))
        self._start = time.monotonic()

    def show(self) -> None:
        self._bar.update(min(time.monotonic() - self._start, self._bar.total) - self._bar.n)

    def done(self) -> None:
        self._bar.close()


def table(*rows: tuple[Any, ...]) -> str:
    """A Markdown table; the first row is the head."""
    lines = [f"| {' | '.join(str(cell) for cell in row)} |" for row in rows]
    lines.insert(1, "| --- |" + " ---: |" * (len(rows[0]) - 1))
    return "\n".join(lines)


def describe_machine(server: pg8000.native.Connection) -> str:
    """When and on what; the sentence goes on with how the server is set up."""
    python, postgresql = platform.python_version(), server.run("SHOW server_version")[0][0]
    names = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*: (.*)", names.read_text()) if names.exists() else None
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    return (
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {os.cpu_count()} cores ({model[1] if model else platform.machine()}, "
        f"load {os.getloadavg()[0]:.1f} before), Python {python}, {packages}, PostgreSQL {postgresql}"
    )


def write_section(title: str, text: str) -> None:
    """Put a section into RESULTS.md, in the place of the one with the same title."""
    before = RESULTS.read_text() if RESULTS.exists() else "# Results\n\nWritten by the benchmarks; do not edit.\n"
    head, *sections = re.split(r"^(?=## )", before, flags=re.MULTILINE)
    kept = {section.splitlines()[0]: section.strip() for section in [*sections, f"## {title}\n\n{text}"]}
    RESULTS.write_text("\n\n".join([head.strip(), *kept.values()]) + "\n")
