"""TLS between the real handler and a real PostgreSQL, which also accepts cleartext. The handler must not use it."""

import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pg8000.native import literal

from handler.database import connection
from handler.database.credentials import iam_token
from handler.database.engine import engine
from local.postgres import server
from tests.support.certificates import Authority, authority, issue
from tests.support.client import assert_unavailable, call, create_probe, probe_path
from tests.support.database import connect, free_port, required_program
from tests.support.migrated import grant_probes, migrate
from tests.support.pool import pooled

# The server accepts cleartext and TLS. `plain` sends its password in cleartext, and only with TLS.
HBA = """
local all all scram-sha-256
hostssl all plain all password
hostssl all digest all md5
host all all 127.0.0.1/32 scram-sha-256
"""
PASSWORD = f"pässwörd {secrets.token_hex()}"
TOKEN = secrets.token_hex()
Configure = Callable[..., None]


@dataclass
class TlsServer:
    """A server. `admin` is a connection by its unix socket, and `present` replaces its certificate."""

    port: int
    folder: Path
    trusted: Authority
    bundle: Path
    admin: Any

    def present(self, by: Authority, host: str = "127.0.0.1", days: int = 30, **options: bool) -> None:
        issue(by, self.folder, host, days, **options)
        self.admin.run("SELECT pg_reload_conf()")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsServer]:
    folder = tmp_path_factory.mktemp("tls")
    port = free_port()
    programs = required_program("postgres").parent  # the embedded server has no TLS
    with server(folder, "-c", "fsync=off", port=port, programs=programs) as url, connect(url) as admin:
        cluster = folder / "cluster"
        (cluster / "pg_hba.conf").write_text(HBA)
        migrate(url)
        for role, password in (("ann", PASSWORD), ("plain", TOKEN)):
            admin.run(f"CREATE ROLE {role} LOGIN PASSWORD {literal(password)}")
        admin.run("SET password_encryption = 'md5'")
        admin.run(f"CREATE ROLE digest LOGIN PASSWORD {literal(TOKEN)}")
        grant_probes(admin, "ann, plain, digest")
        tls = TlsServer(port, cluster, authority(folder / "ca.pem"), folder / "ca.pem", admin)
        tls.present(tls.trusted)
        admin.run("ALTER SYSTEM SET ssl = on")
        admin.run("SELECT pg_reload_conf()")
        yield tls


@pytest.fixture
def tls(running: TlsServer, configure: Configure) -> TlsServer:
    """Make the handler use the server, with a valid certificate."""
    running.present(running.trusted)
    running.admin.run("TRUNCATE probes, probe_readings RESTART IDENTITY")
    configure(
        host="127.0.0.1", port=running.port, user="ann", password=PASSWORD, database="postgres",
        sslmode="verify-full", ca_bundle=str(running.bundle),
    )  # fmt: skip
    return running


def in_use(tls: TlsServer) -> list[list[Any]]:
    return list(
        tls.admin.run(
            "SELECT ssl, usename FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE usename <> 'postgres'"
        )
    )


