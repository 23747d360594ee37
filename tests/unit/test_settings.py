"""The environment is checked at start: every problem at once, no secret shown."""

import ssl
import subprocess
import sys
from pathlib import Path

import pytest

from handler import settings
from handler.database.connection import address_of
from handler.database.credentials import CredentialsError, Login
from handler.settings import SettingsError, read_database_settings, read_settings
from local.build import CA_BUNDLE


def read(url: str) -> dict[str, object]:
    return vars(read_database_settings({"DATABASE_URL": url}))


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+pg8000"])
def test_a_url_has_any_of_the_usual_schemes(scheme: str) -> None:
    expected = {"host": "db.example", "port": 6543, "user": "ann", "password": "secret", "database": "shop"}
    assert read(f"{scheme}://ann:secret@db.example:6543/shop").items() >= expected.items()


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql://ann@localhost", {"host": "localhost", "port": None, "database": None}),
        ("postgresql://ann@", {"host": "localhost"}),
        ("postgresql://ann:p%40ss%2Fw%3A%25rd@h/d", {"password": "p@ss/w:%rd", "host": "h"}),
        ("postgresql://ann:pässwörd@h/d", {"password": "pässwörd"}),
        ("postgresql://ann:p%C3%A4ss@h/d", {"password": "päss"}),
        ("postgresql://ann:a:b@h/d", {"password": "a:b"}),
        ("postgresql://ann:a@b@h/d", {"password": "a@b", "host": "h"}),
        ("postgresql://ann@[::1]:5433/d", {"host": "::1", "port": 5433}),
        ("postgresql://ann@[2001:db8::1]/d", {"host": "2001:db8::1"}),
        ("postgresql://ann@/d?host=/var/run/postgresql", {"host": "/var/run/postgresql"}),
        ("postgresql:///d?host=/tmp&user=ann&password=x&port=5433", {"user": "ann", "password": "x", "port": 5433}),
        ("postgresql://ann@h?dbname=shop", {"database": "shop"}),
        ("postgresql://ann@%2FTmp%2Fsocket:5433/d", {"host": "/Tmp/socket", "port": 5433}),
        ("postgresql://ann@h/my%20shop", {"database": "my shop"}),
        ("postgresql://ann@h/d?password=a+b%2B", {"password": "a+b+"}),
        ("postgresql://ann@h/d?sslmode=disable", {"sslmode": "disable"}),
        ("postgresql://ann@h/d?sslmode=verify-ca&sslrootcert=/ca", {"sslmode": "verify-ca", "ca_bundle": "/ca"}),
        # What Neon writes.
        (
            "postgresql://ann:pw@ep-1.eu-central-1.aws.neon.tech/neondb?sslmode=require&channel_binding=require",
            {"sslmode": "verify-full", "channel_binding": True},
        ),
        (
            "postgres://ann@h/d?sslrootcert=/ca.pem&connect_timeout=10&application_name=shop&channel_binding=prefer",
            {"ca_bundle": "/ca.pem", "connect_timeout": 10, "application_name": "shop", "channel_binding": False},
        ),
    ],
)
def test_a_url_is_read_as_libpq_reads_it(url: str, expected: dict[str, object]) -> None:
    assert read(url).items() >= expected.items()


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("", "is not set"),
        ("mysql://ann:SECRET@h/d", "must start with"),
        ("SECRET", "must start with"),
        ("postgresql://:SECRET@h/d", "names no user"),
        ("postgresql://ann:SECRET@h:99999/d", "has a port"),
        ("postgresql://ann:SECRET@h:x/d", "has a port"),
        ("postgresql://ann:SECRET@h:0/d", "has a port"),
        ("postgresql://ann:SECRET@[::1/d", "cannot be read"),
        ("postgresql://ann:SECRET@a[b]/d", "cannot be read"),
        ("postgresql://ann:SECRET@h/d?x", "cannot be read"),
        ("postgresql://ann:SECRET@h/d?sslmode=prefer", "sslmode"),
        ("postgresql://ann:SECRET@h/d?channel_binding=disable", "channel_binding"),
        ("postgresql://ann:pass?secret=word@h/d", "one that libpq has not"),
        ("postgresql://ann:SECRET@h/d#sslmode=disable", "cannot be read"),
        ("postgresql://ann%00:SECRET@h/d", "cannot be read"),
        ("postgresql://ann:SECRET@h:" + "9" * 5000 + "/d", "has a port"),
        ("postgresql://ann:SECRET@h/d?connect_timeout=0", "connect_timeout"),
        ("postgresql://ann:SECRET@h/d?connect_timeout=SECRET", "connect_timeout"),
        ("postgresql://ann:SECRET@h/d?target_session_attrs=any&options=-c", "honoured: options, target_session_attrs"),
    ],
)
def test_a_url_that_cannot_be_honoured_is_refused_without_showing_it(url: str, problem: str) -> None:
    with pytest.raises(SettingsError, match=problem) as error:
        read_database_settings({"DATABASE_URL": url})
    assert "SECRET" not in str(error.value)
    assert "secret=" not in str(error.value)


