"""The API's user, whom the migration makes: it reads and changes rows, and nothing else."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pg8000.native
import pytest
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from pg8000.exceptions import DatabaseError

from handler import migrate
from handler.migration_function import handler
from handler.migrations import access
from handler.migrations.history import DatabaseIsAhead
from handler.settings import read_database_settings
from local.events import Context
from tests.database import connect, socket_path, temporary_database

ROOT = Path(__file__).parents[2]
HEAD = ScriptDirectory("handler/migrations").get_current_head()
REFUSED = "42501"  # insufficient_privilege: PostgreSQL manual, appendix A
# Every route, the first row of each resource being there; then what takes other statements than that.
PROGRAM = """
import re
from fastapi.routing import iter_route_contexts
from handler.main import app
from tests.client import BODIES, call

ORDER = ["POST", "GET", "PUT", "PATCH", "DELETE"]
routes = {(method, route.path) for route in iter_route_contexts(app.routes) for method in route.methods - {"HEAD"}}
for method, path in sorted(routes, key=lambda route: ORDER.index(route[0])):
    body = BODIES[path.split("/")[1]] if method in ("POST", "PUT", "PATCH") else None
    response = call(method, re.sub(r"{\\w+}", "1", path), body)
    assert response.status in (200, 201, 204), (method, path, response.status, response.body)
    print(method, path)

lamp, key = {"name": "Lamp", "description": "A desk lamp"}, [("idempotency-key", "k")]
first, again = [call("POST", "/items/", lamp, headers=key) for _ in range(2)]
assert (first.status, first.body) == (201, again.body)
assert call("POST", "/items/", {"name": "Desk"}, headers=key).status == 422
assert len(call("GET", "/items/", query="q=desk&order=name").json["items"]) == 1
changed = call("PATCH", first.headers["location"], {"description": None}, headers=[("if-match", '"1"')])
assert changed.status == 200, changed.body
"""


@dataclass
class Deployed:
    """An empty database, whose owner is no superuser, as on RDS."""

    url: str
    user: str

    def url_of(self, user: str) -> str:
        parts = urlsplit(self.url)
        return parts._replace(netloc=f"{quote(user, safe='')}@{parts.netloc.rpartition('@')[2]}").geturl()

    def migrate(self, user: str | None = None) -> str | None:
        environ = {"DATABASE_URL": self.url_of(f"{self.user}_owner"), "DATABASE_API_USER": user or self.user}
        return migrate.upgrade(read_database_settings(environ))

    def connect(self, user: str | None = None) -> pg8000.native.Connection:
        url = self.url_of(user or self.user)
        settings = read_database_settings({"DATABASE_URL": url})
        return pg8000.native.Connection(settings.user, database=settings.database, unix_sock=socket_path(url))


def drop_role(admin: pg8000.native.Connection, name: str) -> None:
    admin.run(f"DROP ROLE IF EXISTS {pg8000.native.identifier(name)}")


@pytest.fixture
def deployed(server_url: str) -> Iterator[Deployed]:
    user = f"api_{os.getpid()}"
    with connect(server_url) as admin:
        admin.run(f"CREATE ROLE {user}_owner LOGIN CREATEROLE")
        try:
            with temporary_database(server_url, f"access_{os.getpid()}") as url:
                admin.run(f"ALTER DATABASE access_{os.getpid()} OWNER TO {user}_owner")
                yield Deployed(url, user)
        finally:
            for name in (user, f"{user}_owner"):
                drop_role(admin, name)


@pytest.fixture
def later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Adds a later release's migration, whose statement it takes."""

    def add(statement: str) -> None:
        scripts = shutil.copytree(
            migrate.SCRIPTS, tmp_path / "migrations", ignore=shutil.ignore_patterns("__pycache__")
        )
        (scripts / "versions" / "later.py").write_text(
            f"from alembic import op\nrevision, down_revision = 'later', {HEAD!r}\n"
            f"def upgrade(): op.execute({statement!r})\n"
        )
        monkeypatch.setattr(migrate, "SCRIPTS", scripts)

    return add


def sqlstate(connection: pg8000.native.Connection, statement: str) -> str:
    with pytest.raises(DatabaseError) as error:
        connection.run(statement)
    return str(error.value.args[0]["C"])


def granted(deployed: Deployed) -> Any:
    """All that PostgreSQL knows of who may what in this database, and of the users of this test."""
    ours = f"LIKE '{deployed.user}%'"
    with deployed.connect(f"{deployed.user}_owner") as owner:
        return [
            owner.run(statement)
            for statement in (
                "SELECT relname, relacl::text FROM pg_class WHERE relnamespace = 'public'::regnamespace ORDER BY 1",
                "SELECT nspname, nspacl::text FROM pg_namespace ORDER BY 1",
                "SELECT datacl::text FROM pg_database WHERE datname = current_database()",
                f"SELECT rolname, rolcanlogin, rolsuper, rolcreaterole FROM pg_roles WHERE rolname {ours} ORDER BY 1",
                f"SELECT roleid::regrole, member::regrole FROM pg_auth_members WHERE member::regrole::text {ours}",
            )
        ]


