"""One frozen view of the environment, checked once, at start, with every problem reported at once."""

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from handler import database_url

AUTH_MODES = ("none", "iam", "jwt")
LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
# `make ca-bundle` writes this file. When it is shipped, it is the only trust unless a setting names another.
CA_BUNDLE = Path(__file__).with_name("ca-bundle.pem")
BOOLEANS = {"true": True, "false": False}
Bounds = tuple[type[int] | type[float], float, float]
# The numbers of DatabaseSettings: each is set by DATABASE_ and its name, between these bounds (seconds for times).
# A checkout or a connect that lasts longer than API Gateway waits (30 s) is of use to nobody.
DATABASE_NUMBERS: dict[str, Bounds] = {
    "pool_size": (int, 1, 100),
    "checkout_timeout": (float, 0.1, 20),
    "connect_timeout": (float, 0.1, 20),
    "idle_check": (float, 0, 300),
    "recycle": (float, 1, 3600),
}
CONTRACT_NUMBERS: dict[str, Bounds] = {"idempotency_ttl": (int, 60, 30 * 86_400)}


class SettingsError(Exception):
    """The environment does not describe a service that can start. `problems` has a line for each setting."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("settings: " + "; ".join(problems))
        self.problems = problems


@dataclass(frozen=True)
class DatabaseSettings:
    """Where the database is, who we are there, and how connections to it are kept. Times are in seconds.

    `host` is a folder when it starts with `/` (unix socket). With a `secret_arn`, what is None here is in the secret.
    The network between a function and its database forgets a connection that is silent for 350 s (load balancers,
    NAT): `recycle` is below it.
    """

    host: str | None = None
    port: int | None = None
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    database: str | None = None
    secret_arn: str | None = None
    iam_auth: bool = False
    region: str | None = None
    sslmode: str | None = None
    ca_bundle: str | None = None
    channel_binding: bool = False
    application_name: str | None = None
    api_user: str | None = None  # whom migrations let read and change rows
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
    auth_public: bool = False  # documentation and liveness are for everybody
    base_path: str = ""  # the mapping key of a custom domain, as "/key"
    cors_origins: tuple[str, ...] = ()
    require_if_match: bool = False
    idempotency_ttl: int = 86_400  # seconds


@cache
def settings() -> Settings:
    """The process's settings, read once. Raises SettingsError."""
    return read_settings(os.environ)


def read_settings(environ: Mapping[str, str]) -> Settings:
    """Check `environ` whole. Raises SettingsError with every problem, and shows no value that may be secret."""
    problems: list[str] = []
    found = Settings(
        database=_database(environ, problems),
        auth_mode=_one_of("AUTH_MODE", environ.get("AUTH_MODE"), AUTH_MODES, problems),
        auth_public=_boolean("AUTH_PUBLIC", environ, problems),
        log_level=_one_of("LOG_LEVEL", environ.get("LOG_LEVEL", "INFO").upper(), LOG_LEVELS, problems),
        base_path=_base_path(environ.get("BASE_PATH", ""), problems),
        cors_origins=_origins(environ.get("CORS_ORIGINS", ""), problems),
        require_if_match=_boolean("REQUIRE_IF_MATCH", environ, problems),
        **_numbers("", CONTRACT_NUMBERS, environ, problems),
    )
    if problems:
        raise SettingsError(problems)
    return found


def read_database_settings(environ: Mapping[str, str]) -> DatabaseSettings:
    """Only what is needed to reach the database: migrations have no callers to authorize."""
    problems: list[str] = []
    found = _database(environ, problems)
    if problems:
        raise SettingsError(problems)
    return found