def test_every_problem_is_reported_at_once() -> None:
    with pytest.raises(SettingsError) as error:
        read_settings({"DATABASE_URL": "mysql://:x@h:0/d?a=b", "LOG_LEVEL": "loud"})
    assert len(error.value.problems) == 6
    assert {problem.split()[0] for problem in error.value.problems} == {"DATABASE_URL", "AUTH_MODE", "LOG_LEVEL"}


@pytest.mark.parametrize("mode", [None, "", "basic", "None"])
def test_no_authorization_is_only_ever_chosen_explicitly(mode: str | None) -> None:
    environment = {"DATABASE_URL": "postgresql://ann@h/d"} | ({} if mode is None else {"AUTH_MODE": mode})
    with pytest.raises(SettingsError, match="AUTH_MODE must be set to one of: none, iam, jwt"):
        read_settings(environment)
    done = subprocess.run(
        [sys.executable, "-c", "import handler.main"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "AUTH_MODE must be set to one of: none" in done.stderr


@pytest.mark.parametrize(("value", "public"), [(None, False), ("false", False), ("true", True), ("True", True)])
def test_documentation_is_public_only_where_somebody_says_so(value: str | None, public: bool) -> None:
    environment = {"DATABASE_URL": "postgresql://ann@h/d", "AUTH_MODE": "jwt"}
    environment |= {} if value is None else {"AUTH_PUBLIC": value}
    assert read_settings(environment).auth_public is public


def test_a_word_that_is_no_boolean_makes_nothing_public() -> None:
    with pytest.raises(SettingsError, match="AUTH_PUBLIC must be true or false"):
        read_settings({"DATABASE_URL": "postgresql://ann@h/d", "AUTH_MODE": "jwt", "AUTH_PUBLIC": "docs"})


def test_the_password_is_in_no_representation() -> None:
    settings = read_settings({"DATABASE_URL": "postgresql://ann:SECRET@h/d", "AUTH_MODE": "none"})
    assert "SECRET" not in repr(settings)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"DATABASE_IAM_AUTH": "yes"}, "DATABASE_IAM_AUTH must be true or false"),
        ({"DATABASE_IAM_AUTH": "true"}, "DATABASE_IAM_AUTH needs AWS_REGION"),
        ({"DATABASE_IAM_AUTH": "true", "DATABASE_SECRET_ARN": "x"}, "both set"),
        ({"DATABASE_IAM_AUTH": "true", "DATABASE_URL": "postgresql://ann:SECRET@h/d"}, "must have none"),
        ({"DATABASE_IAM_AUTH": "true", "DATABASE_URL": "postgresql://ann@h/d?sslmode=disable"}, "needs TLS"),
        ({"DATABASE_IAM_AUTH": "true", "DATABASE_URL": "postgresql://ann@/d?host=/tmp"}, "unix socket"),
        ({"DATABASE_SECRET_ARN": "name"}, "needs AWS_REGION"),
        ({"DATABASE_SECRET_ARN": "arn:x", "DATABASE_URL": "postgresql://ann:SECRET@h/d"}, "must have none"),
    ],
)
def test_a_credential_that_contradicts_another_is_refused(changes: dict[str, str], problem: str) -> None:
    with pytest.raises(SettingsError, match=problem) as error:
        read_database_settings({"DATABASE_URL": "postgresql://ann@h/d"} | changes)
    assert "SECRET@" not in str(error.value)


def test_with_a_secret_the_rest_may_be_in_it() -> None:
    settings = read_database_settings({"DATABASE_SECRET_ARN": "arn:aws:secretsmanager:eu-central-1:1:secret:x"})
    assert settings.host is settings.user is settings.database is None


