"""make psql, make seed and make reset, with and without a running `make run`."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from local import examples
from tests.support.database import temporary_database
from tests.support.make_run import TIMEOUT, environment, running, servers
from tests.support.probe_project import openapi, probe_openapi


def command(folder: Path, name: str, *arguments: str, **changes: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", f"local.{name}", *arguments],
        cwd=folder,
        env=environment(**changes),
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )


def test_they_work_without_make_run(project: Path) -> None:
    seeded = command(project, "seed")
    assert (seeded.returncode, seeded.stderr) == (0, "")
    for path, _ in examples.creations(openapi()):
        assert f"seed: POST {path} 201" in seeded.stdout
    counted = command(
        project, "psql", "-Atc", "SELECT count(*), current_setting('server_version_num')::int / 10000 FROM probes"
    )
    assert (counted.stdout, counted.stderr) == ("1|18\n", "")
    reset = command(project, "reset")
    assert (reset.returncode, reset.stderr) == (0, "")
    assert command(project, "psql", "-Atc", "SELECT count(*) FROM probes").stdout == "0\n"
    assert not servers(project)


def test_they_work_beside_make_run_which_continues(used_project: Path) -> None:
    with running(used_project) as run:
        assert command(used_project, "seed", AUTH_MODE="jwt").returncode == 0
        (probe,) = run.client.get("/probes/").json()["items"]
        assert probe["name"] == examples.example(openapi()["components"]["schemas"]["ProbeCreate"], openapi())["name"]
        assert command(used_project, "reset").returncode == 0
        assert run.client.get("/probes/").json()["items"] == []
        assert run.client.post("/probes/", json={"name": "Lamp"}).status_code == 201
        assert command(used_project, "psql", "-Atc", "SELECT name FROM probes").stdout == "Lamp\n"


def test_reset_refuses_a_database_that_is_not_the_embedded_one(project: Path, server_url: str) -> None:
    with temporary_database(server_url, "reset_refused") as url:
        done = command(project, "reset", DATABASE_URL=url)
        assert done.returncode == 1
        assert done.stderr.startswith("reset: DATABASE_URL is set")
        shown = command(project, "psql", "-Atc", "SELECT current_database()", DATABASE_URL=url)
        assert (shown.stdout, shown.returncode) == ("reset_refused\n", 0)


def test_a_failed_statement_is_the_status_of_psql(used_project: Path) -> None:
    assert command(used_project, "psql", "-c", "SELEC 1").returncode == 1


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"examples": ["a"], "default": "b"}, "a"),
        ({"default": "b"}, "b"),
        ({"const": 3}, 3),
        ({"enum": ["x", "y"]}, "x"),
        ({"anyOf": [{"type": "integer", "minimum": 2}, {"type": "null"}]}, 2),
        ({"anyOf": [{"type": "string"}, {"type": "string", "examples": ["e"]}]}, "e"),
        ({"allOf": [{"$ref": "#/components/schemas/Name"}]}, "Ann"),
        ({"$ref": "#/components/schemas/Name"}, "Ann"),
        ({"type": "integer", "exclusiveMinimum": 0}, 1),
        ({"type": "boolean"}, False),
        ({"type": "string", "minLength": 3}, "xxx"),
        ({"type": "string", "format": "date"}, "2026-01-31"),
        ({"type": "array", "items": {"type": "integer", "minimum": 5}, "minItems": 2}, [5, 5]),
        (
            {
                "type": "object",
                "required": ["a"],
                "properties": {"a": {"type": "string"}, "b": {"type": "string"}, "c": {"examples": [1]}},
            },
            {"a": "x", "c": 1},
        ),
        ({}, None),
    ],
)
def test_an_example_is_the_given_one_or_is_generated_from_the_schema(schema: dict[str, Any], value: object) -> None:
    document = {"components": {"schemas": {"Name": {"type": "string", "examples": ["Ann"]}}}}
    assert examples.example(schema, document) == value


def test_the_try_line_is_a_post_of_the_first_resource_in_each_mode() -> None:
    for mode, text in (
        ("none", "curl -s http://h/probes/ --json "),
        ("jwt", "make -s token SCOPES='probes:write'"),
        ("iam", "--aws-sigv4"),
    ):
        assert text in examples.curl(probe_openapi(), "http://h", mode)
    only_reads: dict[str, Any] = {"paths": {"/health/live": {"get": {}}}}
    assert examples.curl(only_reads, "http://h", "none") == "curl -s http://h/health/live"