def _database(environ: Mapping[str, str], problems: list[str]) -> DatabaseSettings:
    url, secret_arn = environ.get("DATABASE_URL", ""), environ.get("DATABASE_SECRET_ARN") or None
    if not url and not secret_arn:
        problems.append(f"DATABASE_URL is not set: {database_url.SHAPE}")
    parts = database_url.parse(url, problems) if url else {}
    parts |= _numbers("DATABASE_", DATABASE_NUMBERS, environ, problems)
    iam = _boolean("DATABASE_IAM_AUTH", environ, problems)
    region = environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION")
    api_user = environ.get("DATABASE_API_USER")
    if "DATABASE_CA_BUNDLE" in environ:
        parts["ca_bundle"] = environ["DATABASE_CA_BUNDLE"] or None
    elif CA_BUNDLE.exists():
        parts.setdefault("ca_bundle", str(CA_BUNDLE))
    if url and not secret_arn:
        parts.setdefault("host", "localhost")
        if "user" not in parts:
            problems.append(f"DATABASE_URL names no user: {database_url.SHAPE}")
    mistakes = {
        "DATABASE_IAM_AUTH and DATABASE_SECRET_ARN are both set: choose one": bool(iam and secret_arn),
        "DATABASE_IAM_AUTH needs AWS_REGION": bool(iam and not region),
        "DATABASE_IAM_AUTH needs TLS: DATABASE_URL cannot say sslmode=disable": bool(
            iam and parts.get("sslmode") == "disable"
        ),
        # As in libpq: a public authority gives anyone a certificate for a host of their own.
        "DATABASE_URL: sslmode=verify-ca needs a CA file (sslrootcert or DATABASE_CA_BUNDLE); with the system's"
        " authorities use sslmode=verify-full": bool(
            parts.get("sslmode") == "verify-ca" and parts.get("ca_bundle") in (None, "system")
        ),
        "DATABASE_IAM_AUTH needs TLS: DATABASE_URL cannot name a unix socket": bool(
            iam and str(parts.get("host")).startswith("/")
        ),
        "DATABASE_IAM_AUTH signs the password: DATABASE_URL must have none": bool(iam and "password" in parts),
        "DATABASE_SECRET_ARN has the password: DATABASE_URL must have none": bool(secret_arn and "password" in parts),
        "DATABASE_SECRET_ARN needs AWS_REGION, or an ARN that names it": bool(
            secret_arn and not region and not secret_arn.startswith("arn:")
        ),
        # PostgreSQL would cut off the rest, and make another user.
        "DATABASE_API_USER must be a name of at most 63 bytes": bool(
            api_user and not (api_user.isprintable() and len(api_user.encode()) <= 63)
        ),
    }
    problems += [text for text, is_wrong in mistakes.items() if is_wrong]
    return DatabaseSettings(secret_arn=secret_arn, iam_auth=iam, region=region, api_user=api_user, **parts)


def _one_of(name: str, value: str | None, allowed: tuple[str, ...], problems: list[str]) -> str:
    if value not in allowed:
        problems.append(f"{name} must be set to one of: {', '.join(allowed)}")
        return ""
    return value


def _boolean(name: str, environ: Mapping[str, str], problems: list[str]) -> bool:
    found = BOOLEANS.get(environ.get(name, "false").lower())
    if found is None:
        problems.append(f"{name} must be true or false")
    return bool(found)


def _base_path(text: str, problems: list[str]) -> str:
    """`key`, `/key` and `/key/` are `/key`."""
    path = text.strip("/")
    if path and not re.fullmatch(r"[\w$.+!*'()-]+(/[\w$.+!*'()-]+)*", path, re.ASCII):
        problems.append("BASE_PATH must be a path, as in an API mapping")
    return f"/{path}" if path else ""


def _origins(text: str, problems: list[str]) -> tuple[str, ...]:
    origins = tuple(origin.strip() for origin in text.split(",") if origin.strip())
    if not all(origin == "*" or re.fullmatch(r"https?://[^/\s]+", origin) for origin in origins):
        problems.append("CORS_ORIGINS must be *, or origins (https://app.example) with commas between")
    return origins


def _numbers(
    prefix: str, numbers: Mapping[str, Bounds], environ: Mapping[str, str], problems: list[str]
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, (kind, low, high) in numbers.items():
        variable = f"{prefix}{name.upper()}"
        if variable in environ:
            try:
                found[name] = kind(environ[variable])
            except ValueError:
                found[name] = math.nan
            if not low <= found[name] <= high:
                problems.append(f"{variable} must be a number between {low} and {high}")
    return found
