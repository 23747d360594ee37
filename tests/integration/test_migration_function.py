"""The custom resource: it migrates or changes nothing, and always responds before the timeout."""

import json
import logging
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from pg8000 import dbapi
from sqlalchemy.exc import OperationalError

from handler import migrate, migrations
from handler.database import https
from handler.migrations import custom_resource, failures
from handler.migrations import upgrade as upgrade_module
from handler.migrations.custom_resource import CallbackFailed, ForeignResponseURL, MigrationFailed, handler
from handler.settings import DatabaseSettings
from local.events import Context
from local.postgres import over_tcp
from tests.support.bucket import HANG, HOST, Bucket, bucket, lead_to
from tests.support.certificates import authority
from tests.support.database import connect, socket_path, temporary_database
from tests.support.proxy import Proxy
from tests.support.resources import shipped_tables

ROOT = Path(__file__).parents[2]
SCRIPTS = ScriptDirectory("handler/migrations")
HEAD = SCRIPTS.get_current_head()
REVISIONS = [one.revision for one in SCRIPTS.walk_revisions()][::-1]  # from the first to HEAD
CREATE = json.loads((ROOT / "events" / "migration-create.json").read_text())
ADVISORY_LOCK = 2026_11_22  # env.py's
WAITING = (
    "FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    " AND query LIKE '%pg_advisory_xact_lock%'"
)
SHORT = 4.0  # seconds of an invocation that must fail
TABLES = "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' ORDER BY 1"
EMPTY: list[list[str]] = []
MIGRATED = sorted([name] for name in ("alembic_version", *shipped_tables()))


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    with bucket(monkeypatch) as found:
        yield found


