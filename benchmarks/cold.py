"""Cold starts of the built artifacts of this project and the tutorial. `make bench-cold`.

Measured is the time from the start of a process to its first response, for which it opens a connection with TLS and
SCRAM. A client of Lambda also waits until the code is fetched and the sandbox is started.
"""

import re
import shutil
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.artifacts import OURS, PYTHON, TUTORIAL, Artifact, Process, build_ours, build_tutorial, started
from benchmarks.chart import write_chart
from benchmarks.connect import tls_postgres
from benchmarks.handlers import get, post
from benchmarks.report import Result, describe_machine, main, say, table
from deploy.build import compile_all
from tests.support.environments import ROOT, migrate, url_of

CHART = ROOT / "docs" / "cold.svg"
COMPILED = "tutorial, with bytecode"
LIMIT = 0.29  # the aim: the ratio of the medians of this project and the tutorial
IMPORT_RUNS = 7
SHOWN = 15  # packages of the import budget
CREATE, READ = post("Lamp"), get("/items/1")
IMPORT = re.compile(r"import time: +(\d+) \| +\d+ \| *(\S+)")  # microseconds of the module itself; its name


def environ_of(name: str, url: str, ca: str) -> dict[str, str]:
    """Return the environment variables of the function. Stock pg8000 uses TLS if the server supports it."""
    url = url_of(url, name.partition(",")[0])
    if name == OURS:
        return {"DATABASE_URL": f"{url}?sslmode=verify-full&sslrootcert={ca}", "AUTH_MODE": "none"}
    return {"DATABASE_URL": url.replace("postgresql", "postgresql+pg8000", 1)}


def start(artifact: Artifact, environ: dict[str, str]) -> tuple[float, float, float]:
    """Return seconds until the first response, of processor time until then, and until the handler was imported."""
    with started(artifact, environ) as process:
        found = process.request(READ, 200)
        return found["clock"] - process.started, found["cpu"], found["imported"] - process.started


def import_budget(artifact: Artifact, environ: dict[str, str]) -> str:
    """Return a table of the packages that the first response needs, each with the fastest of several runs."""
    runs: dict[str, list[int]] = defaultdict(list)
    for _ in range(IMPORT_RUNS):
        process = Process(artifact, environ, "-X", "importtime")
        process.request(READ, 200)
        for microseconds, module in IMPORT.findall(process.end()):
            runs[module].append(int(microseconds))
    packages: dict[str, list[float]] = defaultdict(list)
    for module, found in runs.items():
        package = module.partition(".")[0]
        packages[package if package not in sys.stdlib_module_names else "standard library"].append(min(found) / 1000)
    rows: list[tuple[Any, ...]] = [("Package", "ms", "modules")]
    for name, times in sorted(packages.items(), key=lambda one: -sum(one[1]))[:SHOWN]:
        rows.append((f"`{name}`", f"{sum(times):.1f}", len(times)))
    everything = [one for times in packages.values() for one in times]
    return table(*rows, ("all", f"{sum(everything):.1f}", len(everything)))


def run(samples: int) -> Result:
    with tempfile.TemporaryDirectory(prefix="items-") as temporary, tls_postgres() as (admin, url, ca):
        folder, machine = Path(temporary), describe_machine(admin)
        say("cold: building")
        artifacts = {OURS: build_ours(folder / "ours"), TUTORIAL: build_tutorial(folder / "tutorial")}
        compiled = shutil.copytree(artifacts[TUTORIAL].folder, folder / "compiled")
        compile_all(compiled, PYTHON)
        artifacts[COMPILED] = artifacts[TUTORIAL]._replace(folder=compiled)
        environs = {name: environ_of(name, url, ca) for name in artifacts}
        for name in (OURS, TUTORIAL):
            admin.run(f"CREATE DATABASE {name} OWNER ann")
        migrate(environs[OURS]["DATABASE_URL"])
        for name, artifact in artifacts.items():  # the first run also reads the files into memory
            with started(artifact, environs[name]) as process:
                process.request(CREATE, 201)
        starts: dict[str, list[tuple[float, float, float]]] = {name: [] for name in artifacts}
        for number in range(samples):
            say(f"cold: {number + 1} of {samples}")
            for name, artifact in artifacts.items():
                starts[name].append(start(artifact, environs[name]))
        imports = import_budget(artifacts[OURS], environs[OURS])
    rows: list[tuple[Any, ...]] = [(f"Median of {samples}, ms", *artifacts, "ours / tutorial", "at most")]
    found = {}
    for number, what in enumerate(("to the first response", "of the processor", "until it is imported")):
        found[what] = {name: median(one[number] for one in starts[name]) * 1000 for name in artifacts}
        ratio = f"{found[what][OURS] / found[what][TUTORIAL]:.2f}"
        rows.append((what, *(f"{one:.0f}" for one in found[what].values()), ratio, "" if number else f"{LIMIT:.2f}"))
    note = "From the start of the process to the first response, PostgreSQL on loopback with TLS"
    write_chart(CHART, "Cold start", note, {rows[1][0].capitalize(): found[rows[1][0]]}, "ms")
    section = f"""{machine} with TLS.

Measured is the time from the start of the process to its first response, a GET of an item over a new connection with
TLS and SCRAM on loopback. This project is built as it is deployed, but for this machine. The tutorial is the output of
`sam build` for `benchmarks/peers/tutorial.py`, with the same versions, and in a second variant with bytecode. The
variants take turns. Each start is a new `python -I -S -B`, which can import only the artifact and the standard library.
The files are in the page cache. The start of Lambda's sandbox and the fetching of the code are not measured.

{table(*rows)}

The imports of this project until the first response, by package (`-X importtime`, which slows it down; the fastest of
{IMPORT_RUNS} runs of each module):

{imports}"""
    return Result(section, table(*rows))


if __name__ == "__main__":
    main("cold", "Cold starts", run, samples=25)
