"""How a connection is made of the settings, and an engine of connections."""

import ssl
from functools import cache, partial
from typing import Any

from pg8000 import dbapi
from sqlalchemy import Engine, create_engine

from handler.database.credentials import logins
from handler.database.deadline import timeout_after
from handler.database.driver.connection import Connection
from handler.database.driver.dialect import NAME
from handler.database.driver.stream import TlsSocket
from handler.database.error_fields import sqlstate_of
from handler.settings import DatabaseSettings, SettingsError

REFUSED_LOGIN = ("28P01", "28000")  # the password; the user, or how it came
# What roles, databases and servers must not decide: how values travel (docs/adr/0006). PgBouncer and RDS Proxy accept
# these at startup. They are written as the server reports them: PgBouncer sets again what differs.
STARTUP = {"client_encoding": "UTF8", "DateStyle": "ISO, MDY", "TimeZone": "UTC"}
# PgBouncer refuses these at startup. The values are PostgreSQL's own defaults, as SHOW writes them.
SETTINGS = {
    "array_nulls": "on",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "IntervalStyle": "postgres",
    "quote_all_identifiers": "off",
    "timezone_abbreviations": "Default",
    "transform_null_equals": "off",
    "xmlbinary": "base64",
    "xmloption": "content",
}


def make_engine(database: DatabaseSettings, **options: Any) -> Engine:
    """An engine on `database`; `options` are those of `sqlalchemy.create_engine`. Does not connect.

    Raises SettingsError when the CA file that connections will need cannot be read.
    """
    preload_tls_context(database)
    options = {"creator": partial(connect, database), "hide_parameters": True} | options
    return create_engine(f"{NAME}://", **options)


def connect(database: DatabaseSettings) -> Connection:
    """A new connection, by the first login that the server takes. Raises pg8000's OperationalError."""
    refused: Exception | None = None
    try:
        for login in logins.candidate_logins(database):
            try:
                connection = _connect(database, login)
            except dbapi.OperationalError as error:
                if sqlstate_of(error) not in REFUSED_LOGIN:
                    raise
                refused = error
            else:
                logins.mark_accepted(database, login)
                return connection
    except logins.CredentialsError as error:
        raise dbapi.OperationalError({"S": "ERROR", "C": "08001", "M": str(error)}) from error
    assert refused is not None
    raise refused


def _connect(database: DatabaseSettings, login: logins.Login) -> Connection:
    connection = Connection(
        address_of(database, login),
        {
            "user": login.user,
            "password": login.password,
            "database": login.database,
            "application_name": database.application_name,
            "startup_params": STARTUP,
        },
        timeout=database.connect_timeout,
        idle_check=database.idle_check,
        channel_binding=database.channel_binding,
        settings=SETTINGS,
        reconnect=partial(connect, database),
    )
    # The dialect writes literals for "on". Whether RDS Proxy accepts it at startup is not documented.
    if connection.parameter_statuses.get("standard_conforming_strings") == "off":
        with timeout_after(database.connect_timeout):
            connection.execute_simple("SET standard_conforming_strings = on")
    return connection


def address_of(database: DatabaseSettings, login: logins.Login) -> tuple[str, int, ssl.SSLContext | None]:
    """The arguments of `wire.open_socket`. Raises CredentialsError when the CA file cannot be read."""
    if login.host.startswith("/"):
        # The file's name: PostgreSQL manual, 19.3.1 "unix_socket_directories".
        return (f"{login.host}/.s.PGSQL.{login.port}", 0, None)
    if not _wants_tls(database, login.host):
        return (login.host, login.port, None)
    try:
        return (login.host, login.port, _tls(database.ca_bundle, database.sslmode != "verify-ca"))
    except OSError as error:
        raise logins.CredentialsError(_unreadable(error)) from error


def preload_tls_context(database: DatabaseSettings) -> None:
    """Make the TLS context at init, where connections will need one.

    Raises SettingsError when its CA file cannot be read.

    Init has a whole processor on Lambda, whatever the function's memory; an invocation has its share.
    """
    host = database.host or ""  # a host that is in a secret is not this machine, and needs TLS
    if not host.startswith("/") and _wants_tls(database, host):
        try:
            _tls(database.ca_bundle, database.sslmode != "verify-ca")
        except OSError as error:
            raise SettingsError([_unreadable(error)]) from error


def _unreadable(error: OSError) -> str:
    reason = error.strerror if error.strerror and not isinstance(error, ssl.SSLError) else "it holds no certificate"
    return f"the CA file of DATABASE_CA_BUNDLE (or of sslrootcert in DATABASE_URL) cannot be read: {reason}"


def _wants_tls(database: DatabaseSettings, host: str) -> bool:
    is_this_machine = host in ("localhost", "127.0.0.1", "::1")
    return database.sslmode != "disable" and (not is_this_machine or database.sslmode is not None or database.iam_auth)


@cache
def _tls(ca_bundle: str | None, check_hostname: bool) -> ssl.SSLContext:
    """The process's TLS context. Raises OSError, ssl.SSLError among them, when `ca_bundle` cannot be read.

    The certificates in the file `ca_bundle` are the only trusted authorities, as in libpq; without one, or with
    "system", the operating system's are. Reading those takes some 20 ms, hence one context per process.
    """
    context = ssl.create_default_context(cafile=None if ca_bundle == "system" else ca_bundle)
    context.check_hostname = check_hostname
    # Python's default accepts the common name of a certificate without subjectAltName, which RFC 9525 forbids.
    context.hostname_checks_common_name = False
    context.sslsocket_class = TlsSocket
    return context
