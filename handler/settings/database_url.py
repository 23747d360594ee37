"""Split DATABASE_URL, a connection URI of libpq, into its parts.

PostgreSQL manual, 32.1.1.2 "Connection URIs" and 32.1.2 "Parameter Key Words": parts are percent-encoded, a host that
starts with a slash is the folder of a Unix socket, and an option overrides the same part of the URI.
"""

import re
from collections import Counter
from urllib.parse import unquote, urlsplit

SHAPE = "postgresql://USER:PASSWORD@HOST:PORT/NAME"
SCHEMES = ("postgresql", "postgres", "postgresql+pg8000")
AUTHORITY = re.compile(
    r"(?:(?P<user>[^:@]*)(?::(?P<password>.*))?@)?(?:\[(?P<ipv6>[^\]]*)\]|(?P<host>[^:\[\]]*))(?::(?P<port>.*))?"
)
NAME = re.compile(r"[\w.-]{1,63}", re.ASCII)
PARTS = {"user", "password", "host", "port", "dbname"}
OPTIONS = PARTS | {"sslmode", "sslrootcert", "channel_binding", "connect_timeout", "application_name"}
# libpq's other options. They are refused by name.
UNSUPPORTED = {
    *("client_encoding", "fallback_application_name", "gssdelegation", "gssencmode", "gsslib", "hostaddr"),
    *("keepalives", "keepalives_count", "keepalives_idle", "keepalives_interval", "krbsrvname", "load_balance_hosts"),
    *("options", "passfile", "replication", "require_auth", "requirepeer", "service", "ssl_max_protocol_version"),
    *("ssl_min_protocol_version", "sslcert", "sslcertmode", "sslcompression", "sslcrl", "sslcrldir", "sslkey"),
    *("sslnegotiation", "sslpassword", "sslsni", "target_session_attrs", "tcp_user_timeout"),
}


def parse(url: str, problems: list[str], *, needs_user: bool) -> dict[str, str]:
    """The parts of `url` by libpq's names, without empty parts. They are split and decoded, but not validated.

    The problems of the form of `url` are added to `problems`, without any part of `url`.
    """
    if not url:
        if needs_user:
            problems.append(f"DATABASE_URL is not set: write {SHAPE}")
        return {}
    try:
        split = urlsplit(url)
        # A pair without "=" is a ValueError. In libpq a plus in an option is a plus, not a space.
        pairs = [pair.split("=", 1) for pair in split.query.split("&") if pair]
        options = [(unquote(name), unquote(value)) for name, value in pairs]
        authority = AUTHORITY.fullmatch(split.netloc)
    except ValueError:
        authority = None
    # urlsplit removes line ends and tabs without an error.
    if authority is None or re.search(r"[#\x00-\x1f\x7f]", url):
        problems.append(f"DATABASE_URL cannot be read: write {SHAPE}, special characters percent-encoded")
        return {}
    names = Counter(name for name, _ in options)
    repeated, unknown = {name for name in names if names[name] > 1}, names.keys() - OPTIONS
    found = {name: unquote(value) for name, value in authority.groupdict(default="").items()}
    ipv6 = found.pop("ipv6")
    found |= {"host": found["host"] or ipv6, "dbname": unquote(split.path.removeprefix("/"))} | dict(options)
    # A password with a question mark that is not percent-encoded is taken for options up to its "@".
    may_show = "@" not in split.query and ("@" in split.netloc or ":" not in split.netloc)
    mistakes = {
        f"must start with one of: {', '.join(f'{scheme}://' for scheme in SCHEMES)}": split.scheme not in SCHEMES,
        f"names no user: write {SHAPE}": needs_user and not found["user"],
        f"has options more than once: {_named(repeated, may_show=may_show)}": bool(repeated),
        f"has options that are not supported: {_named(unknown, may_show=may_show)}": bool(unknown),
    }
    problems += [f"DATABASE_URL {text}" for text, is_wrong in mistakes.items() if is_wrong]
    return {name: value for name, value in found.items() if value}


def _named(options: set[str], *, may_show: bool) -> str:
    """The names of `options`; of those that libpq does not have only where they are no part of a password."""
    known = {name for name in options if name in OPTIONS | UNSUPPORTED or (may_show and NAME.fullmatch(name))}
    return ", ".join(sorted(known) + ["(one that libpq does not have)"] * (len(known) < len(options)))