@pytest.fixture(autouse=True)
def url(server_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An empty database, whose URL is the function's only setting."""
    name = f"deploy_{os.getpid()}"
    with temporary_database(server_url, name) as url:
        monkeypatch.setenv("DATABASE_URL", url)
        monkeypatch.delenv("AUTH_MODE")
        yield url


@pytest.fixture
def scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the migrations of a newer release."""
    shutil.copytree(migrations.SCRIPTS, tmp_path / "migrations", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(migrations, "SCRIPTS", tmp_path / "migrations")
    return tmp_path / "migrations" / "versions"


def add(scripts: Path, revision: str, upgrade: str, after: str | None = HEAD) -> None:
    (scripts / f"{revision}.py").write_text(
        "import sys\n"
        "from alembic import op\n"
        f"revision, down_revision = {revision!r}, {after!r}\n"
        f"def upgrade():\n    {upgrade}\n"
    )


def deploy(s3: Bucket, kind: str = "Create", timeout: float = 60.0, **changes: Any) -> dict[str, Any]:
    """Invoke the function, assert that it ends before the timeout, and return the response to CloudFormation."""
    event = CREATE | {"RequestType": kind, "ResponseURL": s3.url} | changes
    if kind != "Create":
        event |= {"PhysicalResourceId": changes.get("PhysicalResourceId", "Migration")}
    s3.puts.clear()
    context = Context(timeout)
    returned = handler(event, context)
    assert context.get_remaining_time_in_millis() > 0
    assert returned == s3.response
    for name in ("StackId", "RequestId", "LogicalResourceId"):
        assert returned[name] == CREATE[name]
    return returned


def tables(url: str) -> list[list[str]]:
    with connect(url) as database:
        return database.run(TABLES)  # type: ignore[no-any-return]


def ours(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """The log records without those of Alembic, which are logged if the level of the root logger is INFO."""
    return [record for record in caplog.records if record.name.startswith("handler.")]


# The request types.


def test_a_create_migrates_and_the_response_has_the_revision(s3: Bucket, url: str) -> None:
    assert deploy(s3) == {
        "Status": "SUCCESS",
        "StackId": CREATE["StackId"],
        "RequestId": CREATE["RequestId"],
        "LogicalResourceId": "Migration",
        "PhysicalResourceId": "Migration",
        "Data": {"Revision": HEAD},
    }
    assert tables(url) == MIGRATED


def test_the_response_is_sent_to_the_signed_url_without_a_content_type(s3: Bucket) -> None:
    """The URL is unchanged and there is no content type, because the signature of the URL covers both."""
    deploy(s3)
    (put,) = s3.puts
    assert s3.url.endswith(put.target)
    assert put.headers["content-type"] == ""
    assert put.headers["host"] in s3.url
    assert put.headers.keys() == {"host", "connection", "content-length", "content-type"}


def test_an_update_migrates_and_keeps_the_physical_resource_id(s3: Bucket, url: str, scripts: Path) -> None:
    created = deploy(s3)["PhysicalResourceId"]
    add(scripts, "0100", 'op.execute("CREATE TABLE more ()")')
    updated = deploy(s3, "Update", PhysicalResourceId=created)
    assert (updated["Status"], updated["Data"], updated["PhysicalResourceId"]) == (
        "SUCCESS",
        {"Revision": "0100"},
        created,
    )
    assert tables(url) == [*MIGRATED, ["more"]]
    assert deploy(s3, "Update", PhysicalResourceId="another")["PhysicalResourceId"] == "another"


def test_a_delete_drops_nothing_and_does_not_need_the_database(
    s3: Bucket, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    deploy(s3)
    monkeypatch.delenv("DATABASE_URL")
    response = deploy(s3, "Delete", PhysicalResourceId="any")
    assert (response["Status"], response["PhysicalResourceId"]) == ("SUCCESS", "any")
    assert tables(url) == MIGRATED


def test_an_unknown_request_type_fails(s3: Bucket, url: str) -> None:
    for kind in ("Replace", "", None):
        response = deploy(s3, kind)  # type: ignore[arg-type]
        assert (response["Status"], response["Reason"]) == ("FAILED", "RequestType is not Create, Update or Delete")
    assert tables(url) == EMPTY


def test_the_same_event_twice_has_the_same_response(s3: Bucket, url: str) -> None:
    assert deploy(s3) == deploy(s3)
    assert tables(url) == MIGRATED


def test_two_invocations_at_the_same_time_both_succeed(s3: Bucket, url: str) -> None:
    program = (
        "import json, sys\n"
        "from handler.migrations.custom_resource import handler\n"
        "from local.events import Context\n"
        "from tests.support.bucket import lead_to\n"
        "with lead_to(int(sys.argv[1])):\n"
        "    print(handler(json.load(sys.stdin), Context(60))['Status'])\n"
    )
    run = [sys.executable, "-c", program, str(s3.port)]
    both = [subprocess.Popen(run, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT) for _ in range(2)]
    for process in both:
        assert process.stdin
        process.stdin.write(json.dumps(CREATE | {"ResponseURL": s3.url}).encode())
        process.stdin.close()
    for process in both:
        assert process.stdout
        with process.stdout as output:
            assert output.read() == b"SUCCESS\n"
        assert process.wait(60) == 0
    assert len(s3.puts) == 2
    assert tables(url) == MIGRATED


# Failures change nothing, and the response has the reason.


def test_a_migration_that_fails_rolls_back_those_before_it(s3: Bucket, url: str, scripts: Path) -> None:
    deploy(s3)
    add(scripts, "0100", 'op.execute("CREATE TABLE more ()")')
    add(scripts, "0101", 'op.execute("CREATE INDEX ON idempotency_keys (price)")', after="0100")
    response = deploy(s3, "Update")
    assert response["Status"] == "FAILED"
    assert response["Reason"] == "0101.py, line 5: database error: 42703 undefined column"
    assert "Data" not in response
    assert tables(url) == MIGRATED
    with connect(url) as database:
        assert database.run("SELECT version_num FROM alembic_version") == [[HEAD]]


REFUSED = "line 5: database error: "


@pytest.mark.parametrize(
    ("upgrade", "reason"),
    [
        # Python: the type and the line.
        ("int('SECRET')", "line 5: ValueError"),
        ("{}['SECRET']", "line 5: KeyError"),
        ("raise ValueError('SECRET')", "line 5: ValueError"),
        ("sys.exit('SECRET')", "line 5: SystemExit"),
        ("__import__('SECRET')", "line 5: ModuleNotFoundError"),
        ("eval('SECRET SECRET')", "line 5: SyntaxError"),
        ("raise ExceptionGroup('SECRET', [ValueError('SECRET')])", "line 5: ExceptionGroup"),
        ("from alembic.util import CommandError; raise CommandError('SECRET')", "line 5: CommandError"),
        ("op.get_bind().execute(op.f('SECRET'))", "line 5: ObjectNotExecutableError"),
        ("error = ValueError('SECRET'); error.add_note('SECRET'); raise error", "line 5: ValueError"),
        ("raise RuntimeError('SECRET') from KeyError('SECRET')", "line 5: RuntimeError"),
        (
            "try:\n        int('SECRET')\n    except ValueError:\n        {}['SECRET']",
            "line 8: KeyError",
        ),
        # The server: the SQLSTATE and its name.
        ("op.execute('SELECT $$SECRET$$::integer')", f"{REFUSED}22P02 invalid text representation"),
        ("op.execute('SELECT $$\"SECRET\\\\u0000\"$$::jsonb ->> 0')", f"{REFUSED}22P05 untranslatable character"),
        (
            "op.execute('CREATE TABLE t AS VALUES ($$SECRET$$), ($$SECRET$$); CREATE UNIQUE INDEX i ON t (column1)')",
            f"{REFUSED}23505 unique violation",
        ),
        (
            "op.execute('CREATE TABLE t (c text CHECK (c <> $$SECRET$$)); INSERT INTO t VALUES ($$SECRET$$)')",
            f"{REFUSED}23514 check violation",
        ),
        ("op.execute(\"DO 'BEGIN RAISE EXCEPTION $$SECRET$$; END'\")", f"{REFUSED}P0001 RAISE EXCEPTION"),
        (
            "op.execute(\"DO 'BEGIN RAISE $$SECRET$$ USING ERRCODE = $$57014$$, HINT = $$SECRET$$; END'\")",
            f"{REFUSED}57014 the statement took too long, or was cancelled",
        ),
        (
            "op.execute(\"DO 'BEGIN RAISE $$SECRET$$ USING ERRCODE = $$08001$$; END'\")",
            f"{REFUSED}08001 connection exception",
        ),
        ("op.execute(\"DO 'BEGIN RAISE $$SECRET$$ USING ERRCODE = $$ZZ999$$; END'\")", f"{REFUSED}ZZ999"),
        ("op.execute('SELECT \"SECRET\"')", f"{REFUSED}42703 undefined column"),
        ("op.execute('SELECT * FROM SECRET')", f"{REFUSED}42P01 undefined table"),
        ("op.execute('SECRET')", f"{REFUSED}42601 syntax error"),
        (
            "op.execute(\"DO 'BEGIN PERFORM query_to_xml($$SELECT 1/0 AS SECRET$$, true, true, $$$$); END'\")",
            f"{REFUSED}22012 data exception",
        ),
        (
            "try:\n        int('SECRET')\n    except ValueError:\n        op.execute('SELECT $$SECRET$$::integer')",
            "line 8: database error: 22P02 invalid text representation",
        ),
    ],
)
def test_a_failed_migration_shows_its_line_and_no_value(
    upgrade: str, reason: str, s3: Bucket, scripts: Path, request: pytest.FixtureRequest
) -> None:
    caplog, capsys = request.getfixturevalue("caplog"), request.getfixturevalue("capsys")
    add(scripts, "0100", upgrade)
    response = deploy(s3)
    assert (response["Status"], response["Reason"]) == ("FAILED", f"0100.py, {reason}")
    assert tables(os.environ["DATABASE_URL"]) == EMPTY
    assert "SECRET" not in without_code(caplog.text)
    with pytest.raises(SystemExit, match=rf"^migrate: 0100\.py, {re.escape(reason)}$"):
        migrate.main()
    assert "SECRET" not in without_code(capsys.readouterr().err)


def without_code(log: str) -> str:
    """The log without the lines of code in its tracebacks, because in these tests they contain the value."""
    return "\n".join(line for line in log.splitlines() if not line.startswith("    "))


@pytest.mark.parametrize("cause", ["", " from KeyError('SECRET')"])
def test_the_message_of_a_migration_error_is_the_reason(
    cause: str, s3: Bucket, scripts: Path, caplog: pytest.LogCaptureFixture
) -> None:
    upgrade = "from handler.migrations.errors import MigrationError\n"
    add(scripts, "0100", f"{upgrade}    raise MigrationError('three orders\\nhave no price'){cause}")
    assert deploy(s3)["Reason"] == "0100.py, line 6: three orders have no price"
    assert [one.message for one in ours(caplog)] == ["migration failed: 0100.py, line 6: three orders have no price"]
    assert "SECRET" not in caplog.text


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({}, "settings: DATABASE_URL is not set"),
        ({"DATABASE_URL": "postgresql://u:hunter2@h:port/d"}, "settings: DATABASE_URL"),
        ({"DATABASE_URL": "postgresql://u:hunter2@127.0.0.1:1/d"}, "database error: 08001 cannot connect"),
        ({"DATABASE_URL": "postgresql://u:hunter2@nowhere.invalid/d"}, "database error: 08001 cannot connect"),
    ],
)
def test_wrong_settings_are_reported_without_secrets(
    environment: dict[str, str],
    reason: str,
    s3: Bucket,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.delenv("DATABASE_URL")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    response = deploy(s3, timeout=SHORT)
    assert response["Status"] == "FAILED"
    assert response["Reason"].startswith(reason)
    assert "hunter2" not in response["Reason"] + caplog.text


@pytest.mark.parametrize("text", ['"' * 5000, "\\" * 5000, "\U0001f4a5" * 5000, "\x00\x1b\ud800" * 5000, "a\n" * 5000])
def test_a_response_is_never_larger_than_cloudformation_accepts(
    text: str, s3: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: DatabaseSettings) -> None:
        raise dbapi_error("57014", text)

    monkeypatch.setattr(upgrade_module, "upgrade", fail)
    # The longest values of CloudFormation: names of 128 and 255 characters, and an id of 1 KB.
    response = {"StackId": "s" * 200, "LogicalResourceId": "l" * 255, "PhysicalResourceId": "p" * 1024}
    handler(CREATE | response | {"RequestType": "Update", "ResponseURL": s3.url}, Context())
    (put,) = s3.puts
    assert len(put.body) <= 4096
    assert json.loads(put.body)["Reason"].startswith("database error: 57014")
    assert "\\u" not in put.body.decode()
    assert "\\n" not in put.body.decode()


def dbapi_error(code: str, message: str) -> OperationalError:
    return OperationalError("SELECT", {}, dbapi.OperationalError({"C": code, "M": message}))


def test_a_failed_import_gets_a_response(s3: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "handler.migrations.upgrade", None)
    response = deploy(s3)
    assert response["Status"] == "FAILED"
    assert response["Reason"].startswith(
        "the code cannot be loaded: ModuleNotFoundError: import of handler.migrations.upgrade"
    )


def test_the_module_can_be_imported_without_dependencies() -> None:
    program = "import sys; from handler.migrations import custom_resource; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", program], env={}, cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    site_packages = {"alembic", "sqlalchemy", "pg8000", "pydantic", "handler.migrations.upgrade", "handler.settings"}
    assert not site_packages & set(loaded)


def test_an_error_while_describing_a_failure_gets_a_response(s3: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DATABASE_URL")
    monkeypatch.setattr(failures, "describe_failure", None)
    response = deploy(s3)
    assert (response["Status"], response["Reason"]) == ("FAILED", "unexpected TypeError: see the log")


# Timeouts.


@contextmanager
def held(url: str, statement: str) -> Iterator[Any]:
    """Another session with an open transaction that has executed `statement`."""
    with connect(url) as session:
        session.run("BEGIN")
        session.run(statement)
        yield session
        session.run("ROLLBACK")


def test_a_table_that_stays_in_use_fails_the_deployment_before_the_timeout(s3: Bucket, url: str, scripts: Path) -> None:
    deploy(s3)
    add(scripts, "0100", 'op.execute("ALTER TABLE idempotency_keys ADD price integer")')
    with held(url, "LOCK TABLE idempotency_keys IN ACCESS SHARE MODE"):
        response = deploy(s3, "Update", timeout=SHORT)
        refused = "0100.py, line 5: database error: 55P03 a table stayed in use: "
        assert response["Status"] == "FAILED"
        assert response["Reason"] == f"{refused}ALTER TABLE idempotency_keys ADD price integer"
    assert deploy(s3, "Update")["Status"] == "SUCCESS"


def test_another_migration_that_does_not_end_fails_the_deployment_before_the_timeout(s3: Bucket, url: str) -> None:
    with held(url, f"SELECT pg_advisory_xact_lock({ADVISORY_LOCK})"):
        response = deploy(s3, timeout=SHORT)
        assert (response["Status"], response["Reason"]) == (
            "FAILED",
            "another process is still migrating this database",
        )
    assert tables(url) == EMPTY


def test_the_function_waits_for_another_migration(s3: Bucket, url: str) -> None:
    lock = f"SELECT pg_advisory_xact_lock({ADVISORY_LOCK})"
    with held(url, lock) as session, connect(url) as other:

        def release() -> None:
            while not other.run(f"SELECT 1 {WAITING}"):
                pass
            session.run("ROLLBACK")

        thread = threading.Thread(target=release)
        thread.start()
        assert deploy(s3)["Status"] == "SUCCESS"
        thread.join()


def test_a_statement_that_does_not_end_is_cancelled_on_the_server(s3: Bucket, url: str, scripts: Path) -> None:
    add(scripts, "0100", 'op.execute("SELECT pg_sleep(600)")')
    response = deploy(s3, timeout=SHORT)
    assert (response["Status"], response["Reason"]) == (
        "FAILED",
        "0100.py, line 5: database error: 57014 the statement took too long, or was cancelled",
    )
    assert tables(url) == EMPTY
    with connect(url) as database:
        assert (
            database.run(
                "SELECT 1 FROM pg_stat_activity WHERE query LIKE '%pg_sleep(600)%' AND pid <> pg_backend_pid()"
            )
            == []
        )


def test_the_timeouts_of_a_migration_follow_from_the_remaining_time(s3: Bucket, url: str, scripts: Path) -> None:
    """The idle timeout makes the server release the locks of a function that has disappeared."""
    add(
        scripts,
        "0100",
        "op.execute(\"CREATE TABLE limits AS SELECT name, setting::int FROM pg_settings WHERE name LIKE '%_timeout'\")",
    )
    deploy(s3, timeout=60.0)
    with connect(url) as database:
        limits = dict(database.run("SELECT name, setting FROM limits"))
    assert 30_000 < limits["statement_timeout"] <= 49_000
    assert limits["lock_timeout"] <= 1_000
    assert limits["idle_in_transaction_session_timeout"] == 15_000


@pytest.fixture
def network(url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A proxy between the function and its database, which injects faults."""
    with Proxy(socket_path(url)) as proxy:
        monkeypatch.setenv("DATABASE_URL", over_tcp(url, proxy.port))
        yield proxy


def test_a_database_that_never_responds_fails_the_deployment_before_the_timeout(
    s3: Bucket, url: str, network: Proxy
) -> None:
    network.black_hole()
    response = deploy(s3, timeout=SHORT)
    assert response["Status"] == "FAILED"
    assert response["Reason"].startswith("database error: 08001 cannot connect to 127.0.0.1")
    assert tables(url) == EMPTY


def test_a_database_that_stops_responding_fails_the_deployment_before_the_timeout(
    s3: Bucket, url: str, scripts: Path, network: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(scripts, "0100", 'sys.network.black_hole()\n    op.execute("CREATE TABLE more ()")')
    monkeypatch.setattr(sys, "network", network, raising=False)
    response = deploy(s3, timeout=SHORT)
    assert (response["Status"], response["Reason"]) == (
        "FAILED",
        "0100.py, line 6: database error: 57014 the statement was cancelled, because the deadline has passed",
    )
    network.restore()
    network.reset()
    assert tables(url) == EMPTY
    (scripts / "0100.py").unlink()
    assert deploy(s3)["Status"] == "SUCCESS"


def test_the_function_waits_for_a_paused_database(s3: Bucket, network: Proxy) -> None:
    network.refuse()
    timer = threading.Timer(0.5, network.restore)
    timer.start()
    assert deploy(s3)["Status"] == "SUCCESS"
    timer.join()


def test_a_commit_whose_reply_is_lost_is_checked_by_another_attempt(
    s3: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    upgrade, calls = upgrade_module.upgrade, []

    def lose_first_reply(database: DatabaseSettings) -> str | None:
        calls.append(upgrade(database))
        if len(calls) == 1:
            raise dbapi_error("08007", "the connection was lost at COMMIT")
        return calls[-1]

    monkeypatch.setattr(upgrade_module, "upgrade", lose_first_reply)
    assert deploy(s3)["Status"] == "SUCCESS"
    assert calls == [HEAD, HEAD]


def test_an_invocation_without_time_gets_a_response(s3: Bucket, url: str) -> None:
    response = deploy(s3, timeout=0.9)
    assert response["Status"] == "FAILED"
    assert tables(url) == EMPTY


# S3 does not accept the response.


@pytest.mark.parametrize("statuses", [[500], [503, 500], [HANG]])
def test_a_response_that_s3_does_not_accept_is_sent_again(
    statuses: list[int], s3: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(custom_resource, "PUT_TIMEOUT", 0.3)
    s3.statuses += statuses
    handler(CREATE | {"ResponseURL": s3.url}, Context())
    assert len(s3.puts) == len(statuses) + 1
    assert len({put.body for put in s3.puts}) == 1


@pytest.mark.parametrize(
    ("statuses", "outcome"), [([500] * 99, "HTTP 500"), ([HANG] * 99, "TimeoutError"), ([403], "HTTP 403")]
)
def test_an_invocation_that_cannot_send_its_response_fails_and_can_be_repeated(
    statuses: list[int],
    outcome: str,
    s3: Bucket,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(custom_resource, "PUT_TIMEOUT", 0.3)
    s3.statuses += statuses
    context = Context(SHORT)
    with pytest.raises(CallbackFailed, match=rf"did not get the response SUCCESS: {HOST}: {outcome}"):
        handler(CREATE | {"ResponseURL": s3.url}, context)
    assert context.get_remaining_time_in_millis() > 0
    assert (len(s3.puts) == 1) == (outcome == "HTTP 403")
    assert [record.levelname for record in ours(caplog)] == ["INFO", "ERROR"]
    assert "SECRET" not in caplog.text
    s3.statuses.clear()
    assert deploy(s3)["Status"] == "SUCCESS"


def test_an_unreachable_bucket_fails_the_invocation_before_the_timeout(s3: Bucket) -> None:
    context = Context(1.5)
    with lead_to(1), pytest.raises(CallbackFailed):
        handler(CREATE | {"RequestType": "Delete", "ResponseURL": s3.url}, context)
    assert context.get_remaining_time_in_millis() > 0


# Only CloudFormation gets a response.

RESPONSE = "cloudformation-custom-resource-response"


@pytest.mark.parametrize(
    ("region", "host"),
    [
        ("us-east-1", f"{RESPONSE}-useast1.s3.amazonaws.com"),
        ("us-east-1", f"{RESPONSE}-useast1.s3.us-east-1.amazonaws.com"),
        ("eu-west-1", f"{RESPONSE}-euwest1.s3-eu-west-1.amazonaws.com"),
        ("eu-central-1", f"{RESPONSE}-eucentral1.s3.eu-central-1.amazonaws.com"),
        ("us-gov-west-1", f"{RESPONSE}-usgovwest1.s3.us-gov-west-1.amazonaws.com"),
        ("cn-north-1", f"{RESPONSE}-cnnorth1.s3.cn-north-1.amazonaws.com.cn"),
        ("eusc-de-east-1", f"{RESPONSE}-euscdeeast1.s3.eusc-de-east-1.amazonaws.eu"),
    ],
)
def test_every_documented_host_of_the_bucket_gets_the_response(
    region: str, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def lookup(name: str, port: int, **_: Any) -> None:
        asked.append((name, port))
        raise OSError

    monkeypatch.setenv("AWS_REGION", region)
    monkeypatch.setattr("socket.getaddrinfo", lookup)
    with pytest.raises(CallbackFailed):
        handler(
            CREATE | {"RequestType": "Delete", "ResponseURL": f"https://{host}/a%7Cb?X-Amz-Signature=0"}, Context(1.0)
        )
    assert set(asked) == {(host, 443)}


@pytest.mark.parametrize(
    "address",
    [
        "",
        "nonsense",
        "file:///etc/passwd",
        f"http://{HOST}/a",
        f"HTTPS://{HOST}/a",
        f"https://{HOST}",
        f"https://{HOST}:443/a",
        f"https://{HOST}:8443/a",
        f"https://user@{HOST}/a",
        f"https://user:password@{HOST}/a",
        f"https://{HOST}@evil.example/a",
        f"https://{HOST}.evil.example/a",
        f"https://{HOST}./a",
        f"https://evil.example/{HOST}/a",
        f"https://evil.example#{HOST}/a",
        f"https://evil.example\\@{HOST}/a",
        f"https://evil.example%2f.{HOST}/a",
        f"https://evil-{HOST}/a",
        f"https://evil.{HOST}/a",
        f"https://{HOST.upper()}/a",
        f" https://{HOST}/a",
        f"https://{HOST}/a\n",
        f"https://{HOST}/a\r\nx: y",
        f"https://{HOST}/a b",
        f"https://{HOST}/ä",
        "https://" + HOST.replace(".", "\u3002") + "/a",
        "https://169.254.169.254/latest/meta-data",
        "https://[::1]/a",
        "https://localhost/a",
        "https://s3.eu-central-1.amazonaws.com/cloudformation-custom-resource-response-eucentral1/a",
        "https://mine.s3.eu-central-1.amazonaws.com/a",
        f"https://{RESPONSE}-eucentral1.s3.evil.amazonaws.com/a",
        f"https://{RESPONSE}-eucentral1.s3.eu-central-1.amazonaws.com.cn/a",
        f"https://{RESPONSE}-eucentral1.s3.us-east-1.amazonaws.com/a",
        f"https://{RESPONSE}-useast1.s3.us-east-1.amazonaws.com/a",
        f"https://{RESPONSE}-useast1.s3.amazonaws.com/a",
    ],
)
def test_any_other_address_is_rejected_without_a_request(
    address: str, s3: Bucket, url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    response_url = f"{address}?X-Amz-Signature=SECRET" if address else ""
    with monkeypatch.context() as no_network:
        no_network.setattr("socket.socket.connect", None)
        no_network.setattr("socket.getaddrinfo", None)
        with pytest.raises(ForeignResponseURL, match="the event was ignored"):
            handler(CREATE | {"ResponseURL": response_url}, Context())
    assert s3.puts == []
    assert tables(url) == EMPTY
    assert [record.levelname for record in ours(caplog)] == ["ERROR"]
    assert "SECRET" not in caplog.text


def test_without_a_region_every_address_is_rejected(s3: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_REGION")
    with pytest.raises(ForeignResponseURL):
        handler(CREATE | {"ResponseURL": s3.url}, Context())
    with pytest.raises(ForeignResponseURL):
        handler(CREATE | {"ResponseURL": f"https://{RESPONSE}-.s3.amazonaws.com/a"}, Context())


def test_a_server_without_a_valid_certificate_gets_no_response(
    s3: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority(tmp_path / "other.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "other.pem"))
    https.tls_context.cache_clear()
    with pytest.raises(CallbackFailed, match="SSLCertVerificationError"):
        handler(CREATE | {"RequestType": "Delete", "ResponseURL": s3.url}, Context(1.0))
    assert s3.puts == []


# A deployment that is rolled back runs the older code.


def test_older_code_leaves_a_newer_schema_alone(
    s3: Bucket, url: str, scripts: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    add(scripts, "0100", 'op.execute("CREATE TABLE more ()")')
    add(scripts, "0101", 'op.execute("CREATE TABLE most ()")', after="0100")
    deploy(s3)
    monkeypatch.setattr(migrations, "SCRIPTS", ROOT / "handler" / "migrations")
    caplog.clear()
    response = deploy(s3, "Update")
    assert (response["Status"], response["Data"]) == ("SUCCESS", {"Revision": "0101"})
    assert tables(url) == [*MIGRATED, ["more"], ["most"]]
    outcome = [(record.levelname, record.message) for record in ours(caplog)]
    assert outcome == [("WARNING", "the schema is at 0101, which is newer than this code: no migration was run")]


def test_the_schema_of_another_branch_is_an_error(s3: Bucket, url: str, scripts: Path) -> None:
    add(scripts, "0100", 'op.execute("CREATE TABLE one ()")')
    deploy(s3)
    (scripts / "0100.py").unlink()
    add(scripts, "0200", 'op.execute("CREATE TABLE other ()")')
    response = deploy(s3, "Update")
    assert response["Status"] == "FAILED"
    assert response["Reason"].startswith(
        "the schema is at 0100, which this code does not know, and this code's newest migration (0200) was not applied"
    )
    assert tables(url) == [*MIGRATED, ["one"]]


@pytest.mark.filterwarnings("ignore:Revision ")
@pytest.mark.parametrize("missing", ["*.py", *(f"{revision}_*.py" for revision in REVISIONS[:-1])])
@pytest.mark.parametrize("at", [None, HEAD])
def test_missing_migration_files_are_an_error(
    missing: str, at: str | None, s3: Bucket, url: str, scripts: Path
) -> None:
    if at:
        deploy(s3)
    for path in scripts.glob(missing):
        path.unlink()
    response = deploy(s3)
    assert response["Status"] == "FAILED"
    assert response["Reason"]
    assert (tables(url) == MIGRATED) is bool(at)


def test_a_migration_with_a_syntax_error_is_an_error(s3: Bucket, url: str, scripts: Path) -> None:
    add(scripts, "0100", "op.execute(")
    response = deploy(s3)
    assert response["Status"] == "FAILED"
    assert "0100.py, line 5" in response["Reason"]
    assert tables(url) == EMPTY


def test_the_database_stores_its_migration_history(url: str) -> None:
    def comment() -> Any:
        with connect(url) as database:
            return database.run("SELECT obj_description('alembic_version'::regclass, 'pg_class')")[0][0]

    config = Config(toml_file="pyproject.toml")
    for number, revision in enumerate(REVISIONS, 1):
        command.upgrade(config, revision)
        assert comment() == " ".join(REVISIONS[:number])
    command.downgrade(config, REVISIONS[0])
    assert comment() == REVISIONS[0]
    command.downgrade(config, "base")
    assert comment() is None


# Manual invocations.


@pytest.mark.parametrize("event", [{}, None])
def test_an_empty_event_migrates_and_returns_the_revision(event: Any, url: str) -> None:
    assert handler(event, Context()) == {"Revision": HEAD}
    assert tables(url) == MIGRATED


def test_an_empty_event_raises_the_reason(scripts: Path) -> None:
    add(scripts, "0100", "op.execute('SELEC 1')")
    with pytest.raises(MigrationFailed, match=r"^0100\.py, line 5: database error: 42601 syntax error$"):
        handler({}, Context())


@pytest.mark.parametrize(
    "event",
    [
        {"key1": "value1"},
        {"ResponseURL": None},
        [1],
        "Create",
        {name: value for name, value in CREATE.items() if name != "ResponseURL"},
        json.loads((ROOT / "events" / "scheduled.json").read_text()),
        json.loads((ROOT / "events" / "health-ready.json").read_text()),
    ],
)
def test_any_other_event_changes_nothing(event: Any, url: str) -> None:
    with pytest.raises(ValueError, match="it was ignored"):
        handler(event, Context())
    assert tables(url) == EMPTY


# What is logged.


def test_a_success_is_one_log_line_and_a_failure_is_one_error(
    s3: Bucket, scripts: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def lines() -> list[tuple[str, str, bool]]:
        found = [(one.levelname, one.message, bool(one.exc_info)) for one in ours(caplog)]
        caplog.clear()
        return found

    deploy(s3)
    assert lines() == [("INFO", f"migrated: the schema is at {HEAD}", False)]
    add(scripts, "0100", "op.execute('SELEC 1')")
    reason = deploy(s3, "Update")["Reason"]
    assert lines() == [("ERROR", f"migration failed: {reason}", False)]
    add(scripts, "0100", "{}['price']")
    reason = deploy(s3, "Update")["Reason"]
    assert lines() == [("ERROR", f"migration failed: {reason}", True)]
    deploy(s3, "Delete")
    assert lines() == []
