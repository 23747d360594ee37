"""The environment variables are checked at startup. Each problem says what to write, and no message shows a secret."""

import logging
import re
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import AliasChoices, AliasPath

from deploy.build import CA_BUNDLE
from handler.database.connection import address_of
from handler.database.credentials.logins import CredentialsError, Login
from handler.settings import DatabaseSettings, Settings, SettingsError, models, read_database_settings, read_settings
from handler.settings.database_url import OPTIONS

URL = "postgresql://ann@h/d"
SERVICE = {"DATABASE_URL": URL, "AUTH_MODE": "none"}
SHAPE = "postgresql://USER:PASSWORD@HOST:PORT/NAME"
PORT = "DATABASE_URL's port is not valid: write a number from 1 to 65535"
TIMEOUT = "DATABASE_CONNECT_TIMEOUT or DATABASE_URL's connect_timeout is not valid: write seconds from 0.1 to 20"
NO_CONTROLS = "is not valid: write a value without control characters, such as a line end"
UNREADABLE = f"DATABASE_URL cannot be read: write {SHAPE}, special characters percent-encoded"
SCHEME = "DATABASE_URL must start with one of: postgresql://, postgres://, postgresql+pg8000://"


def problems_of(**environ: str) -> list[str]:
    with pytest.raises(SettingsError) as error:
        read_settings(SERVICE | environ)
    return error.value.problems


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
        # A URL of Neon.
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
    ("url", "problems"),
    [
        ("", [f"DATABASE_URL is not set: write {SHAPE}"]),
        ("mysql://ann:SECRET@h/d", [SCHEME]),
        ("SECRET", [SCHEME, f"DATABASE_URL names no user: write {SHAPE}"]),
        ("postgresql://:SECRET@h/d", [f"DATABASE_URL names no user: write {SHAPE}"]),
        ("postgresql://ann:SECRET@h:99999/d", [PORT]),
        ("postgresql://ann:SECRET@h:65536/d", [PORT]),
        ("postgresql://ann:SECRET@h:x/d", [PORT]),
        ("postgresql://ann:SECRET@h:0/d", [PORT]),
        ("postgresql://ann:SECRET@h:-1/d", [PORT]),
        ("postgresql://ann:SECRET@h:" + "9" * 5000 + "/d", [PORT]),
        ("postgresql://ann:SECRET@[::1/d", [UNREADABLE]),
        ("postgresql://ann:SECRET@a[b]/d", [UNREADABLE]),
        ("postgresql://ann:SECRET@h/d?x", [UNREADABLE]),
        ("postgresql://ann:SECRET@h/d#sslmode=disable", [UNREADABLE]),
        ("postgresql://ann:SECRET@h/d\n", [UNREADABLE]),
        ("postgresql://ann:SEC\tRET@h/d", [UNREADABLE]),
        (
            "postgresql://ann:SECRET@h/d?sslmode=prefer",
            ["DATABASE_URL's sslmode is not valid: write one of disable, require, verify-ca, verify-full"],
        ),
        (
            "postgresql://ann:SECRET@h/d?channel_binding=disable",
            ["DATABASE_URL's channel_binding is not valid: write prefer or require"],
        ),
        (
            "postgresql://ann:pass?secret=word@h/d",
            [
                f"DATABASE_URL names no user: write {SHAPE}",
                "DATABASE_URL has options that are not supported: (one that libpq does not have)",
                PORT,
            ],
        ),
        ("postgresql://ann%00:SECRET@h/d", [f"DATABASE_URL's user {NO_CONTROLS}"]),
        ("postgresql://ann:SECRET%0A@h/d", [f"DATABASE_URL's password {NO_CONTROLS}"]),
        ("postgresql://ann:SECRET@h%7F/d", [f"DATABASE_URL's host {NO_CONTROLS}"]),
        ("postgresql://ann:SECRET@h/d%C2%85", [f"DATABASE_URL's dbname {NO_CONTROLS}"]),
        ("postgresql://ann:SECRET@h/d?connect_timeout=0", [TIMEOUT]),
        ("postgresql://ann:SECRET@h/d?connect_timeout=SECRET", [TIMEOUT]),
        (
            "postgresql://ann:SECRET@h/d?target_session_attrs=any&options=-c",
            ["DATABASE_URL has options that are not supported: options, target_session_attrs"],
        ),
        (
            "postgresql://ann:SECRET@h/d?sslmode=verify-full&sslmode=disable",
            ["DATABASE_URL has options more than once: sslmode"],
        ),
        ("postgresql://ann@h/d?password=SECRET&p%61ssword=x", ["DATABASE_URL has options more than once: password"]),
        ("postgresql://ann:SECRET@h/d?port=1&port=1", ["DATABASE_URL has options more than once: port"]),
        (
            "postgresql://ann:SECRET@h/d?timezone=1&timezone=1",
            [
                "DATABASE_URL has options more than once: timezone",
                "DATABASE_URL has options that are not supported: timezone",
            ],
        ),
        # An option that may be part of a password is not shown.
        *(
            (url, ["DATABASE_URL has options that are not supported: (one that libpq does not have)", *others])
            for url, *others in (
                ("postgresql://ann:p@h?SECRET=1@h/d",),
                ("postgresql://ann:x?SECRET=1@h/d", f"DATABASE_URL names no user: write {SHAPE}", PORT),
                ("postgresql://ann:1?SECRET=1", f"DATABASE_URL names no user: write {SHAPE}"),
                ("postgresql://ann:x@h/d?SECRET%20=1",),
            )
        ),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_without_showing_it(url: str, problems: list[str]) -> None:
    with pytest.raises(SettingsError) as error:
        read_database_settings({"DATABASE_URL": url})
    assert sorted(error.value.problems) == sorted(problems)
    assert "SECRET" not in str(error.value)


def test_every_problem_is_reported_at_once() -> None:
    environ = {
        "DATABASE_URL": "mysql://:SECRET@h:0/d?a=b&sslmode=x&sslmode=y",
        "DATABASE_POOL_SIZE": "SECRET",
        "DATABASE_IAM_AUTH": "true",
        "DATABASE_SECRET_ARN": "name",
        "AUTH_MODE": "",
        "AUTH_PUBLIC": "SECRET",
        "LOG_LEVEL": "loud",
        "BASE_PATH": "a b",
        "CORS_ORIGINS": "SECRET",
        "IDEMPOTENCY_TTL": "1",
    }
    assert problems_of(**environ) == [
        SCHEME,
        "DATABASE_URL has options more than once: sslmode",
        "DATABASE_URL has options that are not supported: a",
        "DATABASE_SECRET_ARN and DATABASE_IAM_AUTH are both set: choose one",
        "AWS_REGION or AWS_DEFAULT_REGION is not set, and DATABASE_IAM_AUTH needs it: write the region of the database",
        PORT,
        "DATABASE_URL's password is not used with DATABASE_IAM_AUTH, which has its own: remove it",
        "DATABASE_URL's sslmode is not valid: write one of disable, require, verify-ca, verify-full",
        "DATABASE_POOL_SIZE is not valid: write a whole number from 1 to 100",
        "AUTH_MODE is not set: write one of none, iam, jwt",
        "AUTH_PUBLIC is not valid: write true or false",
        "LOG_LEVEL is not valid: write one of NOTSET, TRACE, DEBUG, INFO, WARN, WARNING, ERROR, FATAL, CRITICAL",
        "BASE_PATH is not valid: write the mapping key of a custom domain, such as shop or shop/v1",
        "CORS_ORIGINS is not valid: origin 1 is not a URL: write it like https://app.example",
        "IDEMPOTENCY_TTL is not valid: write a whole number of seconds from 60 to 2592000",
    ]


def test_a_process_with_wrong_settings_does_not_start_and_shows_no_value() -> None:
    environ = SERVICE | {"DATABASE_URL": "postgresql://ann:SECRET@h:SECRET/d", "AUTH_PUBLIC": "SECRET"}
    done = subprocess.run(
        [sys.executable, "-c", "import handler.main"], env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert f"{PORT}; AUTH_PUBLIC is not valid: write true or false" in done.stderr
    assert "SECRET" not in done.stderr


@pytest.mark.parametrize("mode", [None, "", "basic", "None", "jwt "])
def test_no_authorization_is_only_ever_chosen_explicitly(mode: str | None) -> None:
    environ = {"DATABASE_URL": URL} | ({} if mode is None else {"AUTH_MODE": mode})
    with pytest.raises(SettingsError) as error:
        read_settings(environ)
    what = "not valid" if mode else "not set"
    assert error.value.problems == [f"AUTH_MODE is {what}: write one of none, iam, jwt"]


@pytest.mark.parametrize(("value", "public"), [("false", False), ("true", True), ("True", True), ("0", False)])
def test_documentation_is_public_only_when_the_setting_says_so(value: str, public: bool) -> None:
    assert not read_settings(SERVICE).auth_public
    assert read_settings(SERVICE | {"AUTH_PUBLIC": value}).auth_public is public


def test_a_word_that_is_not_a_boolean_makes_nothing_public() -> None:
    assert problems_of(AUTH_PUBLIC="docs") == ["AUTH_PUBLIC is not valid: write true or false"]


def test_the_password_is_in_no_representation() -> None:
    settings = read_settings(SERVICE | {"DATABASE_URL": "postgresql://ann:SECRET@h/d"})
    assert settings.database.password == "SECRET"
    for shown in (repr(settings), str(settings), str(settings.model_dump()), settings.model_dump_json()):
        assert "SECRET" not in shown


def test_an_empty_variable_counts_as_unset() -> None:
    empty = dict.fromkeys(variables() - SERVICE.keys(), "")
    assert len(empty) == 18
    assert read_settings(SERVICE | empty) == read_settings(SERVICE)
    assert read_database_settings(SERVICE | {"AWS_REGION": "", "AWS_DEFAULT_REGION": "eu-west-1"}).region == "eu-west-1"


def test_an_empty_option_of_the_url_counts_as_unset() -> None:
    options = "&".join(f"{name}=" for name in ("host", "port", "sslmode", "sslrootcert", "channel_binding", "dbname"))
    assert read(f"{URL}?{options}&connect_timeout=&application_name=") == read("postgresql://ann@")


def variables() -> set[str]:
    """The environment variables of all settings."""
    fields = [*Settings.model_fields.values(), *DatabaseSettings.model_fields.values()]
    aliases = [field.validation_alias for field in fields if field.validation_alias]
    choices = [
        choice for alias in aliases for choice in (alias.choices if isinstance(alias, AliasChoices) else [alias])
    ]
    return {str(choice.path[0]) if isinstance(choice, AliasPath) else choice for choice in choices}


PAGE = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text()
# The page's descriptions of defaults that a model computes, by field.
COMPUTED_DEFAULTS = {
    "ca_bundle": "`handler/ca-bundle.pem`, where it exists",
    "channel_binding": "`prefer`",
    "database": "the user's name",
    "host": "`localhost`",
    "port": "`5432`",
    "sslmode": "`verify-full`, on this machine `disable`",
    "user": "required",
}


def _setting(alias: Any) -> str:
    """The name of a setting on the page."""
    match alias:
        case AliasChoices():
            return " or ".join(map(_setting, alias.choices))
        case AliasPath():
            return f"`{alias.path[1]}` of `{alias.path[0]}`"
    return f"`{alias}`"


def _default(name: str, field: Any) -> str:
    if name in COMPUTED_DEFAULTS:
        return COMPUTED_DEFAULTS[name]
    if field.is_required():
        return "required"
    return (
        f"`{str(field.default).lower() if field.default is False else field.default}`"
        if (field.default not in (None, "", ()))
        else "unset"
    )


def test_the_configuration_page_has_every_setting_with_its_default_and_its_allowed_values() -> None:
    rows = re.findall(r"^\| (`.+?) \| (.+?) \| (.+?) \| .+ \|$", PAGE, re.MULTILINE)
    documented = {setting: (default, allowed) for setting, default, allowed in rows}
    assert len(documented) == len(rows)
    models = Settings.model_fields | DatabaseSettings.model_fields
    names = Settings.model_fields.keys() - {"database"} | DatabaseSettings.model_fields.keys()
    expected = {
        _setting(models[name].validation_alias): (_default(name, models[name]), models[name].description)
        for name in names
    }
    expected["`DATABASE_URL`"] = ("required", f"`{SHAPE}`")
    assert documented == expected


def test_the_configuration_page_has_every_option_of_the_url() -> None:
    for option in OPTIONS:
        assert f"`{option}` of `DATABASE_URL`" in PAGE


@pytest.mark.parametrize("name", [*logging.getLevelNamesMapping(), "TRACE", "debug", "Warn"])
def test_the_log_level_is_any_name_that_python_or_lambda_knows(name: str) -> None:
    levels = logging.getLevelNamesMapping()
    level = read_settings(SERVICE | {"LOG_LEVEL": name}).log_level
    assert levels[level] == levels["DEBUG" if name == "TRACE" else name.upper()]


@pytest.mark.parametrize("name", ["loud", "10", "INFO ", "WARN,ERROR"])
def test_an_unknown_log_level_is_refused(name: str) -> None:
    assert problems_of(LOG_LEVEL=name) == [
        "LOG_LEVEL is not valid: write one of NOTSET, TRACE, DEBUG, INFO, WARN, WARNING, ERROR, FATAL, CRITICAL"
    ]


@pytest.mark.parametrize("path", ["shop/v1", "/shop/v1", "/shop/v1/", "//shop/v1//"])
def test_a_base_path_has_one_form(path: str) -> None:
    assert read_settings(SERVICE | {"BASE_PATH": path}).base_path == "/shop/v1"
    assert read_settings(SERVICE | {"BASE_PATH": "/"}).base_path == ""


@pytest.mark.parametrize("path", ["a//b", "a b", "a?b", "a\n", "ä", "a/%20"])
def test_a_base_path_that_no_mapping_has_is_refused(path: str) -> None:
    assert problems_of(BASE_PATH=path)[0].startswith("BASE_PATH is not valid: write the mapping key")


REGION = "AWS_REGION or AWS_DEFAULT_REGION is not set, and "


@pytest.mark.parametrize(
    ("changes", "problems"),
    [
        ({"DATABASE_IAM_AUTH": "docs"}, ["DATABASE_IAM_AUTH is not valid: write true or false"]),
        (
            {"DATABASE_IAM_AUTH": "true", "AWS_REGION": ""},
            [REGION + "DATABASE_IAM_AUTH needs it: write the region of the database"],
        ),
        (
            {"DATABASE_IAM_AUTH": "true", "DATABASE_SECRET_ARN": "x"},
            ["DATABASE_SECRET_ARN and DATABASE_IAM_AUTH are both set: choose one"],
        ),
        (
            {"DATABASE_IAM_AUTH": "true", "DATABASE_URL": "postgresql://ann:SECRET@h/d"},
            ["DATABASE_URL's password is not used with DATABASE_IAM_AUTH, which has its own: remove it"],
        ),
        (
            {"DATABASE_IAM_AUTH": "true", "DATABASE_URL": "postgresql://ann@h/d?sslmode=disable"},
            ["DATABASE_URL's sslmode is disable, but DATABASE_IAM_AUTH needs TLS: remove it"],
        ),
        (
            {"DATABASE_IAM_AUTH": "true", "DATABASE_URL": "postgresql://ann@/d?host=/tmp"},
            ["DATABASE_URL's host is a Unix socket, but DATABASE_IAM_AUTH needs TLS: name a host"],
        ),
        (
            {"DATABASE_SECRET_ARN": "name", "AWS_REGION": ""},
            [REGION + "DATABASE_SECRET_ARN does not name it: write the region, or the whole ARN"],
        ),
        (
            {"DATABASE_SECRET_ARN": "name", "DATABASE_URL": "postgresql://ann:SECRET@h/d"},
            ["DATABASE_URL's password is not used with DATABASE_SECRET_ARN, which has its own: remove it"],
        ),
        *(
            (
                {"DATABASE_SECRET_ARN": arn},
                ["DATABASE_SECRET_ARN is not valid: write the ARN or the name of a secret in Secrets Manager"],
            )
            for arn in (
                "arn:x",
                "arn:aws:rds:eu-west-1:1:db:x",
                "arn:aws:secretsmanager::1:secret:x",
                "a secret",
                "x\n",
            )
        ),
    ],
)
def test_a_credential_that_contradicts_another_is_refused(changes: dict[str, str], problems: list[str]) -> None:
    with pytest.raises(SettingsError) as error:
        read_database_settings({"DATABASE_URL": URL, "AWS_REGION": "eu-central-1"} | changes)
    assert error.value.problems == problems


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


def test_an_unreadable_ca_file_is_an_error_when_it_is_needed(tmp_path: Path) -> None:
    (tmp_path / "empty.pem").touch()
    for bundle in (tmp_path / "missing.pem", tmp_path, tmp_path / "empty.pem"):
        with pytest.raises(CredentialsError, match="DATABASE_CA_BUNDLE"):
            address("postgresql://ann@db.example/d", DATABASE_CA_BUNDLE=str(bundle))


NUMBERS = {
    "DATABASE_POOL_SIZE": (1, 100),
    "DATABASE_CHECKOUT_TIMEOUT": (0.1, 20),
    "DATABASE_CONNECT_TIMEOUT": (0.1, 20),
    "DATABASE_IDLE_CHECK": (0, 300),
    "DATABASE_RECYCLE": (1, 3600),
    "IDEMPOTENCY_TTL": (60, 2592000),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_is_accepted_only_within_its_bounds_and_the_message_has_them(name: str) -> None:
    low, high = NUMBERS[name]
    for bound in (low, high):
        read_settings(SERVICE | {name: str(bound)})
    for value in (f"{low - 0.01}", str(high + 1), "nan", "inf", "-inf", "forever", "1,5", "9" * 5000):
        (problem,) = problems_of(**{name: value})
        assert problem.startswith(name)
        assert problem.endswith(f" from {low} to {high}")


@pytest.mark.parametrize("name", ["DATABASE_POOL_SIZE", "IDEMPOTENCY_TTL"])
def test_a_whole_number_has_no_fraction(name: str) -> None:
    assert "write a whole number" in problems_of(**{name: "61.5"})[0]


def test_a_variable_takes_precedence_over_the_option_of_the_url() -> None:
    environ = {"DATABASE_URL": f"{URL}?connect_timeout=5&sslrootcert=/a", "DATABASE_CONNECT_TIMEOUT": "7"}
    assert read_database_settings(environ).connect_timeout == 7
    assert read_database_settings(environ | {"DATABASE_CA_BUNDLE": "/b"}).ca_bundle == "/b"


ORIGIN_FORMS = {
    "https://App.example": "has upper-case letters: write https://app.example",
    "HTTPS://app.example": "has upper-case letters: write https://app.example",
    "https://app.example:443": "has the default port: write https://app.example",
    "http://app.example:80": "has the default port: write http://app.example",
    "https://app.example:0443": "has the default port: write https://app.example",
    "https://app.example:": "has the default port: write https://app.example",
    "https://app.example/": "has a slash at the end: write https://app.example",
    "https://app.example/v1": "has a path: write https://app.example",
    "https://app.example?a=b": "has a query: write https://app.example",
    "https://app.example#a": "has a fragment: write https://app.example",
    "https://ann:SECRET@app.example": "has a user name or password: write https://app.example",
    "https://@app.example": "has a user name or password: write https://app.example",
    "https://münchen.example": "has letters that browsers send as punycode: write https://xn--mnchen-3ya.example",
    "https://straße.example": "has letters that browsers send as punycode: write https://xn--strae-oqa.example",
    "https://APP.example:443/SECRET?SECRET": (
        "has upper-case letters and the default port and a path and a query: write https://app.example"
    ),
    "http://127.1:3000": "has a form that browsers do not send: write http://127.0.0.1:3000",
    "http://[0::1]:3000": "has a form that browsers do not send: write http://[::1]:3000",
    "http://app.example:08080": "has a form that browsers do not send: write http://app.example:8080",
    "https:app.example": "has a form that browsers do not send: write https://app.example",
    "https://app\t.example": "has a form that browsers do not send: write https://app.example",
    "https://*.example.com": (
        "has a wildcard, which is not supported: write each origin, like https://app.example, or only *"
    ),
    "https://*": "has a wildcard, which is not supported: write each origin, like https://app.example, or only *",
    "null": "is null, which sandboxed pages of any author send: remove it",
    "app.example": "is not a URL: write it like https://app.example",
    "https://": "is not a URL: write it like https://app.example",
    "https://app.example:65536": "is not a URL: write it like https://app.example",
    "https://a b": "is not a URL: write it like https://app.example",
    "localhost:3000": "does not start with https:// or http://: write it like https://app.example",
    "file:///": "does not start with https:// or http://: write it like https://app.example",
    "postgresql://ann:SECRET@h/d": "does not start with https:// or http://: write it like https://app.example",
}


@pytest.mark.parametrize("origin", ORIGIN_FORMS)
def test_an_origin_that_no_browser_sends_is_refused_with_the_one_that_it_sends(origin: str) -> None:
    assert problems_of(CORS_ORIGINS=origin) == [f"CORS_ORIGINS is not valid: origin 1 {ORIGIN_FORMS[origin]}"]


def test_each_invalid_origin_is_named_by_its_position() -> None:
    (problem,) = problems_of(CORS_ORIGINS="https://a.example, https://b.example/, https://C.example")
    assert problem == (
        "CORS_ORIGINS is not valid: origin 2 has a slash at the end: write https://b.example;"
        " origin 3 has upper-case letters: write https://c.example"
    )


@pytest.mark.parametrize(
    "origin",
    [
        *("*", "https://app.example", "http://localhost:3000", "https://app.example:8443", "http://app.example:443"),
        *("http://127.0.0.1:3000", "http://[::1]:3000", "https://xn--mnchen-3ya.example", "https://my_app.example"),
    ],
)
def test_an_origin_as_browsers_send_it_is_accepted(origin: str) -> None:
    assert read_settings(SERVICE | {"CORS_ORIGINS": origin}).cors_origins == (origin,)
    assert read_settings(SERVICE | {"CORS_ORIGINS": f" {origin} , ,"}).cors_origins == (origin,)


def test_the_numbers_of_the_pool_can_be_set() -> None:
    settings = read_database_settings({"DATABASE_URL": "postgresql://ann@h/d", "DATABASE_POOL_SIZE": "2"})
    assert (settings.pool_size, settings.checkout_timeout) == (2, 3.0)


@pytest.mark.parametrize("name", ["a" * 64, "ä" * 32, "a\nb", "\udcff"])
def test_a_name_that_the_server_would_change_is_refused(name: str) -> None:
    environ = {"DATABASE_URL": "postgresql://ann@h/d"}
    with pytest.raises(SettingsError, match="DATABASE_API_USER is not valid: write a name of at most 63 bytes"):
        read_database_settings(environ | {"DATABASE_API_USER": name})
    assert read_database_settings(environ | {"DATABASE_API_USER": "a" * 63}).api_user == "a" * 63


def test_the_shipped_authorities_are_trusted_unless_a_setting_names_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, shipped = "postgresql://ann@db.example/d", tmp_path / "ca-bundle.pem"
    monkeypatch.setattr(models, "CA_BUNDLE", shipped)
    assert read(url)["ca_bundle"] is None
    shipped.touch()
    assert read(url)["ca_bundle"] == str(shipped)
    assert read(f"{url}?sslrootcert=/ca.pem")["ca_bundle"] == "/ca.pem"
    for value, expected in {"/ca.pem": "/ca.pem", "system": "system", "": str(shipped)}.items():
        found = read_database_settings({"DATABASE_URL": url, "DATABASE_CA_BUNDLE": value})
        assert found.ca_bundle == expected


def test_the_default_ca_file_is_where_the_artifact_has_it() -> None:
    assert Path(models.__file__).parents[2] / CA_BUNDLE == models.CA_BUNDLE
