"""Read CORS_ORIGINS, and check that each origin has the form that browsers send.

An origin in another form would never match a request, without an error. Browsers send `scheme://host[:port]` in lower
case, with a host outside ASCII in punycode and without the default port (WHATWG HTML, "Origin", "serialization").
pydantic's Url is a parser of the same standard (WHATWG URL).
"""

import re

from pydantic_core import Url

DEFAULT_PORTS = {"http": 80, "https": 443}
EXAMPLE = "https://app.example"
NAMED = {"*": None, "null": "is null, which sandboxed pages of any author send: remove it"}
PARTS = ("scheme", "user", "host", "port", "path", "query", "fragment")
URL_PARTS = (
    r"(?P<scheme>[^:/?#]*)://(?P<user>[^/?#]*@)?(?P<host>\[[^\]]*\]|[^:/?#]*)(?P<port>:[0-9]*)?"
    r"(?P<path>/[^?#]*)?(?P<query>\?[^#]*)?(?P<fragment>#.*)?"
)


def read_origins(text: str) -> tuple[str, ...]:
    """The origins in `text`, which are separated by commas. Raises ValueError with the problems of all of them."""
    origins = tuple(origin.strip() for origin in text.split(",") if origin.strip())
    found = [(number, _problem(origin)) for number, origin in enumerate(origins, start=1)]
    if problems := [f"origin {number} {problem}" for number, problem in found if problem]:
        raise ValueError(f"is not valid: {'; '.join(problems)}")
    return origins


def _problem(origin: str) -> str | None:
    """The problem of one origin, and what to write instead. It shows neither a user name nor a password."""
    if origin in NAMED:
        return NAMED[origin]
    try:
        url = Url(origin)
    except ValueError:
        return f"is not a URL: write it like {EXAMPLE}"
    if url.scheme not in DEFAULT_PORTS or url.host is None:
        return f"does not start with https:// or http://: write it like {EXAMPLE}"
    if "*" in url.host:
        return f"has a wildcard, which is not supported: write each origin, like {EXAMPLE}, or only *"
    has_default_port = url.port == DEFAULT_PORTS[url.scheme]
    sent = f"{url.scheme}://{url.host}" + ("" if has_default_port else f":{url.port}")
    return None if origin == sent else f"has {_difference(origin, has_default_port)}: write {sent}"


def _difference(origin: str, has_default_port: bool) -> str:
    """The differences of `origin` from the form that browsers send."""
    written = re.fullmatch(URL_PARTS, origin)
    part = dict.fromkeys(PARTS, "") if written is None else written.groupdict(default="")
    name = part["scheme"] + part["host"]
    reasons = {
        "upper-case letters": name != name.lower(),
        "letters that browsers send as punycode": not name.isascii(),
        "a user name or password": part["user"] != "",
        "the default port": has_default_port and part["port"] != "",
        "a slash at the end": part["path"] == "/",
        "a path": part["path"] not in ("", "/"),
        "a query": part["query"] != "",
        "a fragment": part["fragment"] != "",
    }
    return " and ".join(text for text, is_so in reasons.items() if is_so) or "a form that browsers do not send"
