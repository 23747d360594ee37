"""Connections and engines that are configured by DatabaseSettings."""

import ssl
from functools import cache, partial
from typing import Any

from pg8000 import dbapi
from sqlalchemy import Engine, create_engine

from handler.database.credentials import logins
from handler.database.deadline import timeout_after
from handler.database.driver.connection import Connection
from handler.database.driver.dialect import DIALECT
from handler.database.driver.stream import TlsSocket
from handler.database.error_fields import sqlstate_of
from handler.settings import DatabaseSettings, SettingsError

INVALID_LOGIN = ("28P01", "28000")  # SQLSTATEs: a wrong password; a user or a connection that pg_hba.conf rejects
# The formats of values, which defaults of a role, a database or a server must not change (docs/adr/0006).
# These are sent at startup, where PgBouncer and RDS Proxy accept them. They are written as the server reports them:
# PgBouncer sends a SET for each that differs.
STARTUP_PARAMETERS = {"client_encoding": "UTF8", "DateStyle": "ISO, MDY", "TimeZone": "UTC"}
# These are set in each transaction, because PgBouncer rejects them at startup. The values are PostgreSQL's defaults, as
# SHOW writes them.
TRANSACTION_SETTINGS = {
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
    """Return an engine for `database`, without connecting. `options` are passed to `sqlalchemy.create_engine`.

    Raises SettingsError if connections need a CA file that cannot be read.
    """
    preload_tls_context(database)
    options = {"creator": partial(connect, database), "hide_parameters": True} | options
    return create_engine(f"{DIALECT}://", **options)


def connect(database: DatabaseSettings) -> Connection:
    """Return a new connection, with the first login that the server accepts. Raises pg8000's OperationalError."""
    refused: Exception | None = None
    try:
        for login in logins.candidate_logins(database):
            try:
                connection = _connect(database, login)
            except dbapi.OperationalError as error:
                if sqlstate_of(error) not in INVALID_LOGIN:
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
            "startup_params": STARTUP_PARAMETERS,
        },
        timeout=database.connect_timeout,
        idle_check=database.idle_check,
        channel_binding=database.channel_binding,
        settings=TRANSACTION_SETTINGS,
        reconnect=partial(connect, database),
    )
    # The dialect writes literals for "on". It is not documented whether RDS Proxy accepts this one at startup.
    if connection.parameter_statuses.get("standard_conforming_strings") == "off":
        with timeout_after(database.connect_timeout):
            connection.execute_simple("SET standard_conforming_strings = on")
    return connection


def address_of(database: DatabaseSettings, login: logins.Login) -> tuple[str, int, ssl.SSLContext | None]:
    """Return the arguments of `driver.stream.open_socket`. Raises CredentialsError if the CA file cannot be read."""
    if login.host.startswith("/"):
        # The name of the socket file: PostgreSQL manual, 19.3.1 "unix_socket_directories".
        return (f"{login.host}/.s.PGSQL.{login.port}", 0, None)
    if not _wants_tls(database, login.host):
        return (login.host, login.port, None)
    try:
        return (login.host, login.port, _tls(database.ca_bundle, database.sslmode != "verify-ca"))
    except OSError as error:
        raise logins.CredentialsError(_unreadable(error)) from error


def preload_tls_context(database: DatabaseSettings) -> None:
    """Create the TLS context at init, if connections will use TLS. Raises SettingsError if the CA file cannot be read.

    On Lambda, init has a whole processor; an invocation has a share of one that depends on the function's memory.
    """
    host = database.host or ""  # a host that comes from a secret is another machine, and needs TLS
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
    """Return the process's TLS context. Raises OSError (also ssl.SSLError) if `ca_bundle` cannot be read.

    Only the authorities in the file `ca_bundle` are trusted, as in libpq. With None or "system", those of the operating
    system are trusted. Reading them takes about 20 ms, so there is one context per process.
    """
    context = ssl.create_default_context(cafile=None if ca_bundle == "system" else ca_bundle)
    context.check_hostname = check_hostname
    # By default Python accepts the common name of a certificate without subjectAltName, which RFC 9525 forbids.
    context.hostname_checks_common_name = False
    context.sslsocket_class = TlsSocket
    return context