# What it may.


def test_the_api_serves_every_route(deployed: Deployed) -> None:
    assert deployed.migrate() == HEAD
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM],
        cwd=ROOT,
        env=os.environ | {"DATABASE_URL": deployed.url_of(deployed.user)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert {"POST /items/", "DELETE /items/{item_id}", "GET /health/ready"} <= set(done.stdout.splitlines())


def test_the_limits_hold_for_it_too(deployed: Deployed) -> None:
    deployed.migrate()
    with deployed.connect() as api:
        limits = {
            name: api.run(f"SHOW {name}")[0][0]
            for name in ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout")
        }
    assert limits == {
        "statement_timeout": "9s",
        "lock_timeout": "3s",
        "idle_in_transaction_session_timeout": "15s",
    }


@pytest.mark.parametrize(
    ("statement", "use"),
    [
        ("CREATE TABLE more (id int GENERATED ALWAYS AS IDENTITY, name text)", "INSERT INTO more (name) VALUES ('a')"),
        ("CREATE TABLE more (id serial, name text)", "INSERT INTO more (name) VALUES ('a')"),
        ('CREATE TABLE "Mo%re:a""" (name text)', 'DELETE FROM "Mo%re:a"""'),
        ("CREATE TABLE more (name text) PARTITION BY LIST (name)", "SELECT FROM more"),
        ("CREATE VIEW more AS SELECT * FROM items", "UPDATE more SET name = 'a'"),
        ("CREATE MATERIALIZED VIEW more AS SELECT * FROM items", "SELECT FROM more"),
        ("CREATE TYPE more AS ENUM ('a')", "SELECT 'a'::more"),
        ("CREATE FUNCTION more() RETURNS int LANGUAGE sql RETURN 1", "SELECT more()"),
    ],
)  # fmt: skip
def test_what_a_later_migration_adds_is_covered(
    statement: str, use: str, deployed: Deployed, later: Callable[[str], None]
) -> None:
    deployed.migrate()
    later(statement)
    assert deployed.migrate() == "later"
    with deployed.connect() as api:
        api.run(use)


# What it may not.


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE more ()",
        "CREATE TEMPORARY TABLE items ()",
        "CREATE VIEW more AS SELECT 1",
        "CREATE FUNCTION more() RETURNS int LANGUAGE sql RETURN 1",
        "CREATE SCHEMA more",
        "CREATE EXTENSION citext",
        "CREATE INDEX ON items (name)",
        "CREATE ROLE more",
        "CREATE DATABASE more",
        "ALTER TABLE items ADD price integer",
        "ALTER TABLE items OWNER TO CURRENT_USER",
        "ALTER TABLE items DISABLE TRIGGER ALL",
        "CREATE RULE more AS ON DELETE TO items DO INSTEAD NOTHING",
        "DROP TABLE items",
        "DROP TABLE idempotency_keys",
        "DROP EXTENSION pg_trgm",
        "DROP SCHEMA public CASCADE",
        "TRUNCATE items",
        "SELECT FROM alembic_version",
        "INSERT INTO alembic_version VALUES ('0099')",
        "UPDATE alembic_version SET version_num = '0001'",
        "DELETE FROM alembic_version",
        "GRANT SELECT ON alembic_version TO PUBLIC",
        "COMMENT ON TABLE alembic_version IS ''",
        "SELECT setval('items_id_seq', 1)",
        "SELECT FROM pg_authid",
        "SELECT pg_read_file('/etc/passwd')",
        "COPY items TO PROGRAM 'cat'",
        "SET ROLE {owner}",
        "ALTER ROLE {owner} PASSWORD 'x'",
        "ALTER ROLE {user} CREATEROLE",
        "GRANT {owner} TO {user}",
        "ALTER DATABASE {database} SET statement_timeout = 0",
        "ALTER DEFAULT PRIVILEGES FOR ROLE {owner} GRANT ALL ON TABLES TO PUBLIC",
    ],
)
def test_it_can_do_nothing_else(statement: str, deployed: Deployed) -> None:
    deployed.migrate()
    names = {"user": deployed.user, "owner": f"{deployed.user}_owner", "database": f"access_{os.getpid()}"}
    with deployed.connect() as api:
        assert sqlstate(api, statement.format(**names)) == REFUSED


# How it is made.


def test_twice_is_the_same_as_once(deployed: Deployed) -> None:
    deployed.migrate()
    before = granted(deployed)
    assert deployed.migrate() == HEAD
    assert granted(deployed) == before


