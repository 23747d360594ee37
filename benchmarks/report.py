"""The output of the benchmarks: a section of RESULTS.md, a block of docs/performance.md, and the terminal."""

import argparse
import os
import platform
import re
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import pg8000.native

from tests.support.environments import ITEMS, ITEMS_MISSING, ROOT

RESULTS = Path(__file__).parent / "RESULTS.md"
PERFORMANCE = ROOT / "docs" / "performance.md"
PACKAGES = ("fastapi", "mangum", "sqlalchemy", "pg8000")


class Result(NamedTuple):
    """The result of a benchmark. `section` is its text for RESULTS.md, `block` its tables for docs/performance.md.

    `failures` are the rules that do not hold. If there are any, the program exits with 1.
    """

    section: str
    block: str
    failures: tuple[str, ...] = ()


def main(name: str, title: str, run: Callable[..., Result], *, needs_items: bool = True, **options: float) -> None:
    """Run a benchmark with the options of the command line, whose defaults are `options`, and write its result."""
    if needs_items and not ITEMS.is_dir():
        sys.exit(f"bench-{name}: {ITEMS_MISSING}")
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=sys.modules["__main__"].__doc__)
    for option, default in options.items():
        parser.add_argument(f"--{option}", type=type(default), default=default, help="(%(default)s)")
    arguments = vars(parser.parse_args())
    result = run(**arguments)
    say("")
    given = "".join(f" --{option} {value:g}" for option, value in arguments.items())
    text = f"`make bench-{name}` (`python -m benchmarks.{name}{given}`) on {result.section}"
    write_section(title, text)
    write_block(f"bench-{name}", f"{result.block}\n\nMeasured on {datetime.now(UTC):%Y-%m-%d}.")
    print(f"## {title}\n\n{text}")
    if result.failures:
        sys.exit(f"bench-{name}: {'; '.join(result.failures)}")


def say(text: str) -> None:
    """Show the progress on standard error if it is a terminal."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def table(*rows: tuple[Any, ...]) -> str:
    """Return a Markdown table. The first row is its head."""
    lines = [f"| {' | '.join(str(cell) for cell in row)} |" for row in rows]
    lines.insert(1, "| --- |" + " ---: |" * (len(rows[0]) - 1))
    return "\n".join(lines)


def describe_machine(server: pg8000.native.Connection) -> str:
    """Return the date, the machine and the versions, as the beginning of a sentence about the server."""
    python, postgresql = platform.python_version(), server.run("SHOW server_version")[0][0]
    names = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*: (.*)", names.read_text()) if names.exists() else None
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    return (
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {os.cpu_count()} cores ({model[1] if model else platform.machine()}, "
        f"load {os.getloadavg()[0]:.1f} before), Python {python}, {packages}, PostgreSQL {postgresql}"
    )


def write_section(title: str, text: str) -> None:
    """Replace the section of RESULTS.md that has this title, or append it."""
    head, *sections = re.split(r"^(?=## )", RESULTS.read_text(), flags=re.MULTILINE)
    kept = {section.splitlines()[0]: section.strip() for section in [*sections, f"## {title}\n\n{text}"]}
    RESULTS.write_text("\n\n".join([head.strip(), *kept.values()]) + "\n")


def write_block(name: str, text: str) -> None:
    """Replace the text between the two comments `name` of docs/performance.md."""
    before = PERFORMANCE.read_text()
    start, stop = before.index(f"<!-- {name} -->"), before.index(f"<!-- /{name} -->")
    PERFORMANCE.write_text(f"{before[:start]}<!-- {name} -->\n\n{text}\n\n{before[stop:]}")
