"""The environment is checked at start: every problem at once, no secret shown."""

import ssl
import subprocess
import sys

import pytest

from handler.database.connection import address_of
from handler.settings import SettingsError, read_database_settings, read_settings


def read(url: str) -> dict[str, object]:
    settings = read_database_settings({"DATABASE_URL": url})
    return {name: getattr(settings, name) for name in ("host", "port", "user", "password", "database", "tls")}


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+pg8000"])
def test_a_url_has_any_of_the_usual_schemes(scheme: str) -> None:
    assert read(f"{scheme}://ann:secret@db.example:6543/shop") == {
        "host": "db.example",
        "port": 6543,
        "user": "ann",
        "password": "secret",
        "database": "shop",
        "tls": True,
    }


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql://ann@localhost", {"host": "localhost", "port": 5432, "database": "ann", "tls": False}),
        ("postgresql://ann@", {"host": "localhost"}),
        ("postgresql://ann:p%40ss%2Fw%3A%25rd@h/d", {"password": "p@ss/w:%rd", "host": "h"}),
        ("postgresql://ann:pässwörd@h/d", {"password": "pässwörd"}),
        ("postgresql://ann:p%C3%A4ss@h/d", {"password": "päss"}),
        ("postgresql://ann:a:b@h/d", {"password": "a:b"}),
        ("postgresql://ann:a@b@h/d", {"password": "a@b", "host": "h"}),
        ("postgresql://ann@[::1]:5433/d", {"host": "::1", "port": 5433, "tls": False}),
        ("postgresql://ann@[2001:db8::1]/d", {"host": "2001:db8::1", "tls": True}),
        ("postgresql://ann@/d?host=/var/run/postgresql", {"host": "/var/run/postgresql", "tls": False}),
        ("postgresql:///d?host=/tmp&user=ann&password=x&port=5433", {"user": "ann", "password": "x", "port": 5433}),
        ("postgresql://ann@%2FTmp%2Fsocket:5433/d", {"host": "/Tmp/socket", "port": 5433}),
        ("postgresql://ann@h/my%20shop", {"database": "my shop"}),
        ("postgresql://ann@h/d?sslmode=disable", {"tls": False}),
        ("postgresql://ann@localhost/d?sslmode=verify-full", {"tls": True}),
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
        ("postgresql://ann:SECRET@h/d?sslmode=allow", "sslmode"),
        ("postgresql://ann:SECRET@h/d?target_session_attrs=any&options=-c", "not known: options, target_session_attrs"),
    ],
)
def test_a_url_that_cannot_be_honoured_is_refused_without_showing_it(url: str, problem: str) -> None:
    with pytest.raises(SettingsError, match=problem) as error:
        read_database_settings({"DATABASE_URL": url})
    assert "SECRET" not in str(error.value)


def test_every_problem_is_reported_at_once() -> None:
    with pytest.raises(SettingsError) as error:
        read_settings({"DATABASE_URL": "mysql://:x@h:0/d?a=b", "LOG_LEVEL": "loud"})
    assert len(error.value.problems) == 6
    assert {problem.split()[0] for problem in error.value.problems} == {"DATABASE_URL", "AUTH_MODE", "LOG_LEVEL"}


@pytest.mark.parametrize("mode", [None, "", "jwt", "None"])
def test_no_authorization_is_only_ever_chosen_explicitly(mode: str | None) -> None:
    environment = {"DATABASE_URL": "postgresql://ann@h/d"} | ({} if mode is None else {"AUTH_MODE": mode})
    with pytest.raises(SettingsError, match="AUTH_MODE must be set to one of: none"):
        read_settings(environment)
    done = subprocess.run(
        [sys.executable, "-c", "import handler.main"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "AUTH_MODE must be set to one of: none" in done.stderr


def test_the_password_is_in_no_representation() -> None:
    settings = read_settings({"DATABASE_URL": "postgresql://ann:SECRET@h/d", "AUTH_MODE": "none"})
    assert "SECRET" not in repr(settings)


def test_a_unix_socket_is_found_by_its_folder_and_port() -> None:
    settings = read_database_settings({"DATABASE_URL": "postgresql://ann@:5433/d?host=/run/pg"})
    assert address_of(settings) == ("/run/pg/.s.PGSQL.5433", 0, None)


def test_a_remote_database_is_reached_with_a_verified_certificate() -> None:
    settings = read_database_settings({"DATABASE_URL": "postgresql://ann@db.example/d"})
    host, port, context = address_of(settings)
    assert (host, port) == ("db.example", 5432)
    assert context is not None
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.check_hostname


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
