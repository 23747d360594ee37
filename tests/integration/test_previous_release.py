"""The previous release works on the new schema, on which it runs during a deployment and after a failed one.

Each release handles its own events, with the packages that are installed here.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import Table

from handler import migrations
from handler.api.models import IdempotencyKey
from handler.database.base import Base
from handler.migrations.upgrade import upgrade
from handler.settings import read_database_settings
from tests.support.database import temporary_database
from tests.support.resources import shipped_tables

ROOT = Path(__file__).parents[2]
# In this order for each resource, because the other events need the created row.
EVENTS = ("create", "read", "list", "change", "replace", "delete")
PROGRAM = """
import json, sys
from pathlib import Path
from types import SimpleNamespace
from handler.main import handler
from handler.migrations.custom_resource import handler as migrate
for name in sys.argv[1:]:
    event = json.loads(Path("events", name + ".json").read_text())
    print(name, handler(event, None)["statusCode"])
print(migrate({}, SimpleNamespace(get_remaining_time_in_millis=lambda: 60_000))["Revision"])
"""


def previous_release() -> str | None:
    """The newest tag v… before HEAD; None without such a tag or without git."""
    command = ["git", "describe", "--tags", "--abbrev=0", "--match=v*", "HEAD^"]
    if shutil.which("git") is None:
        return None
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


def events_of(code: Path) -> list[str]:
    """The names of the release's events, in the order that they are sent."""
    folders = sorted(path.name for path in (code / "events").iterdir() if path.is_dir())
    return ["health-ready", *(f"{folder}/{name}" for folder in folders for name in EVENTS)]


def use(code: Path, url: str) -> tuple[dict[str, int], str]:
    """The status of each event with the release in the folder `code`, and the revision that this release reports."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *events_of(code)],
        cwd=code,
        env=os.environ | {"DATABASE_URL": url, "AUTH_MODE": "none"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    *lines, revision = done.stdout.splitlines()
    return {name: int(status) for name, status in map(str.split, lines)}, revision


def successes(code: Path) -> dict[str, int]:
    return {name: {"create": 201, "delete": 204}.get(Path(name).name, 200) for name in events_of(code)}


def test_the_previous_release_works_on_the_schema_of_this_one(server_url: str, tmp_path: Path) -> None:
    tag = previous_release()
    if tag is None:
        pytest.skip("there is no release before this one: no tag v… before HEAD (a shallow clone has none)")
    archive = subprocess.run(["git", "archive", tag, "handler", "events"], cwd=ROOT, capture_output=True, check=True)
    subprocess.run(["tar", "-x", "-C", tmp_path], input=archive.stdout, check=True)
    with temporary_database(server_url, f"previous_{os.getpid()}") as url:
        revision = upgrade(read_database_settings({"DATABASE_URL": url}))
        assert use(tmp_path, url) == (successes(tmp_path), revision)


def resource_table() -> Table | None:
    """The table of a resource that the service ships; None where it ships no resource."""
    names = [name for name in shipped_tables() if name != IdempotencyKey.__tablename__]
    return Base.metadata.tables[names[0]] if names else None


@pytest.mark.parametrize(
    ("change", "is_compatible"),
    [
        ("ALTER TABLE {table} ADD of_next_release integer", True),
        ("ALTER TABLE {table} ADD of_next_release integer NOT NULL", False),
        ("ALTER TABLE {table} DROP {column} CASCADE", False),
        ("ALTER TABLE {table} RENAME TO renamed_{table}", False),
    ],
)
def test_an_incompatible_schema_makes_the_test_fail(
    change: str, is_compatible: bool, server_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The release that changes the schema is simulated, and this release is the previous one."""
    table = resource_table()
    if table is None:
        pytest.skip("the service ships no resource whose table could change")
    change = change.format(table=table.name, column=next(name for name, one in table.c.items() if not one.primary_key))
    for folder in ("handler", "events"):
        shutil.copytree(ROOT / folder, tmp_path / "this" / folder, ignore=shutil.ignore_patterns("__pycache__"))
    scripts = shutil.copytree(tmp_path / "this" / "handler" / "migrations", tmp_path / "next")
    head = ScriptDirectory(str(scripts)).get_current_head()
    (scripts / "versions" / "next.py").write_text(
        f"from alembic import op\nrevision, down_revision = 'next', {head!r}\ndef upgrade(): op.execute({change!r})\n"
    )
    monkeypatch.setattr(migrations, "SCRIPTS", scripts)
    with temporary_database(server_url, f"next_{os.getpid()}") as url:
        assert upgrade(read_database_settings({"DATABASE_URL": url})) == "next"
        statuses, revision = use(tmp_path / "this", url)
        assert revision == "next"
        assert (statuses == successes(tmp_path / "this")) is is_compatible
