"""Memory after many requests, and the size of the artifact, beside the tutorial's. `make bench-memory`: RESULTS.md."""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from itertools import cycle
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks.artifacts import ROOT, Artifact, Process, build_ours, build_tutorial, started
from benchmarks.report import describe_machine, progress, table, write_section
from benchmarks.warm import connect, postgres, url_of
from local.events import http_event

TITLE = "Memory and size"
OURS, TUTORIAL = "ours", "tutorial"
COUNTS = (1, 100, 1000, 2000, 5000, 10_000)  # requests after which the memory is read
STEADY = 1000  # from here on it should not grow
MIB = 1024 * 1024
JSON_TYPE = [("content-type", "application/json")]
GOOD, BAD = b'{"name": "Lamp", "description": "A desk lamp"}', b'{"name": {"no": "text"}}'
# One after the other: request, and what is answered.
MIX = (
    (http_event("GET", "/items/1", "", [], b""), 200),
    (http_event("POST", "/items/", "", JSON_TYPE, GOOD), 201),
    (http_event("GET", "/items/", "", [], b""), 200),
    (http_event("PATCH", "/items/1", "", JSON_TYPE, b'{"description": "Another"}'), 200),
    (http_event("GET", "/items/2000000000", "", [], b""), 404),
    (http_event("POST", "/items/", "", JSON_TYPE, BAD), 422),
)
FIRST = MIX[1]  # makes item 1


def peaks(process: Process, bar: "tqdm[Any]") -> list[int]:
    """The most memory, in bytes, that the process had until each of COUNTS requests was answered."""
    found, mix = [], cycle(MIX)
    for number in range(1, COUNTS[-1] + 1):
        event, status = FIRST if number == 1 else next(mix)
        said = process.answer(event)
        if said["status"] != status:
            raise RuntimeError(f"{event['rawPath']}: {said['status']} {said['body']}")
        if number in COUNTS:
            found.append(said["memory"])
        bar.update()
    return found


def sizes(artifact: Artifact) -> dict[str, int]:
    """Bytes of the files, of the bytecode among them, and of a zip of all."""
    files = [path for path in artifact.folder.rglob("*") if path.is_file()]
    archive = shutil.make_archive(str(artifact.folder.parent / "zipped"), "zip", artifact.folder)
    zipped = Path(archive).stat().st_size
    Path(archive).unlink()
    return {
        "unzipped": sum(path.stat().st_size for path in files),
        "of which bytecode": sum(path.stat().st_size for path in files if path.suffix == ".pyc"),
        "zipped": zipped,
    }


def run() -> str:
    """The whole part. Returns the section's text."""
    with tempfile.TemporaryDirectory(prefix="items-") as temporary, postgres() as server, ExitStack() as stack:
        bar = stack.enter_context(progress("memory", 2 * COUNTS[-1]))
        with connect(server) as admin:
            machine = describe_machine(admin)
            for one in (OURS, TUTORIAL):
                admin.run(f"CREATE DATABASE {one}")
        folder = Path(temporary)
        artifacts = {OURS: build_ours(folder / "ours"), TUTORIAL: build_tutorial(folder / "theirs")}
        environs = {
            OURS: {"DATABASE_URL": url_of(server, OURS), "AUTH_MODE": "none", "LOG_LEVEL": "ERROR"},
            TUTORIAL: {"DATABASE_URL": url_of(server, TUTORIAL, "postgresql+pg8000")},
        }
        migrate = [sys.executable, "-m", "handler.migrate"]
        subprocess.run(migrate, env=environs[OURS], cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
        memory = {}
        for one, artifact in artifacts.items():
            with started(artifact, environs[one]) as process:
                memory[one] = peaks(process, bar)
        size = {one: sizes(artifact) for one, artifact in artifacts.items()}
    rows: list[tuple[Any, ...]] = [("Peak, MiB", *artifacts)]
    for number, count in enumerate(COUNTS):
        rows.append((f"{count:,} requests", *(f"{memory[one][number] / MIB:.1f}" for one in artifacts)))
    growth = [memory[one][-1] - memory[one][COUNTS.index(STEADY)] for one in artifacts]
    rows.append((f"from {STEADY:,} to {COUNTS[-1]:,}", *(f"{bytes_ / 1024:+.0f} KiB" for bytes_ in growth)))
    second: list[tuple[Any, ...]] = [("Artifact, MB", *artifacts, "ratio")]
    for what, ours in size[OURS].items():
        theirs = size[TUTORIAL][what]
        second.append((what, f"{ours / 1e6:.1f}", f"{theirs / 1e6:.1f}", f"{ours / theirs:.2f}" if theirs else ""))
    kinds = json.dumps([f"{event['requestContext']['http']['method']} {status}" for event, status in MIX])
    return f"""`make bench-memory` on {machine}.

The most memory that a process of the built artifact had resident (`VmHWM`), after so many requests, which take turns:
{kinds.strip("[]").replace('"', "")}.

{table(*rows)}

The artifact, for this machine's Python and processor. Ours has bytecode, alembic and the migrations; the tutorial's has
none of them.

{table(*second)}"""


def main() -> None:
    argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__).parse_args()
    text = run()
    write_section(TITLE, text)
    print(f"## {TITLE}\n\n{text}")


if __name__ == "__main__":
    main()
