"""Rotation of passwords, with the real handler, moto's Secrets Manager and a PostgreSQL whose passwords change."""

import json
import secrets
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

from handler.database.credentials import aws, secrets_manager
from handler.database.engine import engine
from local.postgres import server
from tests.support.client import Response, assert_unavailable, call, create_probe, probe_path
from tests.support.database import connect, free_port
from tests.support.migrated import grant_probes, migrate

REGION = "eu-central-1"
SALT = secrets.token_hex()  # part of every password, because all users of this machine can reach the server's port


@pytest.fixture(scope="module")
def password_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of the unix socket of a migrated server, which also listens on a TCP port."""
    folder = tmp_path_factory.mktemp("scram")
    with server(folder, "-c", "fsync=off", port=free_port()) as url:
        migrate(url)
        yield url


@pytest.fixture
def admin(password_server: str) -> Iterator[Any]:
    """A connection of the superuser, which changes passwords. Two users may use the table of probes."""
    with connect(password_server) as connection:
        connection.run("TRUNCATE probes, probe_readings RESTART IDENTITY")
        for user in ("ann", "bob"):
            connection.run(f"CREATE ROLE {user} LOGIN PASSWORD 'first{SALT}'")
            grant_probes(connection, user)
        yield connection
        connection.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename IN ('ann', 'bob')")
        for user in ("ann", "bob"):
            connection.run(f"DROP OWNED BY {user}")
            connection.run(f"DROP ROLE {user}")


@pytest.fixture(scope="module")
def moto_address() -> Iterator[str]:
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    host, port = moto.get_host_and_port()
    yield f"http://{host}:{port}"
    moto.stop()


class Secret:
    """A secret in the form of RDS, and the number of requests for it."""

    def __init__(self, client: Any, port: int) -> None:
        self.client, self.port, self.calls = client, port, 0
        self.arn = client.create_secret(Name=f"database-{time.monotonic_ns()}", SecretString=self.text("ann", "first"))[
            "ARN"
        ]

    def text(self, user: str, password: str) -> str:
        location = {"engine": "postgres", "host": "127.0.0.1", "port": self.port, "dbname": "postgres"}
        return json.dumps({"username": user, "password": password + SALT, **location})

    def with_fields(self, **fields: object) -> str:
        return json.dumps(json.loads(self.text("ann", "SECRET")) | fields)

    def put(self, text: str, stage: str = "AWSCURRENT") -> None:
        self.client.put_secret_value(SecretId=self.arn, SecretString=text, VersionStages=[stage])


@pytest.fixture
def secret(moto_address: str, admin: Any, configure: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> Secret:
    """Make the handler use a secret. The first login is that of ann, with the password `first`."""
    for name, value in {
        "AWS_ENDPOINT_URL_SECRETS_MANAGER": moto_address,
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "s",
    }.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("secretsmanager", region_name=REGION, endpoint_url=moto_address)
    port = int(admin.run("SHOW port")[0][0])
    made = Secret(client, port)
    configure(host=None, port=None, user=None, database=None, password=None, secret_arn=made.arn, region=REGION)
    original = secrets_manager.secret_value

    def counted(*arguments: str) -> str | None:
        made.calls += 1
        return original(*arguments)

    monkeypatch.setattr(secrets_manager, "secret_value", counted)
    monkeypatch.setattr(secrets_manager, "accepted_logins", {})
    monkeypatch.setattr(secrets_manager, "_requested", {})
    return made


def reconnect() -> None:
    """Close the connections, so that the next request opens a new one."""
    engine.dispose()


def let_time_pass() -> None:
    """Make the last request for the secret old enough for another one."""
    secrets_manager._requested.clear()


def test_a_secret_is_read_once_and_used_for_every_connection(secret: Secret) -> None:
    for _ in range(3):
        create_probe()
        reconnect()
    assert secret.calls == 1


def test_a_changed_password_takes_one_refresh_and_fails_no_request(secret: Secret, admin: Any) -> None:
    create_probe()
    secret.put(secret.text("ann", "second"))
    admin.run(f"ALTER ROLE ann PASSWORD 'second{SALT}'")
    reconnect()
    let_time_pass()
    assert call("GET", probe_path(1)).status == 200
    assert secret.calls == 2


def test_a_connection_that_is_lost_after_a_rotation_is_replaced_with_the_new_password(
    secret: Secret, admin: Any
) -> None:
    create_probe()
    secret.put(secret.text("ann", "second"))
    admin.run(f"ALTER ROLE ann PASSWORD 'second{SALT}'")
    let_time_pass()
    admin.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'ann'")
    assert call("POST", "/probes/", {"name": "new"}).status == 201


def test_the_pending_version_is_used_during_a_single_user_rotation(secret: Secret, admin: Any) -> None:
    """Between setSecret and finishSecret the server accepts only the pending version."""
    create_probe()
    secret.put(secret.text("ann", "second"), "AWSPENDING")
    admin.run(f"ALTER ROLE ann PASSWORD 'second{SALT}'")
    reconnect()
    let_time_pass()
    assert call("GET", probe_path(1)).status == 200
    assert secret.calls == 3
    reconnect()
    assert call("GET", probe_path(1)).status == 200
    assert secret.calls == 3, "the accepted login is tried first"


def test_a_rotation_of_alternating_users_changes_the_user(secret: Secret, admin: Any) -> None:
    create_probe()
    secret.put(secret.text("bob", "first"))
    admin.run(f"ALTER ROLE ann PASSWORD 'retired{SALT}'")
    reconnect()
    let_time_pass()
    assert call("GET", probe_path(1)).status == 200
    assert admin.run("SELECT count(*) FROM pg_stat_activity WHERE usename = 'bob'") == [[1]]


def test_a_rotation_of_alternating_users_under_traffic_fails_no_request(secret: Secret, admin: Any) -> None:
    """50 requests a second during two rotations. Each rotation ends every connection of the rotated user."""
    create_probe()
    statuses = []
    started = time.monotonic()
    for number in range(150):
        if number in (50, 100):
            old, new = ("ann", "bob") if number == 50 else ("bob", "ann")
            admin.run(f"ALTER ROLE {new} PASSWORD 'of {number}{SALT}'")
            secret.put(secret.text(new, f"of {number}"))
            let_time_pass()  # rotations are days apart, so the next one may read the secret again
            admin.run(f"ALTER ROLE {old} PASSWORD 'retired at {number}{SALT}'")
            admin.run(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{old}'")
        method, path, body = ("POST", "/probes/", {"name": "x"}) if number % 2 else ("GET", probe_path(1), None)
        statuses.append(call(method, path, body).status)
        time.sleep(max(0.0, started + number / 50 - time.monotonic()))
    assert statuses == [200, 201] * 75


@pytest.mark.usefixtures("secret")
def test_the_accepted_login_is_used_during_an_outage_of_secrets_manager(monkeypatch: pytest.MonkeyPatch) -> None:
    create_probe()
    monkeypatch.setenv("AWS_ENDPOINT_URL_SECRETS_MANAGER", "http://127.0.0.1:1")
    reconnect()
    let_time_pass()
    assert call("GET", probe_path(1)).status == 200


def test_requests_are_503_until_the_new_password_is_in_the_secret(secret: Secret, admin: Any) -> None:
    create_probe()
    admin.run(f"ALTER ROLE ann PASSWORD 'unknown to the secret{SALT}'")
    reconnect()
    let_time_pass()
    assert_unavailable(call("GET", probe_path(1)))
    calls = secret.calls
    for _ in range(10):
        assert_unavailable(call("GET", probe_path(1)))
    assert secret.calls == calls, "the secret is requested at most every 5 s"
    secret.put(secret.text("ann", "unknown to the secret"))
    let_time_pass()
    assert call("GET", probe_path(1)).status == 200


@pytest.mark.usefixtures("secret")
def test_a_secret_is_requested_once_in_5_s_while_secrets_manager_throttles(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = []

    def throttled(*_: str) -> str:
        calls.append(time.monotonic())
        raise aws.AwsError("Secrets Manager responded with ThrottlingException")

    monkeypatch.setattr(secrets_manager, "secret_value", throttled)
    for _ in range(100):
        assert_unavailable(call("GET", probe_path(1)))
    assert all(later - earlier >= 5 for earlier, later in pairwise(calls))
    assert calls


def test_a_known_secret_is_not_requested_while_the_database_is_unreachable(secret: Secret) -> None:
    create_probe()
    secret.put(secret.text("ann", "first").replace(str(secret.port), "1"))
    secrets_manager.accepted_logins.clear()
    reconnect()
    let_time_pass()
    for _ in range(100):
        assert_unavailable(call("GET", probe_path(1)))
    assert secret.calls == 2


BAD_SECRETS: dict[str, Callable[[Secret], str]] = {
    "no JSON": lambda _: "SECRET",
    "a list": lambda _: '["SECRET"]',
    "no password": lambda _: '{"username": "SECRET"}',
    "no host": lambda _: '{"username": "ann", "password": "SECRET"}',
    "nested deeply": lambda _: "[" * 50_000,
    "a port of many digits": lambda secret: secret.text("ann", "SECRET").replace(str(secret.port), "9" * 5000),
    "a number as password": lambda _: '{"username": "ann", "password": 12345}',
    "a word as port": lambda secret: secret.with_fields(port="SECRET"),
    "port 0": lambda secret: secret.with_fields(port=0),
    "a negative port": lambda secret: secret.with_fields(port=-1),
    "port 65536": lambda secret: secret.with_fields(port=65536),
    "port 99999 as text": lambda secret: secret.with_fields(port="99999"),
    "an empty user": lambda secret: secret.with_fields(username=""),
    "an empty password": lambda secret: secret.with_fields(password=""),
    "a host that is a list": lambda secret: secret.with_fields(host=["SECRET"]),
    "half a surrogate pair": lambda _: '{"username": "ann", "password": "SECRET\\ud800"}',
}


@pytest.mark.parametrize("shape", BAD_SECRETS)
def test_a_secret_of_the_wrong_shape_is_one_log_line(
    shape: str, secret: Secret, caplog: pytest.LogCaptureFixture
) -> None:
    secret.put(BAD_SECRETS[shape](secret))
    assert_ready_fails("DATABASE_SECRET_ARN: ", caplog)


CONTROLS = {"NUL": "\0", "a line end": "\n", "a tab": "\t", "delete": "\x7f", "a C1 control": "\x85"}


@pytest.mark.parametrize("control", CONTROLS)
@pytest.mark.parametrize("field", ["username", "password", "host", "dbname"])
def test_a_control_character_in_a_secret_is_rejected_before_connecting(
    field: str, control: str, secret: Secret, caplog: pytest.LogCaptureFixture
) -> None:
    """PostgreSQL's protocol forbids NUL, and SASLprep every control character, such as a pasted line end."""
    fields = json.loads(secret.text("ann", "first"))
    secret.put(json.dumps(fields | {field: fields[field] + CONTROLS[control]}))
    assert_ready_fails(f"DATABASE_SECRET_ARN: the secret has no valid {field}", caplog)


