"""Migrations create the models' schema, can be downgraded, and run beside other migrations and requests."""

import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import NullPool, text
from sqlalchemy.exc import DBAPIError

from handler import migrations
from handler.database.base import Base
from handler.database.connection import make_engine
from handler.database.deadline import timeout_after
from handler.database.engine import engine
from handler.migrations.failures import describe_failure
from handler.migrations.locks import statement_prefix
from handler.migrations.upgrade import upgrade
from handler.settings import read_database_settings
from tests.support.client import call
from tests.support.database import connect, temporary_database
from tests.support.migrated import create_probe_tables
from tests.support.resources import is_shipped

ROOT = Path(__file__).parents[2]


def head() -> str | None:
    return ScriptDirectory("handler/migrations").get_current_head()


MIGRATE = [sys.executable, "-m", "handler.migrate"]


def test_the_migrations_create_the_tables_of_the_models() -> None:
    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "compare_server_default": True, "include_object": is_shipped}
        )
        assert compare_metadata(context, Base.metadata) == []


def test_constraints_of_the_models_are_those_of_the_migrations(server_url: str) -> None:
    """Alembic does not compare CHECK constraints."""
    found = []
    with temporary_database(server_url, f"models_{os.getpid()}") as url:
        models = make_engine(read_database_settings({"DATABASE_URL": url}), poolclass=NullPool)
        with models.begin() as connection:
            connection.execute(text("CREATE EXTENSION pg_trgm"))
            Base.metadata.create_all(connection)
        for database_url in (url, os.environ["DATABASE_URL"]):
            with connect(database_url) as database:
                found.append(
                    database.run(
                        "SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint"
                        " WHERE connamespace = 'public'::regnamespace"
                        " AND conrelid::regclass::text <> 'alembic_version' ORDER BY 1, 2"
                    )
                )
    assert found[0] == found[1]


