"""Memory after many requests, and the size of the artifact, compared with the tutorial. `make bench-memory`."""

import shutil
import tempfile
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from benchmarks.artifacts import OURS, TUTORIAL, Artifact, Process, build_ours, build_tutorial, started
from benchmarks.handlers import JSON_TYPE, get, patch, post
from benchmarks.report import Result, describe_machine, main, say, table
from local.events import http_event
from tests.support.environments import connect, migrate, postgres, url_of

COUNTS = (1, 100, 1000, 2000, 5000, 10_000)  # requests after which the memory is read
STEADY = 1000  # requests after which it should not grow
MIB = 1024 * 1024
# The requests after the first one, in this order, with the status of their responses.
MIX = (
    (post("Lamp"), 201),
    (get("/items/1"), 200),
    (post("Lamp"), 201),
    (get("/items/"), 200),
    (patch("/items/1", "Another"), 200),
    (get("/items/2000000000"), 404),
    (http_event("POST", "/items/", "", JSON_TYPE, b'{"name": {"no": "text"}}'), 422),
)


def peaks(process: Process, requests: int) -> list[int]:
    """Return the peak memory in bytes after each of COUNTS requests, up to `requests`."""
    found = []
    for number, (event, status) in enumerate(islice(cycle(MIX), requests), start=1):
        response = process.request(event, status)
        if number in COUNTS:
            found.append(response["memory"])
            say(f"memory: {number} requests")
    return found


def sizes(artifact: Artifact) -> dict[str, int]:
    """Return the size in bytes of all files, of the bytecode files, and of a zip of all files."""
    files = [path for path in artifact.folder.rglob("*") if path.is_file()]
    archive = Path(shutil.make_archive(str(artifact.folder.parent / "zipped"), "zip", artifact.folder))
    return {
        "unzipped": sum(path.stat().st_size for path in files),
        "of which bytecode": sum(path.stat().st_size for path in files if path.suffix == ".pyc"),
        "zipped": archive.stat().st_size,
    }


def run(requests: int) -> Result:
    with tempfile.TemporaryDirectory(prefix="items-") as temporary, postgres() as server:
        folder = Path(temporary)
        say("memory: building")
        artifacts = {OURS: build_ours(folder / "ours" / "built"), TUTORIAL: build_tutorial(folder / "tutorial")}
        with connect(server) as admin:
            machine = describe_machine(admin)
            for name in artifacts:
                admin.run(f"CREATE DATABASE {name}")
        migrate(url_of(server, OURS))
        environs = {
            OURS: {"DATABASE_URL": url_of(server, OURS), "AUTH_MODE": "none", "LOG_LEVEL": "ERROR"},
            TUTORIAL: {"DATABASE_URL": url_of(server, TUTORIAL, "postgresql+pg8000")},
        }
        memory = {}
        for name, artifact in artifacts.items():
            with started(artifact, environs[name]) as process:
                memory[name] = peaks(process, requests)
        size = {name: sizes(artifact) for name, artifact in artifacts.items()}
    counts = [count for count in COUNTS if count <= requests]
    rows: list[tuple[Any, ...]] = [("Peak, MiB", *artifacts)]
    for number, count in enumerate(counts):
        rows.append((f"{count:,} requests", *(f"{found[number] / MIB:.1f}" for found in memory.values())))
    if STEADY in counts:
        growth = [(found[-1] - found[counts.index(STEADY)]) / 1024 for found in memory.values()]
        rows.append((f"from {STEADY:,} to {counts[-1]:,}", *(f"{kib:+.0f} KiB" for kib in growth)))
    second: list[tuple[Any, ...]] = [("Artifact, MB", *artifacts, "ratio")]
    for what, ours in size[OURS].items():
        theirs = size[TUTORIAL][what]
        second.append((what, f"{ours / 1e6:.1f}", f"{theirs / 1e6:.1f}", f"{ours / theirs:.2f}" if theirs else ""))
    kinds = ", ".join(f"{event['requestContext']['http']['method']} {status}" for event, status in MIX)
    section = f"""{machine}.

The peak of resident memory (`VmHWM`) of a process of the built artifact after this many requests, in turn: {kinds}.

{table(*rows)}

The artifact, for this machine's Python and processor. That of this project has bytecode, Alembic and the migrations;
that of the tutorial has none of them.

{table(*second)}"""
    return Result(section, f"{table(*rows)}\n\n{table(*second)}")


if __name__ == "__main__":
    main("memory", "Memory and size", run, requests=COUNTS[-1])
