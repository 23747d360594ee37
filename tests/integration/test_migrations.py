"""Migrations: the models' schema, up and down, and two at once."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.exc import DBAPIError

from handler.database.base import Base
from handler.database.engine import engine
from handler.migrate import upgrade
from handler.settings import read_database_settings
from tests.database import connect, temporary_database

ROOT = Path(__file__).parents[2]


def head() -> str | None:
    return ScriptDirectory("handler/migrations").get_current_head()


MIGRATE = [sys.executable, "-m", "handler.migrate"]


def test_models_and_migrations_do_not_drift() -> None:
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, Base.metadata) == []


def test_checks_of_the_models_are_those_of_the_migrations() -> None:
    """Alembic does not compare CHECK constraints."""
    names = {constraint.name for table in Base.metadata.tables.values() for constraint in table.constraints}
    with connect(os.environ["DATABASE_URL"]) as database:
        stored = database.run(
            "SELECT conname FROM pg_constraint WHERE connamespace = 'public'::regnamespace AND contype <> 'n'"
            " AND conrelid <> 'alembic_version'::regclass"
        )
    assert {name for (name,) in stored} == names


def test_every_migration_can_be_undone(server_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with temporary_database(server_url, f"down_{os.getpid()}") as url:
        monkeypatch.setenv("DATABASE_URL", url)
        config = Config(toml_file="pyproject.toml")
        for _ in range(2):
            command.upgrade(config, "head")
            command.downgrade(config, "base")
        with connect(url) as database:
            assert database.run("SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace") == [
                ["alembic_version"],
                ["alembic_version_pkc"],
            ]


def test_two_processes_at_once_and_a_third_later_do_no_harm(server_url: str) -> None:
    with temporary_database(server_url, f"twice_{os.getpid()}") as url:
        environment = os.environ | {"DATABASE_URL": url}
        environment.pop("AUTH_MODE")
        processes = [subprocess.Popen(MIGRATE, env=environment, stdout=subprocess.PIPE) for _ in range(2)]
        for process in processes:
            output, _ = process.communicate(timeout=60)
            assert (process.returncode, output) == (0, f"migrate: the schema is at {head()}\n".encode())
        subprocess.run(MIGRATE, env=environment, check=True, stdout=subprocess.DEVNULL)


def test_a_migration_gives_up_on_a_table_that_is_locked(server_url: str) -> None:
    with temporary_database(server_url, f"locked_{os.getpid()}") as url, connect(url) as blocker:
        blocker.run("CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY)")
        blocker.run("BEGIN")
        blocker.run("LOCK TABLE alembic_version")
        started = time.monotonic()
        with pytest.raises(DBAPIError) as error:
            upgrade(read_database_settings({"DATABASE_URL": url}))
        assert error.value.orig is not None
        assert error.value.orig.args[0]["C"] == "55P03"
        assert time.monotonic() - started < 30  # it gives up; how soon is env.py's LOCK_TIMEOUT
        blocker.run("ROLLBACK")


def test_a_checkout_may_have_any_path(server_url: str, tmp_path: Path) -> None:
    """configparser, which Alembic keeps its options in, and the % operator read a percent sign as their own."""
    tree = tmp_path / "100%(here)s of %s and %% {0} ä"
    for name in ("handler", "pyproject.toml"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        tree.mkdir(exist_ok=True)
        copy(ROOT / name, tree / name)
    commands = [
        MIGRATE,
        [sys.executable, "-m", "alembic", "revision", "--autogenerate", "-m", "nothing"],
        [sys.executable, "-m", "alembic", "downgrade", "base"],
    ]
    with temporary_database(server_url, f"path_{os.getpid()}") as url:
        for command_line in commands:
            done = subprocess.run(
                command_line,
                env=os.environ | {"DATABASE_URL": url},
                cwd=tree,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stderr
    (written,) = (tree / "handler" / "migrations" / "versions").glob("*_nothing.py")
    assert f"down_revision = {head()!r}" in written.read_text()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        (None, "migrate: settings: DATABASE_URL is not set"),
        ("mysql://u@h/d", "migrate: settings: DATABASE_URL must start with"),
        ("postgresql://u:SECRET@127.0.0.1:1/d", "migrate: the database refused: 08001 cannot connect"),
    ],
)
def test_a_migration_that_cannot_run_says_why_in_one_line(url: str | None, message: str) -> None:
    environment = {} if url is None else {"DATABASE_URL": url}
    done = subprocess.run(MIGRATE, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(message)
    assert done.stderr.count("\n") == 1
    assert "SECRET" not in done.stderr
