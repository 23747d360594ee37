"""The API's user, which the migration creates, can read and change rows and nothing else."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pg8000.native
import pytest
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from pg8000.exceptions import DatabaseError

from handler import migrations
from handler.database.base import Base
from handler.migrations import effective_rights
from handler.migrations.custom_resource import handler
from handler.migrations.history import DatabaseIsAhead
from handler.migrations.upgrade import upgrade
from handler.settings import read_database_settings
from local.events import Context
from tests.support.database import connect, socket_path, temporary_database
from tests.support.migrated import create_probe_tables

ROOT = Path(__file__).parents[2]
HEAD = ScriptDirectory("handler/migrations").get_current_head()
REFUSED = "42501"  # insufficient_privilege: PostgreSQL manual, appendix A
# Every route, the first row of each resource being there; then what takes other statements than that.
PROGRAM = """
from fastapi.routing import iter_route_contexts
from tests.support.client import call, example_body, listed, path_of_first
from handler.main import app

ORDER = ["POST", "GET", "PUT", "PATCH", "DELETE"]
routes = {(method, route.path) for route in iter_route_contexts(app.routes) for method in route.methods - {"HEAD"}}
for method, path in sorted(routes, key=lambda route: ORDER.index(route[0])):
    response = call(method, path_of_first(path), example_body(method, path))
    allowed = 200, 201, 202, 204, 409  # a rule of the resource may refuse the example; a missing right is 500
    assert response.status in allowed, (method, path, response.status, response.body)
    print(method, path)

thermometer, key = {"name": "Thermometer", "note": "In the cellar"}, [("idempotency-key", "k")]
first, again = [call("POST", "/probes/", thermometer, headers=key) for _ in range(2)]
assert (first.status, first.body) == (201, again.body)
assert call("POST", "/probes/", {"name": "Scale"}, headers=key).status == 422
assert len(listed(call("GET", "/probes/", query="state=idle"))) == 1
changed = call("PATCH", first.headers["location"], {"note": None}, headers=[("if-match", '"1"')])
assert changed.status == 200, changed.body
"""


@dataclass
class Deployed:
    """A database before its first migration; its owner is no superuser, as on RDS.

    It has the tables of the tests' own resource, which no migration creates.
    """

    url: str
    user: str

    def url_of(self, user: str) -> str:
        parts = urlsplit(self.url)
        return parts._replace(netloc=f"{quote(user, safe='')}@{parts.netloc.rpartition('@')[2]}").geturl()

    def migrate(self, user: str | None = None) -> str | None:
        environ = {"DATABASE_URL": self.url_of(f"{self.user}_owner"), "DATABASE_API_USER": user or self.user}
        return upgrade(read_database_settings(environ))

    def connect(self, user: str | None = None) -> pg8000.native.Connection:
        url = self.url_of(user or self.user)
        settings = read_database_settings({"DATABASE_URL": url})
        return pg8000.native.Connection(
            settings.user, database=settings.database, unix_sock=socket_path(url), ssl_context=False
        )


def drop_role(admin: pg8000.native.Connection, name: str) -> None:
    admin.run(f"DROP ROLE IF EXISTS {pg8000.native.identifier(name)}")


@contextmanager
def deployment(server_url: str, name: str) -> Iterator[Deployed]:
    user = f"api_{name}"
    with connect(server_url) as admin:
        admin.run(f"CREATE ROLE {user}_owner LOGIN CREATEROLE")
        try:
            with temporary_database(server_url, f"access_{name}") as url:
                admin.run(f"ALTER DATABASE access_{name} OWNER TO {user}_owner")
                deployed = Deployed(url, user)
                create_probe_tables(deployed.url_of(f"{user}_owner"))
                yield deployed
        finally:
            for role in (user, f"{user}_owner"):
                drop_role(admin, role)


@pytest.fixture
def deployed(server_url: str) -> Iterator[Deployed]:
    with deployment(server_url, str(os.getpid())) as found:
        yield found


@pytest.fixture(scope="module")
def migrated(server_url: str) -> Iterator[Deployed]:
    """A deployment whose API's user existed before it, and a role `{user}_group`; tests leave it as it was."""
    with deployment(server_url, f"m{os.getpid()}") as found, connect(server_url) as admin:
        admin.run(f"CREATE ROLE {found.user} LOGIN; CREATE ROLE {found.user}_group")
        found.migrate()
        try:
            yield found
        finally:
            with connect(found.url) as database:
                database.run(f"DROP OWNED BY {found.user}, {found.user}_group")
            drop_role(admin, f"{found.user}_group")