@pytest.mark.parametrize("password", ["pä$$ wörd", "\u3000\u00a0", "'; -- \"\\", "x" * 1000])
def test_a_password_without_control_characters_is_sent_as_it_is(password: str, secret: Secret, admin: Any) -> None:
    admin.run("ALTER ROLE ann PASSWORD '{}'".format((password + SALT).replace("'", "''")))
    secret.put(secret.text("ann", password))
    create_probe()


@pytest.mark.parametrize("fields", [{"dbname": None}, {"dbname": ""}, {"engine": None, "more": [1]}])
def test_a_secret_may_omit_fields_that_the_url_has(
    fields: dict[str, object], secret: Secret, configure: Callable[..., None]
) -> None:
    configure(secret_arn=secret.arn, host="127.0.0.1", port=secret.port, database="postgres")
    secret.put(secret.with_fields(password=f"first{SALT}", host="", port=None, **fields))
    create_probe()


@pytest.mark.usefixtures("secret")
def test_a_missing_secret_is_one_log_line(configure: Callable[..., None], caplog: pytest.LogCaptureFixture) -> None:
    configure(secret_arn="not-there")
    assert_ready_fails("DATABASE_SECRET_ARN: Secrets Manager responded with ResourceNotFoundException", caplog)


def assert_ready_fails(text: str, caplog: pytest.LogCaptureFixture) -> Response:
    """Check that readiness fails, liveness succeeds, and one log line names the setting and contains no value."""
    caplog.clear()
    response = call("GET", "/health/ready")
    assert_unavailable(response)
    assert call("GET", "/health/live").status == 200
    lines = [record for record in caplog.records if record.name == "handler.api.errors"]
    assert len(lines) == 1
    assert text in lines[0].getMessage()
    assert lines[0].exc_info is None
    assert "SECRET" not in caplog.text.replace("DATABASE_SECRET_ARN", "")
    assert "12345" not in caplog.text
    return response
