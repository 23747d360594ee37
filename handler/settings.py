"""One frozen view of the environment, checked once, at start, with every problem reported at once."""

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

SCHEMES = ("postgresql", "postgres", "postgresql+pg8000")
AUTH_MODES = ("none",)
SSL_MODES = ("", "disable", "verify-full")
# What may be set of DatabaseSettings, by DATABASE_… and the name: its kind and its bounds, in seconds for times.
# A checkout or a connect that lasts longer than API Gateway waits (30 s) is of use to nobody.
NUMBERS: dict[str, tuple[type[int] | type[float], float, float]] = {
    "pool_size": (int, 1, 100),
    "checkout_timeout": (float, 0.1, 20),
    "connect_timeout": (float, 0.1, 20),
    "idle_check": (float, 0, 300),
    "recycle": (float, 1, 3600),
}
LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
URL_SHAPE = "postgresql://USER:PASSWORD@HOST:PORT/NAME"
AUTHORITY = re.compile(
    r"(?:(?P<user>[^:@]*)(?::(?P<password>.*))?@)?(?:\[(?P<ipv6>[^\]]*)\]|(?P<host>[^:\[\]]*))(?::(?P<port>.*))?"
)


class SettingsError(Exception):
    """The environment does not describe a service that can start. `problems` has a line for each setting."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("settings: " + "; ".join(problems))
        self.problems = problems


@dataclass(frozen=True)
class DatabaseSettings:
    """Where the database is, who we are there, and how connections to it are kept. Times are in seconds.

    `host` is a folder when it starts with `/` (unix socket). The network between a function and its database forgets
    a connection that is silent for 350 s (load balancers, NAT): `recycle` is below it.
    """

    host: str
    port: int
    user: str
    database: str
    password: str | None = field(repr=False)
    tls: bool
    pool_size: int = 1
    checkout_timeout: float = 3.0
    connect_timeout: float = 3.0
    idle_check: float = 1.0
    recycle: float = 300.0


@dataclass(frozen=True)
class Settings:
    """Everything the service reads from its environment."""

    database: DatabaseSettings
    auth_mode: str
    log_level: str


@cache
def settings() -> Settings:
    """The process's settings, read once. Raises SettingsError."""
    return read_settings(os.environ)


def read_settings(environ: Mapping[str, str]) -> Settings:
    """Check `environ` whole. Raises SettingsError with every problem, and shows no value that may be secret."""
    problems: list[str] = []
    database = _database(environ, problems)
    auth_mode = _one_of("AUTH_MODE", environ.get("AUTH_MODE"), AUTH_MODES, problems)
    log_level = _one_of("LOG_LEVEL", environ.get("LOG_LEVEL", "INFO").upper(), LOG_LEVELS, problems)
    if database is None or problems:
        raise SettingsError(problems)
    return Settings(database=database, auth_mode=auth_mode, log_level=log_level)


def read_database_settings(environ: Mapping[str, str]) -> DatabaseSettings:
    """Only what is needed to reach the database: migrations have no callers to authorize."""
    problems: list[str] = []
    database = _database(environ, problems)
    if database is None:
        raise SettingsError(problems)
    return database


def _one_of(name: str, value: str | None, allowed: tuple[str, ...], problems: list[str]) -> str:
    if value not in allowed:
        problems.append(f"{name} must be set to one of: {', '.join(allowed)}")
        return ""
    return value


def _database(environ: Mapping[str, str], problems: list[str]) -> DatabaseSettings | None:
    """DATABASE_URL as people write it: `postgresql://user:password@host:5432/name`, or with `?host=/folder`.

    libpq's rules (PostgreSQL manual, 32.1.1.2 "Connection URIs"): parts are percent-encoded, a host that starts
    with a slash is the folder of a unix socket, the database's name defaults to the user's.
    """
    pool = _pool(environ, problems)
    if not environ.get("DATABASE_URL"):
        problems.append(f"DATABASE_URL is not set: {URL_SHAPE}")
        return None
    try:
        url = urlsplit(environ["DATABASE_URL"])
        options = dict(parse_qsl(url.query, keep_blank_values=True, strict_parsing=bool(url.query)))
        authority = AUTHORITY.fullmatch(url.netloc)
    except ValueError:
        authority = None
    if authority is None:
        problems.append(f"DATABASE_URL cannot be read: {URL_SHAPE}")
        return None
    # An option wins over the same part of the authority, as in libpq.
    parts = {name: unquote(value) for name, value in authority.groupdict(default="").items()}
    parts["host"] = parts["host"] or parts.pop("ipv6")
    parts |= {name: options.pop(name) for name in ("host", "port", "user", "password") if name in options}
    sslmode = options.pop("sslmode", "")
    port = parts["port"] or "5432"
    mistakes = [
        (url.scheme not in SCHEMES, f"must start with one of: {', '.join(s + '://' for s in SCHEMES)}"),
        (not parts["user"], f"names no user: {URL_SHAPE}"),
        (not (port.isdecimal() and 0 < int(port) < 65536), "has a port that is not between 1 and 65535"),
        (sslmode not in SSL_MODES, "has an sslmode other than disable and verify-full"),
        (bool(options), f"has options that are not known: {', '.join(sorted(options))}"),
    ]
    found = [f"DATABASE_URL {text}" for is_wrong, text in mistakes if is_wrong]
    problems += found
    if problems:
        return None
    host = parts["host"] or "localhost"
    return DatabaseSettings(
        host=host,
        port=int(port),
        user=parts["user"],
        password=parts["password"] or None,
        database=unquote(url.path.removeprefix("/")) or parts["user"],
        tls=sslmode == "verify-full" or (not sslmode and not _is_local(host)),
        **pool,
    )


def _pool(environ: Mapping[str, str], problems: list[str]) -> dict[str, Any]:
    """The numbers that are set; those that are not have their defaults in DatabaseSettings."""
    found: dict[str, Any] = {}
    for name, (kind, low, high) in NUMBERS.items():
        variable = f"DATABASE_{name.upper()}"
        if variable in environ:
            try:
                found[name] = kind(environ[variable])
            except ValueError:
                found[name] = math.nan
            if not low <= found[name] <= high:
                problems.append(f"{variable} must be a number between {low} and {high}")
    return found


def _is_local(host: str) -> bool:
    return host.startswith("/") or host in ("localhost", "127.0.0.1", "::1")