@pytest.fixture
def later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Adds a later release's migration, whose statement it takes."""

    def add(statement: str) -> None:
        scripts = shutil.copytree(
            migrations.SCRIPTS, tmp_path / "migrations", ignore=shutil.ignore_patterns("__pycache__")
        )
        (scripts / "versions" / "later.py").write_text(
            f"from alembic import op\nrevision, down_revision = 'later', {HEAD!r}\n"
            f"def upgrade(): op.execute({statement!r})\n"
        )
        monkeypatch.setattr(migrations, "SCRIPTS", scripts)

    return add


def sqlstate(connection: pg8000.native.Connection, statement: str) -> str:
    with pytest.raises(DatabaseError) as error:
        connection.run(statement)
    return str(error.value.args[0]["C"])


def granted(deployed: Deployed) -> Any:
    """All access lists of this database, and the attributes and memberships of the roles of this test."""
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


# What the API's user may do.


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
    assert {"POST /probes/", "DELETE /probes/{probe_id}", "GET /health/ready"} <= set(done.stdout.splitlines())


def test_the_limits_apply_to_the_api_user(deployed: Deployed) -> None:
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
        ("CREATE VIEW more AS SELECT * FROM probes", "UPDATE more SET name = 'a'"),
        ("CREATE MATERIALIZED VIEW more AS SELECT * FROM probes", "SELECT FROM more"),
        ("CREATE TYPE more AS ENUM ('a')", "SELECT 'a'::more"),
        ("CREATE FUNCTION more() RETURNS int LANGUAGE sql RETURN 1", "SELECT more()"),
    ],
)  # fmt: skip
def test_the_api_user_may_use_what_a_later_migration_adds(
    statement: str, use: str, deployed: Deployed, later: Callable[[str], None]
) -> None:
    deployed.migrate()
    later(statement)
    assert deployed.migrate() == "later"
    with deployed.connect() as api:
        api.run(use)


# What the API's user may not do.


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE more ()",
        "CREATE TEMPORARY TABLE probes ()",
        "CREATE VIEW more AS SELECT 1",
        "CREATE FUNCTION more() RETURNS int LANGUAGE sql RETURN 1",
        "CREATE SCHEMA more",
        "CREATE EXTENSION citext",
        "CREATE INDEX ON probes (name)",
        "CREATE ROLE more",
        "CREATE DATABASE more",
        "ALTER TABLE probes ADD price integer",
        "ALTER TABLE probes OWNER TO CURRENT_USER",
        "ALTER TABLE probes DISABLE TRIGGER ALL",
        "CREATE RULE more AS ON DELETE TO probes DO INSTEAD NOTHING",
        "DROP TABLE probes",
        "DROP TABLE idempotency_keys",
        "DROP EXTENSION pg_trgm",
        "DROP SCHEMA public CASCADE",
        "TRUNCATE probes",
        "SELECT FROM alembic_version",
        "INSERT INTO alembic_version VALUES ('0099')",
        "UPDATE alembic_version SET version_num = '0001'",
        "DELETE FROM alembic_version",
        "GRANT SELECT ON alembic_version TO PUBLIC",
        "COMMENT ON TABLE alembic_version IS ''",
        "SELECT setval('probes_id_seq', 1)",
        "SELECT FROM pg_authid",
        "SELECT pg_read_file('/etc/passwd')",
        "COPY probes TO PROGRAM 'cat'",
        "SET ROLE {owner}",
        "ALTER ROLE {owner} PASSWORD 'x'",
        "ALTER ROLE {user} CREATEROLE",
        "GRANT {owner} TO {user}",
        "ALTER DATABASE {database} SET statement_timeout = 0",
        "ALTER DEFAULT PRIVILEGES FOR ROLE {owner} GRANT ALL ON TABLES TO PUBLIC",
    ],
)
def test_the_api_user_cannot_do_anything_else(statement: str, deployed: Deployed) -> None:
    deployed.migrate()
    names = {"user": deployed.user, "owner": f"{deployed.user}_owner", "database": f"access_{os.getpid()}"}
    with deployed.connect() as api:
        assert sqlstate(api, statement.format(**names)) == REFUSED


