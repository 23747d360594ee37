"""DATABASE_URL as people and hosted databases write it: libpq's connection URIs.

PostgreSQL manual, 32.1.1.2 "Connection URIs" and 32.1.2 "Parameter Key Words": parts are percent-encoded, a host that
starts with a slash is the folder of a unix socket, an option wins over the same part before it.
"""

import re
from collections.abc import Collection
from typing import Any
from urllib.parse import unquote, urlsplit

SHAPE = "postgresql://USER:PASSWORD@HOST:PORT/NAME"
SCHEMES = ("postgresql", "postgres", "postgresql+pg8000")
AUTHORITY = re.compile(
    r"(?:(?P<user>[^:@]*)(?::(?P<password>.*))?@)?(?:\[(?P<ipv6>[^\]]*)\]|(?P<host>[^:\[\]]*))(?::(?P<port>.*))?"
)
# What each option may be, and what of it is honoured. libpq's `require` encrypts without looking at the certificate;
# here it is as strict as verify-full. `allow` and `prefer` fall back to clear text, and are refused.
SSL_MODES = {
    "": None,
    "disable": "disable",
    "require": "verify-full",
    "verify-ca": "verify-ca",
    "verify-full": "verify-full",
}
LIBPQ_OPTIONS = {
    *("channel_binding", "client_encoding", "connect_timeout", "dbname", "fallback_application_name", "gssdelegation"),
    *("gssencmode", "gsslib", "hostaddr", "keepalives", "keepalives_count", "keepalives_idle", "keepalives_interval"),
    *("krbsrvname", "load_balance_hosts", "options", "passfile", "replication", "require_auth", "requirepeer"),
    *("service", "ssl_max_protocol_version", "ssl_min_protocol_version", "sslcert", "sslcertmode", "sslcompression"),
    *("sslcrl", "sslcrldir", "sslkey", "sslnegotiation", "sslpassword", "sslsni", "target_session_attrs"),
    "tcp_user_timeout",
}
CHANNEL_BINDINGS = {"": False, "prefer": False, "require": True}


def parse(url: str, problems: list[str]) -> dict[str, Any]:
    """The parts that `url` has, by DatabaseSettings' names. What is wrong with it goes to `problems`, unshown."""
    try:
        split = urlsplit(url)
        pairs = [pair.split("=", 1) for pair in split.query.split("&") if pair]
        options = {unquote(name): unquote(value) for name, value in pairs}  # a plus is one, in libpq
        authority = AUTHORITY.fullmatch(split.netloc)
    except ValueError:
        authority = None
    if authority is None or "#" in url or "\x00" in unquote(url):
        problems.append(f"DATABASE_URL cannot be read: {SHAPE}")
        return {}
    parts = {name: unquote(value) for name, value in authority.groupdict(default="").items()}
    ipv6 = parts.pop("ipv6")
    parts |= {"host": parts["host"] or ipv6, "database": unquote(split.path.removeprefix("/"))}
    parts |= {name: options.pop(name) for name in ("host", "port", "user", "password") if name in options}
    parts["database"] = options.pop("dbname", parts["database"])
    sslmode, binding = options.pop("sslmode", ""), options.pop("channel_binding", "")
    port, timeout = parts.pop("port") or None, options.pop("connect_timeout", None)
    found: dict[str, Any] = parts | {
        "port": _number(port),
        "sslmode": SSL_MODES.get(sslmode),
        "channel_binding": CHANNEL_BINDINGS.get(binding),
        "ca_bundle": options.pop("sslrootcert", None),
        "application_name": options.pop("application_name", None),
        "connect_timeout": _number(timeout),
    }
    mistakes = {
        f"must start with one of: {', '.join(s + '://' for s in SCHEMES)}": split.scheme not in SCHEMES,
        "has a port that is not between 1 and 65535": port is not None and not 0 < (found["port"] or 0) < 65536,
        "has a connect_timeout that is not between 1 and 20": (
            timeout is not None and not 0 < (found["connect_timeout"] or 0) <= 20
        ),
        f"has an sslmode that is none of: {', '.join(filter(None, SSL_MODES))}": sslmode not in SSL_MODES,
        "has a channel_binding that is neither prefer nor require": binding not in CHANNEL_BINDINGS,
        f"has options that cannot be honoured: {_named(options)}": bool(options),
    }
    problems += [f"DATABASE_URL {text}" for text, is_wrong in mistakes.items() if is_wrong]
    return {name: value for name, value in found.items() if value not in (None, "")}


def _named(options: Collection[str]) -> str:
    """By name where it is libpq's; what is none may be a part of a password, behind a question mark."""
    known = sorted(LIBPQ_OPTIONS.intersection(options))
    return ", ".join(known + ["(one that libpq has not)"] * (len(known) < len(options)))


def _number(text: str | None) -> int | None:
    return int(text) if text and re.fullmatch("[0-9]{1,6}", text) else None