def assert_refused(reason: str, tls: TlsServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.clear()
    assert_unavailable(call("GET", "/health/ready"))
    assert call("GET", "/health/live").status == 200
    lines = [record.getMessage() for record in caplog.records if record.name == "handler.api.errors"]
    assert len(lines) == 1
    assert reason in lines[0]
    assert "pässwörd" not in caplog.text
    deadline = time.monotonic() + 5
    while in_use(tls) and time.monotonic() < deadline:  # the server detects it a little later
        time.sleep(0.01)
    assert in_use(tls) == []


def test_a_valid_certificate_is_trusted_and_used_for_channel_binding(tls: TlsServer) -> None:
    create_probe()
    assert in_use(tls) == [[True, "ann"]]
    assert pooled().auth.mechanism_name == "SCRAM-SHA-256-PLUS"


def test_channel_binding_can_be_required(tls: TlsServer, configure: Configure) -> None:
    configure(channel_binding=True)
    create_probe()
    assert in_use(tls) == [[True, "ann"]]


def test_a_server_without_channel_binding_is_rejected_if_it_is_required(
    tls: TlsServer, configure: Configure, caplog: pytest.LogCaptureFixture
) -> None:
    configure(channel_binding=True, user="plain", password=TOKEN)
    assert_refused("channel_binding=require", tls, caplog)
    configure(sslmode="disable", user="ann", password=PASSWORD)
    assert_refused("the server does not offer channel binding", tls, caplog)


@pytest.mark.parametrize("user", ["plain", "digest"])
def test_cleartext_and_md5_passwords_are_sent_in_verified_tls(user: str, tls: TlsServer, configure: Configure) -> None:
    configure(user=user, password=TOKEN)
    create_probe()
    assert in_use(tls) == [[True, user]]


def test_an_untrusted_authority_is_rejected(tls: TlsServer, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tls.present(authority(tmp_path / "another.pem"))
    assert_refused("CERTIFICATE_VERIFY_FAILED", tls, caplog)


@pytest.fixture
def public(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Authority]:
    """An authority that the operating system trusts: OpenSSL reads SSL_CERT_FILE in place of the system's file."""
    found = authority(tmp_path / "system.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "system.pem"))
    connection._tls.cache_clear()
    yield found
    connection._tls.cache_clear()


@pytest.mark.parametrize("sslmode", ["verify-ca", "verify-full"])
def test_only_the_authorities_of_a_configured_ca_file_are_trusted(
    sslmode: str, tls: TlsServer, public: Authority, configure: Configure, caplog: pytest.LogCaptureFixture
) -> None:
    configure(sslmode=sslmode)
    create_probe()
    tls.present(public)
    engine.dispose()
    assert_refused("CERTIFICATE_VERIFY_FAILED", tls, caplog)


@pytest.mark.parametrize("ca_bundle", [None, "system"])
def test_without_a_ca_file_only_the_system_s_authorities_are_trusted(
    ca_bundle: str | None, tls: TlsServer, public: Authority, configure: Configure, caplog: pytest.LogCaptureFixture
) -> None:
    configure(ca_bundle=ca_bundle)
    assert_refused("CERTIFICATE_VERIFY_FAILED", tls, caplog)
    tls.present(public)
    create_probe()
    assert in_use(tls) == [[True, "ann"]]


def test_a_certificate_with_the_host_only_as_common_name_is_rejected(
    tls: TlsServer, configure: Configure, caplog: pytest.LogCaptureFixture
) -> None:
    tls.present(tls.trusted, host="localhost")
    configure(host="localhost")
    create_probe()
    engine.dispose()
    tls.present(tls.trusted, host="localhost", alternative_name=False)
    assert_refused("Hostname mismatch", tls, caplog)


def test_a_certificate_for_another_host_is_accepted_only_with_verify_ca(
    tls: TlsServer, configure: Configure, caplog: pytest.LogCaptureFixture
) -> None:
    tls.present(tls.trusted, host="db.example")
    assert_refused("IP address mismatch", tls, caplog)
    configure(sslmode="verify-ca")
    create_probe()
    assert in_use(tls) == [[True, "ann"]]


def test_an_expired_certificate_is_rejected(tls: TlsServer, caplog: pytest.LogCaptureFixture) -> None:
    tls.present(tls.trusted, days=-1)
    assert_refused("certificate has expired", tls, caplog)


def test_an_unreadable_ca_file_is_an_error_that_names_the_setting(
    tls: TlsServer, configure: Configure, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    configure(ca_bundle=str(tmp_path / "missing.pem"))
    assert_refused(
        "the CA file of DATABASE_CA_BUNDLE (or of sslrootcert in DATABASE_URL) cannot be read: No such file",
        tls,
        caplog,
    )


def test_a_server_that_declines_tls_is_rejected(tls: TlsServer, caplog: pytest.LogCaptureFixture) -> None:
    tls.admin.run("ALTER SYSTEM SET ssl = off")
    tls.admin.run("SELECT pg_reload_conf()")
    try:
        assert_refused("declines TLS", tls, caplog)
    finally:
        tls.admin.run("ALTER SYSTEM SET ssl = on")
        tls.admin.run("SELECT pg_reload_conf()")


def test_a_wrong_password_is_503_and_is_not_logged(
    tls: TlsServer, configure: Configure, caplog: pytest.LogCaptureFixture
) -> None:
    configure(password="pässwörd!")
    assert_refused("28P01", tls, caplog)
    configure(password=None)
    assert_refused("the server asks for a password, and there is none", tls, caplog)


def test_a_token_is_signed_for_every_connection_and_sent_in_tls(
    tls: TlsServer, configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    signed = []

    def token(server: str, user: str, region: str, *_: object) -> str:
        signed.append((server, user, region))
        return TOKEN

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setattr(iam_token, "database_token", token)
    configure(user="plain", password=None, iam_auth=True, region="eu-central-1", sslmode=None)
    create_probe()
    assert in_use(tls) == [[True, "plain"]]
    engine.dispose()
    assert call("GET", probe_path(1)).status == 200
    assert signed == [(f"127.0.0.1:{tls.port}", "plain", "eu-central-1")] * 2


def test_missing_aws_credentials_are_an_error_that_names_the_setting(
    tls: TlsServer, configure: Configure, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID", raising=False)
    configure(user="plain", password=None, iam_auth=True, region="eu-central-1")
    assert_refused("DATABASE_IAM_AUTH: there are no AWS credentials", tls, caplog)


@pytest.mark.parametrize(
    ("settings", "imported"),
    [
        ({}, set()),
        ({"DATABASE_IAM_AUTH": "true", "AWS_REGION": "eu-central-1"}, {"handler.database.credentials.aws"}),
        ({"DATABASE_SECRET_ARN": "x", "AWS_REGION": "eu-central-1"}, {"handler.database.credentials.aws"}),
    ],
)
def test_each_kind_of_credentials_imports_only_its_modules_at_init(
    settings: dict[str, str], imported: set[str]
) -> None:
    code = (
        "import sys; from tests.support.client import call; import handler.main;"
        "heavy = {'boto3', 'botocore', 'handler.database.credentials.aws'}; at_init = heavy & set(sys.modules);"
        "call('GET', '/health/ready'); assert heavy & set(sys.modules) == at_init; print(*at_init)"
    )
    environment = {"DATABASE_URL": "postgresql://ann@127.0.0.1:1/d", "AUTH_MODE": "none"} | settings
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == imported