# How the API's user is created.


def test_migrating_again_changes_no_grant(deployed: Deployed) -> None:
    deployed.migrate()
    before = granted(deployed)
    assert deployed.migrate() == HEAD
    assert granted(deployed) == before


def test_without_the_setting_no_role_gets_a_grant(deployed: Deployed) -> None:
    before = granted(deployed)
    owner = deployed.url_of(f"{deployed.user}_owner")
    for environ in ({"DATABASE_URL": owner}, {"DATABASE_URL": owner, "DATABASE_API_USER": ""}):
        assert upgrade(read_database_settings(environ)) == HEAD
    (relations, *others), (_, *others_before) = granted(deployed), before
    assert others == others_before
    assert {acl for _, acl in relations} == {None}


def test_an_older_release_grants_access_to_a_newer_schema(
    deployed: Deployed, later: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    later("CREATE TABLE more ()")
    owner = {"DATABASE_URL": deployed.url_of(f"{deployed.user}_owner")}
    upgrade(read_database_settings(owner))
    monkeypatch.setattr(migrations, "SCRIPTS", ROOT / "handler" / "migrations")
    with pytest.raises(DatabaseIsAhead):
        deployed.migrate()
    with deployed.connect() as api:
        api.run("SELECT FROM probes, more")


def test_a_migration_that_fails_creates_no_role(deployed: Deployed, later: Callable[[str], None]) -> None:
    later("SELEC 1")
    before = granted(deployed)
    with pytest.raises(Exception, match="42601"):
        deployed.migrate()
    assert granted(deployed) == before


@pytest.mark.parametrize("name", ['"; DROP TABLE probes; --', "a'b", "Ann Lamp", "100%s", "a:b", "ä$1"])
def test_a_role_name_may_contain_any_character(name: str, deployed: Deployed, server_url: str) -> None:
    name += str(os.getpid())
    try:
        for _ in range(2):
            deployed.migrate(name)
        with deployed.connect(name) as api:
            assert api.run("SELECT current_user, (SELECT count(*) FROM probes)") == [[name, 0]]
    finally:
        with connect(deployed.url) as database, connect(server_url) as admin:
            database.run(f"DROP OWNED BY {pg8000.native.identifier(name)}")
            drop_role(admin, name)


@pytest.mark.parametrize("name", ["public", "none", "pg_monitors"])
def test_a_reserved_role_name_is_rejected(name: str, deployed: Deployed) -> None:
    with pytest.raises(Exception, match="42939"):  # reserved_name
        deployed.migrate(name)


def test_the_user_that_migrates_is_rejected_as_the_api_user(deployed: Deployed) -> None:
    owner = f"{deployed.user}_owner"
    with pytest.raises(CommandError, match=f"^DATABASE_API_USER: {owner} is the user that migrates, the tables' owner"):
        deployed.migrate(owner)
    with pytest.raises(CommandError, match=r"another user\.\nSUPERUSER: ALTER ROLE postgres NOSUPERUSER;\n"):
        deployed.migrate("postgres")


# A role that exists already may have rights of before: {group} is a role that it may be made a member of.
THROUGH_GROUP = "GRANT {group} TO {user}; "
LEAVE_GROUP = "REVOKE {group} FROM {user} GRANTED BY postgres"
REASSIGN = "REASSIGN OWNED BY {user} TO {owner}"
EXCESS = [
    *(
        (f"ALTER ROLE {{user}} {name}", name, f"ALTER ROLE {{user}} NO{name}")
        for name in ("SUPERUSER", "CREATEROLE", "CREATEDB", "REPLICATION", "BYPASSRLS")
    ),
    # Memberships.
    *(
        (f"GRANT {role} TO {{user}}", f"membership in {role}", f"REVOKE {role} FROM {{user}} GRANTED BY postgres")
        for role in ("pg_write_all_data", "pg_read_all_data", "pg_execute_server_program", "pg_signal_backend")
    ),
    (
        "GRANT {owner} TO {user}",
        "owner of table public.probes through {owner}",
        "REVOKE {owner} FROM {user} GRANTED BY postgres",
    ),
    (
        "GRANT {owner} TO {group}; " + THROUGH_GROUP,
        "owner of table public.probes through {owner}",
        LEAVE_GROUP,
    ),
    (THROUGH_GROUP + "ALTER ROLE {group} CREATEROLE", "CREATEROLE through {group}", LEAVE_GROUP),
    (
        THROUGH_GROUP + "GRANT TRUNCATE ON probes TO {group}",
        "TRUNCATE ON TABLE public.probes through {group}",
        LEAVE_GROUP,
    ),
    (
        "GRANT {group} TO {user} WITH ADMIN OPTION",
        "ADMIN OPTION on {group}",
        "REVOKE ADMIN OPTION FOR {group} FROM {user} GRANTED BY postgres",
    ),
    # Ownership.
    ("ALTER TABLE probes OWNER TO {user}", "owner of table public.probes", REASSIGN),
    ("ALTER SCHEMA public OWNER TO {user}", "owner of schema public", REASSIGN),
    ("ALTER DATABASE {database} OWNER TO {user}", "owner of database {database}", REASSIGN),
    ("CREATE SEQUENCE s; ALTER SEQUENCE s OWNER TO {user}", "owner of sequence public.s", REASSIGN),
    ("CREATE VIEW v AS SELECT 1; ALTER VIEW v OWNER TO {user}", "owner of view public.v", REASSIGN),
    ("CREATE TYPE t AS ENUM (); ALTER TYPE t OWNER TO {user}", "owner of type public.t", REASSIGN),
    (
        "CREATE FUNCTION f(int) RETURNS int LANGUAGE sql RETURN 1; ALTER FUNCTION f OWNER TO {user}",
        "owner of function public.f(integer)",
        REASSIGN,
    ),
    ("CREATE SCHEMA x AUTHORIZATION {user}", "owner of schema x", REASSIGN),
    ("CREATE PUBLICATION p; ALTER PUBLICATION p OWNER TO {user}", "owner of publication p", REASSIGN),
    # Privileges, which are revoked with the key word of their grant.
    *(
        (given, right, f"REVOKE {right} FROM {{user}}")
        for given, right in (
            ("GRANT TRUNCATE ON probes TO {user}", "TRUNCATE ON TABLE public.probes"),
            ("GRANT TRIGGER ON probes TO {user}", "TRIGGER ON TABLE public.probes"),
            ("GRANT REFERENCES ON probes TO {user}", "REFERENCES ON TABLE public.probes"),
            ("GRANT REFERENCES (id) ON probes TO {user}", "REFERENCES (id) ON TABLE public.probes"),
            ("GRANT SELECT ON alembic_version TO {user}", "SELECT ON TABLE public.alembic_version"),
            (
                "GRANT UPDATE (version_num) ON alembic_version TO {user}",
                "UPDATE (version_num) ON TABLE public.alembic_version",
            ),
            ("GRANT UPDATE ON SEQUENCE probes_id_seq TO {user}", "UPDATE ON SEQUENCE public.probes_id_seq"),
            ("GRANT CREATE ON SCHEMA public TO {user}", "CREATE ON SCHEMA public"),
            ("GRANT CREATE, TEMPORARY ON DATABASE {database} TO {user}", "CREATE, TEMPORARY ON DATABASE {database}"),
            ("GRANT CREATE ON DATABASE postgres TO {user}", "CREATE ON DATABASE postgres"),
            ("GRANT CREATE ON TABLESPACE pg_default TO {user}", "CREATE ON TABLESPACE pg_default"),
            ("GRANT SELECT ON pg_authid TO {user}", "SELECT ON TABLE pg_catalog.pg_authid"),
            (
                "GRANT EXECUTE ON FUNCTION pg_read_file(text) TO {user}",
                "EXECUTE ON ROUTINE pg_catalog.pg_read_file(pg_catalog.text)",
            ),
            (
                "GRANT SET ON PARAMETER session_replication_role TO {user}",
                "SET ON PARAMETER session_replication_role",
            ),
            (
                "CREATE FOREIGN DATA WRAPPER w; GRANT USAGE ON FOREIGN DATA WRAPPER w TO {user}",
                "USAGE ON FOREIGN DATA WRAPPER w",
            ),
            (
                (
                    "CREATE FOREIGN DATA WRAPPER w; CREATE SERVER s FOREIGN DATA WRAPPER w;"
                    "GRANT USAGE ON FOREIGN SERVER s TO {user}"
                ),
                "USAGE ON FOREIGN SERVER s",
            ),
            ("SELECT lo_create(4711); GRANT SELECT ON LARGE OBJECT 4711 TO {user}", "SELECT ON LARGE OBJECT 4711"),
        )
    ),
    *(
        (given, f"{right} through PUBLIC", f"REVOKE {right} FROM PUBLIC")
        for given, right in (
            ("GRANT TRUNCATE ON probes TO PUBLIC", "TRUNCATE ON TABLE public.probes"),
            ("GRANT SELECT ON alembic_version TO PUBLIC", "SELECT ON TABLE public.alembic_version"),
            ("CREATE SCHEMA x; GRANT CREATE ON SCHEMA x TO PUBLIC", "CREATE ON SCHEMA x"),
        )
    ),
    (
        "GRANT SELECT ON probes TO {user} WITH GRANT OPTION",
        "GRANT OPTION FOR SELECT ON TABLE public.probes",
        "REVOKE GRANT OPTION FOR SELECT ON TABLE public.probes FROM {user} CASCADE",
    ),
    (
        "GRANT TRUNCATE ON probes TO {group} WITH GRANT OPTION; SET ROLE {group}; GRANT TRUNCATE ON probes TO {user}",
        "TRUNCATE ON TABLE public.probes",
        "SET ROLE {group}; REVOKE TRUNCATE ON TABLE public.probes FROM {user}; RESET ROLE",
    ),
    # Privileges on objects that do not exist yet.
    (
        "ALTER DEFAULT PRIVILEGES FOR ROLE {owner} GRANT SELECT, TRUNCATE ON TABLES TO {user}",
        "TRUNCATE ON TABLES by default",
        "ALTER DEFAULT PRIVILEGES FOR ROLE {owner} REVOKE TRUNCATE ON TABLES FROM {user}",
    ),
    (
        "ALTER DEFAULT PRIVILEGES FOR ROLE {owner} IN SCHEMA public GRANT UPDATE ON SEQUENCES TO PUBLIC",
        "UPDATE ON SEQUENCES by default through PUBLIC",
        "ALTER DEFAULT PRIVILEGES FOR ROLE {owner} IN SCHEMA public REVOKE UPDATE ON SEQUENCES FROM PUBLIC",
    ),
]
# Drops the objects that the statements of EXCESS create.
UNDO = """
DROP SEQUENCE IF EXISTS s; DROP VIEW IF EXISTS v; DROP TYPE IF EXISTS t; DROP FUNCTION IF EXISTS f;
DROP SCHEMA IF EXISTS x; DROP PUBLICATION IF EXISTS p; DROP FOREIGN DATA WRAPPER IF EXISTS w CASCADE;
SELECT lo_unlink(oid) FROM pg_largeobject_metadata; DROP OWNED BY {group}; ALTER ROLE {group} NOCREATEROLE;
ALTER SCHEMA public OWNER TO pg_database_owner; REVOKE {owner} FROM {group};
ALTER DEFAULT PRIVILEGES FOR ROLE {owner} REVOKE SELECT ON TABLES FROM {user}
"""


def names_of(deployed: Deployed) -> dict[str, str]:
    user, database = deployed.user, read_database_settings({"DATABASE_URL": deployed.url}).database
    return {"user": user, "owner": f"{user}_owner", "group": f"{user}_group", "database": str(database)}


@pytest.mark.parametrize(("given", "right", "statement"), EXCESS, ids=[given for given, _, _ in EXCESS])
def test_an_excessive_right_fails_the_migration_and_the_message_revokes_it(
    given: str, right: str, statement: str, migrated: Deployed
) -> None:
    names = names_of(migrated)
    with connect(migrated.url) as admin:
        try:
            admin.run(given.format(**names))
            admin.run("RESET ROLE")
            with pytest.raises(CommandError, match="may do more than read and change rows") as error:
                migrated.migrate()
            # One line for each statement: the rights that it takes away, and the statement.
            lines = dict(line.rstrip(";").split(": ") for line in str(error.value).splitlines()[1:])
            taken = {right for rights, statement in lines.items() for right in rights.split(", ")}
            assert right.format(**names) in lines or right.format(**names) in taken
            assert statement.format(**names) in lines.values()
            for one in lines.values():
                admin.run(one)
            assert migrated.migrate() == HEAD
        finally:
            admin.run(UNDO.format(**names))


def test_all_excessive_rights_are_in_one_message(migrated: Deployed) -> None:
    names = names_of(migrated)
    with connect(migrated.url) as admin:
        admin.run(
            "GRANT TRUNCATE, TRIGGER ON probes, idempotency_keys TO {user}; ALTER ROLE {user} CREATEDB".format(**names)
        )
        with pytest.raises(CommandError) as error:
            migrated.migrate()
        found = str(error.value).splitlines()[1:]
        rights = [f"TRIGGER, TRUNCATE ON TABLE public.{table}" for table in ("idempotency_keys", "probes")]
        assert found == [
            f"CREATEDB: ALTER ROLE {migrated.user} NOCREATEDB;",
            *(f"{right}: REVOKE {right} FROM {migrated.user};" for right in rights),
        ]
        admin.run("".join(line.partition(": ")[2] for line in found))
    assert migrated.migrate() == HEAD


@pytest.mark.parametrize(
    "given",
    [
        "GRANT {group} TO {user}",
        "GRANT {group} TO {user}; GRANT SELECT ON probes TO {group}",
        "CREATE SCHEMA x; CREATE TABLE x.y (); GRANT USAGE ON SCHEMA x TO {user}; GRANT DELETE ON x.y TO {user}",
        "GRANT UPDATE (name) ON probes TO {user}",
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql RETURN 1; GRANT EXECUTE ON FUNCTION f TO {user}",
        "ALTER DEFAULT PRIVILEGES FOR ROLE {owner} GRANT SELECT ON TABLES TO {user}",
        "SET ROLE {user}; SELECT lo_create(4711); GRANT SELECT ON LARGE OBJECT 4711 TO PUBLIC",
        "SET ROLE {user}; ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO PUBLIC",
    ],
)
def test_rights_to_rows_and_harmless_rights_are_allowed(given: str, migrated: Deployed) -> None:
    names = names_of(migrated)
    with connect(migrated.url) as admin:
        try:
            admin.run(given.format(**names))
            assert migrated.migrate() == HEAD
        finally:
            admin.run("RESET ROLE")
            admin.run("REVOKE {group} FROM {user}; DROP TABLE IF EXISTS x.y; DROP OWNED BY {user};".format(**names))
            admin.run(UNDO.format(**names))
            migrated.migrate()


@pytest.mark.parametrize(
    ("name", "statement"),
    [
        ("SET statement_timeout", "SET statement_timeout = 0"),
        ("ALTER ROLE … SET", "ALTER ROLE {user} SET statement_timeout = 0"),
        ("ALTER ROLE … PASSWORD", "ALTER ROLE {user} PASSWORD 'x'"),
        ("LOCK TABLE", "LOCK TABLE probes"),
        ("pg_advisory_lock", "SELECT pg_advisory_xact_lock(20261122)"),
        ("lo_create", "SELECT lo_create(4711)"),
        ("nextval", "SELECT nextval('probes_id_seq')"),
        ("pg_terminate_backend", "SELECT pg_terminate_backend(0)"),
        ("NOTIFY", "NOTIFY more"),
        ("pg_catalog", "SELECT FROM pg_catalog.pg_proc, pg_catalog.pg_roles LIMIT 1"),
    ],
)
def test_the_remaining_abilities_of_the_api_user_are_documented(name: str, statement: str, migrated: Deployed) -> None:
    section = (
        (ROOT / "docs" / "adr" / "0025-effective-rights.md").read_text().partition("What the role can still do")[2]
    )
    assert f"`{name}`" in section
    with migrated.connect() as api:
        api.run(f"BEGIN; {statement.format(**names_of(migrated))}; ROLLBACK")


# Objects with which the API's user could change what a migration runs.

# A schema as PostgreSQL 14 and older have it, with what a caller without an exact match in pg_catalog would take.
OPEN = "GRANT CREATE ON SCHEMA public TO PUBLIC"
CALLED = "CREATE SEQUENCE called; GRANT USAGE ON SEQUENCE called TO PUBLIC"  # which no rollback takes back
FUNCTION = """
CREATE FUNCTION public.quote_ident(name) RETURNS text LANGUAGE plpgsql AS
$$ BEGIN PERFORM nextval('public.called'); RETURN pg_catalog.quote_ident($1::text); END $$
"""
OPERATOR = """
CREATE FUNCTION public.same(name, varchar) RETURNS bool LANGUAGE plpgsql AS
$$ BEGIN PERFORM nextval('public.called'); RETURN $1::text OPERATOR(pg_catalog.=) $2::text; END $$;
CREATE OPERATOR public.= (FUNCTION = public.same, LEFTARG = name, RIGHTARG = varchar)
"""


@pytest.mark.parametrize("planted", [FUNCTION, OPERATOR])
def test_objects_that_the_api_user_has_created_are_rejected_before_the_first_migration(
    planted: str, deployed: Deployed, later: Callable[[str], None]
) -> None:
    deployed.migrate()
    later("SELECT quote_ident(current_database())")
    with connect(deployed.url) as admin, deployed.connect() as api:
        admin.run(f"{OPEN}; {CALLED}")
        api.run(planted)
        with pytest.raises(CommandError, match=r"owner of function public\..*: REASSIGN OWNED BY"):
            deployed.migrate()
        assert admin.run("SELECT is_called FROM called") == [[False]]
        admin.run("DROP FUNCTION IF EXISTS public.quote_ident(name), public.same CASCADE")
        assert deployed.migrate() == "later"
        assert sqlstate(api, planted) == REFUSED  # from now on nobody can


def test_statements_of_this_project_call_no_function_of_another_role(deployed: Deployed) -> None:
    with connect(deployed.url) as admin:
        admin.run(f"{OPEN}; {CALLED}; CREATE ROLE {deployed.user}_other")
        try:
            admin.run(f"SET ROLE {deployed.user}_other; {FUNCTION}")
            admin.run("RESET ROLE")
            assert deployed.migrate() == HEAD
            assert deployed.migrate() == HEAD
            assert admin.run("SELECT is_called FROM called") == [[False]]
        finally:
            admin.run(f"RESET ROLE; DROP OWNED BY {deployed.user}_other; DROP ROLE {deployed.user}_other")


def test_a_schema_that_the_migration_cannot_close_fails_the_migration(deployed: Deployed) -> None:
    with connect(deployed.url) as admin:
        admin.run(f"ALTER SCHEMA public OWNER TO postgres; {OPEN}")
        with pytest.raises(
            CommandError, match="CREATE ON SCHEMA public through PUBLIC: REVOKE CREATE ON SCHEMA public"
        ):
            deployed.migrate()


def test_a_migration_finds_the_schemas_of_the_databases_own_search_path(
    deployed: Deployed, later: Callable[[str], None]
) -> None:
    with connect(deployed.url) as admin:
        names = names_of(deployed)
        admin.run(
            "CREATE SCHEMA ext; CREATE EXTENSION pg_trgm SCHEMA ext; GRANT USAGE ON SCHEMA ext TO {owner}".format(
                **names
            )
        )
        admin.run('CREATE SCHEMA "My app" AUTHORIZATION {owner}'.format(**names))
        admin.run('ALTER DATABASE {database} SET search_path = "My app", missing, ext'.format(**names))
        later("CREATE TABLE path AS SELECT pg_catalog.current_setting('search_path')")
        assert deployed.migrate() == "later"
        assert admin.run('SELECT * FROM "My app".path') == [['"My app", ext, pg_temp']]
        with deployed.connect() as api:
            api.run('SELECT FROM "My app".idempotency_keys')
        admin.run("ALTER DATABASE {database} SET search_path = missing".format(**names))
        with pytest.raises(CommandError, match="no schema of the database's search_path exists"):
            deployed.migrate()


def test_on_rds_the_api_user_logs_in_with_a_token(
    deployed: Deployed, server_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert effective_rights.IAM == "rds_iam"
    iam = f"{deployed.user}_iam"  # a role is the whole server's, and other tests run on it
    monkeypatch.setattr(effective_rights, "IAM", iam)
    monkeypatch.setattr("handler.migrations.grants.IAM", iam)
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


def test_the_operations_guide_shows_who_may_and_drops_a_former_user(deployed: Deployed) -> None:
    section = (ROOT / "docs" / "operations.md").read_text().partition("## Who may do what")[2].partition("\n## ")[0]
    show, drop = re.findall(r"```sql\n(.*?)```", section, re.DOTALL)
    deployed.migrate()
    with deployed.connect(f"{deployed.user}_owner") as owner:
        theirs = [found[1:] for found in owner.run(show) if found[0] == deployed.user]
        rows = "DELETE, INSERT, SELECT, UPDATE"
        assert [[name, rights] for name, rights in theirs if rights == rows] == [
            [name, rows] for name in sorted(Base.metadata.tables)
        ]
        for statement in drop.replace("former_user", deployed.user).split(";"):
            owner.run(statement)
        assert deployed.user not in [name for (name,) in owner.run("SELECT rolname FROM pg_roles")]


def test_the_migration_function_creates_the_api_user(deployed: Deployed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", deployed.url_of(f"{deployed.user}_owner"))
    monkeypatch.setenv("DATABASE_API_USER", deployed.user)
    assert handler({}, Context()) == {"Revision": HEAD}
    with deployed.connect() as api:
        api.run("SELECT FROM probes")
