"""Cold starts from the built artifacts, ours and the tutorial's. `make bench-cold` writes RESULTS.md.

From the start of a process to its first answer, which takes a first connection by TLS and SCRAM: everything that
Lambda makes a client wait for, but fetching the code and starting the sandbox.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from benchmarks.artifacts import PYTHON, ROOT, Artifact, Process, build_ours, build_tutorial, started
from benchmarks.chart import write_chart
from benchmarks.connect import tls_postgres
from benchmarks.report import describe_machine, progress, table, write_section
from deploy.build import compile_all
from local.events import http_event
from tests.support.database import url_of

TITLE = "Cold starts"
CHART = ROOT / "docs" / "cold.svg"
OURS, TUTORIAL, COMPILED = "ours", "tutorial", "tutorial, with bytecode"
LIMIT = 0.40  # what we hold ourselves to: our median over the tutorial's
IMPORT_RUNS = 7
SHOWN = 15  # modules, and packages, of the import budget
ITEM = b'{"name": "Lamp", "description": "A desk lamp"}'
CREATE = http_event("POST", "/items/", "", [("content-type", "application/json")], ITEM)
READ = http_event("GET", "/items/1", "", [], b"")
IMPORT = re.compile(r"import time: +(\d+) \| +(\d+) \| *(\S+)")  # microseconds: of its own, and with what it imports


class Start(NamedTuple):
    """Seconds from the start of the process to the first answer."""

    clock: float
    cpu: float
    imports: float  # of the clock, until the handler was imported


def environ_of(name: str, url: str, ca: str) -> dict[str, str]:
    """What the function is configured with; stock pg8000 has TLS where the server has it."""
    url = url_of(url, name.partition(",")[0])
    if name == OURS:
        return {"DATABASE_URL": f"{url}?sslmode=verify-full&sslrootcert={ca}", "AUTH_MODE": "none"}
    return {"DATABASE_URL": url.replace("postgresql", "postgresql+pg8000", 1)}


def start(artifact: Artifact, environ: dict[str, str]) -> Start:
    with started(artifact, environ) as process:
        said = answer(process, READ, 200)
        return Start(said["clock"] - process.started, said["cpu"], said["imported"] - process.started)


def answer(process: Process, event: dict[str, Any], status: int) -> dict[str, Any]:
    said = process.answer(event)
    if said["status"] != status:
        raise RuntimeError(f"{event['rawPath']}: {said['status']} {said['body']}")
    return said


def import_budget(artifact: Artifact, environ: dict[str, str]) -> dict[str, tuple[float, float]]:
    """Milliseconds of each module of the artifact: of its own, and with what it imports; the fastest of some runs."""
    runs: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for _ in range(IMPORT_RUNS):
        process = Process(artifact, environ, "-X", "importtime")
        answer(process, READ, 200)
        for own, all_of_it, module in IMPORT.findall(process.end()):
            runs[module].append((int(own) / 1000, int(all_of_it) / 1000))
    return {module: (min(one for one, _ in found), min(two for _, two in found)) for module, found in runs.items()}


def tables_of_imports(found: dict[str, tuple[float, float]]) -> str:
    by_package: dict[str, list[float]] = defaultdict(list)
    for module, (own, _) in found.items():
        package = module.partition(".")[0]
        by_package[package if package not in sys.stdlib_module_names else "standard library"].append(own)
    packages = sorted(by_package.items(), key=lambda one: -sum(one[1]))[:SHOWN]
    modules = sorted(found.items(), key=lambda one: -one[1][0])[:SHOWN]
    first: list[tuple[Any, ...]] = [("Package", "ms", "modules")]
    first += [(f"`{name}`", f"{sum(own):.1f}", len(own)) for name, own in packages]
    second: list[tuple[Any, ...]] = [("Module", "ms of its own", "with what it imports")]
    second += [(f"`{name}`", f"{own:.1f}", f"{all_of_it:.1f}") for name, (own, all_of_it) in modules]
    return f"{table(*first)}\n\n{table(*second)}"


def run(samples: int) -> str:
    """The whole part. Returns the section's text."""
    steps = 3 + samples + 1
    with (
        tempfile.TemporaryDirectory(prefix="items-") as temporary,
        tls_postgres() as (admin, url, ca),
        progress("cold", steps) as bar,
    ):
        folder = Path(temporary)
        machine = describe_machine(admin)
        artifacts = {OURS: build_ours(folder / "ours")}
        bar.update()
        artifacts[TUTORIAL] = build_tutorial(folder / "tutorial")
        compiled = shutil.copytree(artifacts[TUTORIAL].folder, folder / "compiled")
        compile_all(compiled, PYTHON)
        artifacts[COMPILED] = artifacts[TUTORIAL]._replace(folder=compiled)
        bar.update()
        environs = {name: environ_of(name, url, ca) for name in artifacts}
        for name in (OURS, TUTORIAL):
            admin.run(f"CREATE DATABASE {name} OWNER ann")
        migrate = [sys.executable, "-m", "handler.migrate"]
        subprocess.run(migrate, env=environs[OURS], cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
        for name, artifact in artifacts.items():  # also brings the files into memory
            with started(artifact, environs[name]) as process:
                answer(process, CREATE, 201)
        bar.update()
        starts: dict[str, list[Start]] = {name: [] for name in artifacts}
        for _ in range(samples):
            for name, artifact in artifacts.items():
                starts[name].append(start(artifact, environs[name]))
            bar.update()
        budget = import_budget(artifacts[OURS], environs[OURS])
        bar.update()
    rows: list[tuple[Any, ...]] = [(f"Median of {samples}, ms", *artifacts, "ours / tutorial", "at most")]
    for what, number in (("to the first answer", 0), ("of the processor", 1), ("until it is imported", 2)):
        medians = [median(one[number] for one in starts[name]) * 1000 for name in artifacts]
        limit = f"{LIMIT:.2f}" if number < 2 else ""
        rows.append((what, *(f"{value:.0f}" for value in medians), f"{medians[0] / medians[1]:.2f}", limit))
        if number == 0:
            bars = {what.capitalize(): dict(zip(artifacts, medians, strict=True))}
    note = "From the start of the process to the first answer, PostgreSQL on loopback with TLS"
    write_chart(CHART, "Cold start", note, bars, "ms")
    return f"""`make bench-cold` (`python -m benchmarks.cold --samples {samples}`) on {machine} with TLS.

From the start of the process to its first answer, a GET of an item over a new connection by TLS and SCRAM on loopback.
Ours is built as it is deployed, but for this machine; the tutorial is what `sam build` makes of
`benchmarks/peers/tutorial.py`, at the same versions, and once more with bytecode. Each start is a new `python -I -S -B`
that can import the artifact and the standard library only, by turns. The files are in the page cache; Lambda's sandbox
and the fetching of the code are not in it.

{table(*rows)}

What ours imports until the first answer, in all {sum(own for own, _ in budget.values()):.0f} ms in {len(budget)}
modules (`-X importtime`, which slows it down; the fastest of {IMPORT_RUNS} runs of each), by package and by module:

{tables_of_imports(budget)}"""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cold", description=__doc__)
    parser.add_argument("--samples", type=int, default=25, help="starts of each (%(default)s)")
    text = run(parser.parse_args().samples)
    write_section(TITLE, text)
    print(f"## {TITLE}\n\n{text}")


if __name__ == "__main__":
    main()