def address(url: str, **changes: str) -> tuple[str, int, ssl.SSLContext | None]:
    settings = read_database_settings({"DATABASE_URL": url} | changes)
    return address_of(settings, Login(settings.host or "", settings.port or 5432, "d", "u", None))


def test_a_unix_socket_is_found_by_its_folder_and_port() -> None:
    assert address("postgresql://ann@:5433/d?host=/run/pg") == ("/run/pg/.s.PGSQL.5433", 0, None)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]", "db.example"])
def test_tls_is_on_unless_the_host_is_this_machine(host: str) -> None:
    context = address(f"postgresql://ann@{host}/d")[2]
    assert (context is not None) == (host == "db.example")
    for mode in ("require", "verify-full"):
        context = address(f"postgresql://ann@{host}/d?sslmode={mode}")[2]
        assert context is not None
        assert context.verify_mode == ssl.CERT_REQUIRED
        assert context.check_hostname
    assert address(f"postgresql://ann@{host}/d?sslmode=disable")[2] is None


def test_a_token_is_never_sent_without_tls() -> None:
    aws = {"DATABASE_IAM_AUTH": "true", "AWS_REGION": "eu-central-1"}
    assert address("postgresql://ann@localhost/d", **aws)[2] is not None


def test_a_process_has_one_context() -> None:
    assert address("postgresql://ann@a.example/d")[2] is address("postgresql://ann@b.example/d")[2]


def test_a_bundle_that_cannot_be_read_is_named_when_it_is_needed(tmp_path: Path) -> None:
    (tmp_path / "empty.pem").touch()
    for bundle in (tmp_path / "missing.pem", tmp_path, tmp_path / "empty.pem"):
        with pytest.raises(CredentialsError, match="DATABASE_CA_BUNDLE"):
            address("postgresql://ann@db.example/d", DATABASE_CA_BUNDLE=str(bundle))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_POOL_SIZE", "0"),
        ("DATABASE_POOL_SIZE", "1.5"),
        ("DATABASE_POOL_SIZE", ""),
        ("DATABASE_CHECKOUT_TIMEOUT", "30"),
        ("DATABASE_CONNECT_TIMEOUT", "nan"),
        ("DATABASE_IDLE_CHECK", "-1"),
        ("DATABASE_RECYCLE", "forever"),
    ],
)
def test_a_number_out_of_its_bounds_is_refused(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=f"{name} must be a number between"):
        read_database_settings({"DATABASE_URL": "postgresql://ann@h/d", name: value})


def test_the_numbers_of_the_pool_can_be_set() -> None:
    settings = read_database_settings({"DATABASE_URL": "postgresql://ann@h/d", "DATABASE_POOL_SIZE": "2"})
    assert (settings.pool_size, settings.checkout_timeout) == (2, 3.0)


@pytest.mark.parametrize("name", ["a" * 64, "ä" * 32, "a\nb", "\udcff"])
def test_a_name_that_the_server_would_change_is_refused(name: str) -> None:
    environ = {"DATABASE_URL": "postgresql://ann@h/d"}
    with pytest.raises(SettingsError, match="DATABASE_API_USER must be a name of at most 63 bytes"):
        read_database_settings(environ | {"DATABASE_API_USER": name})
    assert read_database_settings(environ | {"DATABASE_API_USER": "a" * 63}).api_user == "a" * 63


def test_the_authorities_that_are_shipped_are_trusted_unless_a_setting_says_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, shipped = "postgresql://ann@db.example/d", tmp_path / "ca-bundle.pem"
    monkeypatch.setattr(settings, "CA_BUNDLE", shipped)
    assert read(url)["ca_bundle"] is None
    shipped.touch()
    assert read(url)["ca_bundle"] == str(shipped)
    assert read(f"{url}?sslrootcert=/ca.pem")["ca_bundle"] == "/ca.pem"
    for value, expected in {"/ca.pem": "/ca.pem", "": None}.items():
        found = read_database_settings({"DATABASE_URL": url, "DATABASE_CA_BUNDLE": value})
        assert found.ca_bundle == expected


def test_the_authorities_are_looked_for_where_they_are_shipped() -> None:
    assert Path(settings.__file__ or "").parents[1] / CA_BUNDLE == settings.CA_BUNDLE