def test_without_the_setting_nobody_is_let_in(deployed: Deployed) -> None:
    before = granted(deployed)
    owner = deployed.url_of(f"{deployed.user}_owner")
    for environ in ({"DATABASE_URL": owner}, {"DATABASE_URL": owner, "DATABASE_API_USER": ""}):
        assert migrate.upgrade(read_database_settings(environ)) == HEAD
    (relations, *others), (_, *others_before) = granted(deployed), before
    assert others == others_before
    assert {acl for _, acl in relations} == {None}


def test_a_release_before_lets_it_use_a_newer_schema_too(
    deployed: Deployed, later: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    later("CREATE TABLE more ()")
    owner = {"DATABASE_URL": deployed.url_of(f"{deployed.user}_owner")}
    migrate.upgrade(read_database_settings(owner))
    monkeypatch.setattr(migrate, "SCRIPTS", ROOT / "handler" / "migrations")
    with pytest.raises(DatabaseIsAhead):
        deployed.migrate()
    with deployed.connect() as api:
        api.run("SELECT FROM items, more")


def test_a_migration_that_fails_makes_nobody(deployed: Deployed, later: Callable[[str], None]) -> None:
    later("SELEC 1")
    before = granted(deployed)
    with pytest.raises(Exception, match="42601"):
        deployed.migrate()
    assert granted(deployed) == before


@pytest.mark.parametrize("name", ['"; DROP TABLE items; --', "a'b", "Ann Lamp", "100%s", "a:b", "ä$1"])
def test_any_name_is_a_name_and_nothing_more(name: str, deployed: Deployed, server_url: str) -> None:
    name += str(os.getpid())
    try:
        for _ in range(2):
            deployed.migrate(name)
        with deployed.connect(name) as api:
            assert api.run("SELECT current_user, (SELECT count(*) FROM items)") == [[name, 0]]
    finally:
        with connect(deployed.url) as database, connect(server_url) as admin:
            database.run(f"DROP OWNED BY {pg8000.native.identifier(name)}")
            drop_role(admin, name)


@pytest.mark.parametrize("name", ["public", "none", "pg_monitors"])
def test_a_name_that_stands_for_others_is_refused(name: str, deployed: Deployed) -> None:
    with pytest.raises(Exception, match="42939"):  # reserved_name
        deployed.migrate(name)


def test_who_may_do_what_the_owner_may_is_refused(deployed: Deployed, server_url: str) -> None:
    with connect(server_url) as admin:
        admin.run(f"CREATE ROLE {deployed.user} LOGIN")
        admin.run(f"GRANT {deployed.user}_owner TO {deployed.user}")
    for name in (deployed.user, f"{deployed.user}_owner", "postgres"):
        with pytest.raises(CommandError, match=f"^DATABASE_API_USER: {name} may do what the tables' owner may"):
            deployed.migrate(name)


def test_on_rds_it_logs_in_with_a_token(deployed: Deployed, server_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert access.IAM == "rds_iam"
    iam = f"{deployed.user}_iam"  # a role is the whole server's, and other tests run on it
    monkeypatch.setattr(access, "IAM", iam)
    with connect(server_url) as admin:
        admin.run(f"CREATE ROLE {iam}")
        try:
            admin.run(f"GRANT {iam} TO {deployed.user}_owner WITH ADMIN OPTION")
            for _ in range(2):
                deployed.migrate()
            with deployed.connect() as api:
                assert api.run(f"SELECT pg_has_role('{iam}', 'USAGE')") == [[True]]
        finally:
            drop_role(admin, iam)


def test_the_runbook_shows_who_may_and_drops_a_former_user(deployed: Deployed) -> None:
    section = (ROOT / "docs" / "runbook.md").read_text().partition("## Who may do what")[2].partition("\n## ")[0]
    show, drop = re.findall(r"```sql\n(.*?)```", section, re.DOTALL)
    deployed.migrate()
    with deployed.connect(f"{deployed.user}_owner") as owner:
        theirs = [found[1:] for found in owner.run(show) if found[0] == deployed.user]
        rows = "DELETE, INSERT, SELECT, UPDATE"
        assert theirs == [["idempotency_keys", rows], ["items", rows]]
        for statement in drop.replace("former_user", deployed.user).split(";"):
            owner.run(statement)
        assert deployed.user not in [name for (name,) in owner.run("SELECT rolname FROM pg_roles")]


def test_the_function_that_migrates_makes_it(deployed: Deployed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", deployed.url_of(f"{deployed.user}_owner"))
    monkeypatch.setenv("DATABASE_API_USER", deployed.user)
    assert handler({}, Context()) == {"Revision": HEAD}
    with deployed.connect() as api:
        api.run("SELECT FROM items")