def test_every_migration_can_be_downgraded(server_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_migrating_at_the_same_time_and_again_later_succeeds(server_url: str) -> None:
    with temporary_database(server_url, f"twice_{os.getpid()}") as url:
        environment = os.environ | {"DATABASE_URL": url}
        environment.pop("AUTH_MODE")
        processes = [subprocess.Popen(MIGRATE, env=environment, stdout=subprocess.PIPE) for _ in range(2)]
        for process in processes:
            output, _ = process.communicate(timeout=60)
            assert (process.returncode, output) == (0, f"migrate: the schema is at {head()}\n".encode())
        subprocess.run(MIGRATE, env=environment, check=True, stdout=subprocess.DEVNULL)


@pytest.fixture
def later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A function that adds the migration of a later release, with these lines."""

    def add(*lines: str) -> None:
        scripts = shutil.copytree(
            migrations.SCRIPTS, tmp_path / "migrations", ignore=shutil.ignore_patterns("__pycache__")
        )
        (scripts / "versions" / "later.py").write_text(
            "import sys, time\n"
            "from alembic import op\n"
            f"revision, down_revision = 'later', {head()!r}\n"
            "def upgrade():\n" + "".join(f"    {line}\n" for line in lines)
        )
        monkeypatch.setattr(migrations, "SCRIPTS", scripts)

    return add


def test_a_migration_gives_up_on_a_table_that_is_locked(server_url: str) -> None:
    with temporary_database(server_url, f"locked_{os.getpid()}") as url, connect(url) as blocker:
        blocker.run("CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY)")
        blocker.run("BEGIN")
        blocker.run("LOCK TABLE alembic_version")
        with timeout_after(4), pytest.raises(DBAPIError) as error:
            upgrade(read_database_settings({"DATABASE_URL": url}))
        blocker.run("ROLLBACK")
        assert error.value.orig is not None
        assert error.value.orig.args[0]["C"] == "55P03"
        found = describe_failure(error.value)
        assert found == (
            "database error: 55P03 a table stayed in use: SELECT alembic_version.version_num FROM alembic_version"
        )


def test_a_migration_that_waits_for_a_table_blocks_readers_for_a_second_at_most(
    server_url: str, later: Callable[..., None], configure: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    """A report reads the table for 4 s, and requests come while the migration waits for the report."""
    caplog.set_level(logging.INFO, "handler.migrations.locks")
    later("op.execute('ALTER TABLE idempotency_keys ADD price int')", "op.execute('ALTER TABLE probes ADD width int')")
    name = f"busy_{os.getpid()}"
    with temporary_database(server_url, name) as url, connect(url) as report, connect(url) as observer:
        settings = read_database_settings({"DATABASE_URL": url})
        upgrade(settings, str(head()))
        create_probe_tables(url)
        configure(database=name)
        observed: list[tuple[int, bool]] = []
        longest = 0.0
        with ThreadPoolExecutor(1) as threads:
            report.run("BEGIN")
            report.run("SELECT FROM probes")
            migration = threads.submit(upgrade, settings)
            end = time.monotonic() + 4
            while not migration.done():
                started = time.monotonic()
                assert call("GET", "/probes/").status == 200
                longest = max(longest, time.monotonic() - started)
                observed += [(pid, holds) for pid, holds in observer.run(LOCKS_OF_MIGRATION)]
                if time.monotonic() > end:
                    report.run("ROLLBACK")
            assert migration.result() == "later"
        assert call("GET", "/probes/").status == 200
        configure()  # the database must have no connections
    assert longest < 2
    retries = [one.getMessage() for one in caplog.records if "retrying" in one.getMessage()]
    assert len(retries) >= 2
    assert all(one.startswith("table in use: ALTER TABLE probes ADD width int; retrying in ") for one in retries)
    # The migration keeps the lock against other migrations, and releases the first table in each pause.
    assert len({pid for pid, _ in observed}) == 1
    held = [holds for _, holds in observed]
    assert sum(before and not after for before, after in pairwise(held)) >= 2


# The session with the lock against other migrations, and whether it has locked the first table.
LOCKS_OF_MIGRATION = """
SELECT pid, EXISTS (SELECT FROM pg_locks AS t WHERE t.pid = a.pid AND t.relation = 'idempotency_keys'::regclass
    AND t.mode = 'AccessExclusiveLock')
FROM pg_locks AS a WHERE locktype = 'advisory' AND granted
AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


@pytest.mark.parametrize("sqlstate", ["55P03", "40P01"])
def test_a_migration_that_cannot_get_a_lock_runs_again_from_the_beginning(
    sqlstate: str, server_url: str, later: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "attempts", [], raising=False)
    later(
        "op.execute('CREATE TABLE more ()')",
        "sys.attempts.append(1)",
        f"if len(sys.attempts) < 3: op.execute(\"DO 'BEGIN RAISE $$x$$ USING ERRCODE = $${sqlstate}$$; END'\")",
    )
    with temporary_database(server_url, f"again_{os.getpid()}") as url:
        assert upgrade(read_database_settings({"DATABASE_URL": url})) == "later"
        with connect(url) as database:
            assert database.run("SELECT FROM more") == []
    assert len(sys.attempts) == 3  # type: ignore[attr-defined]


def test_waits_for_several_tables_share_one_timeout(server_url: str, later: Callable[..., None]) -> None:
    """Waits before the first blocking lock are not limited. From that lock on, all waits share one second."""
    record = "op.execute(\"INSERT INTO waits SELECT setting::int FROM pg_settings WHERE name = 'lock_timeout'\")"
    later(
        "op.execute('SELECT FROM idempotency_keys')",
        "time.sleep(0.3)",
        "limit = op.get_bind().exec_driver_sql('SHOW lock_timeout').scalar()",
        "op.execute('CREATE TABLE waits (milliseconds int)')",
        "time.sleep(0.3)",
        record,
        "time.sleep(1)",
        record,
        "op.execute(f\"INSERT INTO waits SELECT extract(epoch FROM interval '{limit}') * 1000\")",
    )
    with temporary_database(server_url, f"waits_{os.getpid()}") as url:
        settings = read_database_settings({"DATABASE_URL": url})
        upgrade(settings, str(head()))
        upgrade(settings)
        with connect(url) as database:
            second, third, first = [milliseconds for (milliseconds,) in database.run("SELECT * FROM waits")]
    assert first == 1_000
    assert 100 < second <= 700
    assert third == 100


@pytest.mark.parametrize(
    ("statement", "shown"),
    [
        ("\nALTER TABLE public.orders\n  ADD price integer", "ALTER TABLE public.orders ADD price integer"),
        ("ALTER TABLE \"Mo%re 1\" ADD x text DEFAULT 'SECRET'", 'ALTER TABLE "Mo%re 1" ADD x text DEFAULT'),
        ("UPDATE orders SET price = 12345", "UPDATE orders SET price"),
        ("INSERT INTO orders VALUES ('SECRET')", "INSERT INTO orders VALUES"),
        ("SELECT $$SECRET$$", "SELECT"),
        ("SELECT 'SECRET'", "SELECT"),
        ("-- SECRET\nSELECT 1", ""),
        ("TRUNCATE " + "x" * 200, "TRUNCATE " + "x" * 91),
        ("", ""),
        (None, ""),
    ],
)
def test_the_log_shows_a_waiting_statement_up_to_its_first_literal(statement: str | None, shown: str) -> None:
    assert statement_prefix(statement) == shown


def test_migrations_run_in_a_checkout_with_any_path(server_url: str, tmp_path: Path) -> None:
    """configparser, which stores Alembic's options, and the % operator interpret percent signs."""
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
        ("postgresql://u:hunter2@127.0.0.1:1/d", "migrate: database error: 08001 cannot connect"),
    ],
)
def test_a_migration_that_cannot_run_prints_the_reason_in_one_line(url: str | None, message: str) -> None:
    environment = {} if url is None else {"DATABASE_URL": url}
    done = subprocess.run(MIGRATE, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(message)
    assert done.stderr.count("\n") == 1
    assert "hunter2" not in done.stderr
