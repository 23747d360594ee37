"""The tests' own resource in a copy of the project, for tests that start the copy as a process of its own.

The copy then serves `/probes/` whatever resources the project has, or none.
"""

import json
import shutil
from functools import cache
from pathlib import Path
from typing import Any

from alembic.script import ScriptDirectory

from local.resource import VERSIONS, register
from tests.support.resources import PROBE, SHIPPED

REVISION = "probes"  # the newest migration of the copy
PACKAGE = "handler.probes"
MIGRATION = f'''"""Create the tables of the tests' own resource, as its models have them."""

from alembic import op

from {PACKAGE}.models import Probe, Reading

revision, down_revision = {REVISION!r}, {{head!r}}


def upgrade() -> None:
    for table in (Probe.__table__, Reading.__table__):  # create_all would also create other resources' enum types
        table.create(op.get_bind())
'''


@cache
def openapi() -> Any:
    """The OpenAPI document of such a copy, as a deployment with AUTH_MODE=jwt serves it."""
    from local.openapi import document  # it makes the engine, of the settings that the test run has written by then

    return json.loads(document())


def probe_openapi() -> Any:
    """The same, with no other resource than the tests' own."""
    paths = {path: one for path, one in openapi()["paths"].items() if path.startswith(("/probes/", "/health/"))}
    return {**openapi(), "paths": paths}


def add_probe(project: Path) -> None:
    """Write the package into the copy in `project`, with a migration, and register it as the first resource."""
    package = project.joinpath(*PACKAGE.split("."))
    shutil.copytree(Path(__file__).parent / "probe", package, ignore=shutil.ignore_patterns("__pycache__"))
    for path in package.iterdir():
        path.write_text(path.read_text().replace(PROBE, PACKAGE))
    head = ScriptDirectory(project / VERSIONS.parent).get_current_head()
    (project / VERSIONS / f"{REVISION}.py").write_text(MIGRATION.format(head=head))
    register(project, (PACKAGE, *SHIPPED))
