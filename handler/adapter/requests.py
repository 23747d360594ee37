"""Parse an event into an HTTP request: an ASGI scope and a body."""

import base64
import re
from typing import Any, NamedTuple
from urllib.parse import quote

from handler.adapter.event_source import Event, EventSource
from handler.settings import Settings

CONTROL_CHARACTERS = re.compile(r"[\x00-\x1f\x7f]")


class Request(NamedTuple):
    """An event as an HTTP request. The application changes `scope` while it handles the request."""

    source: EventSource
    method: str
    scope: dict[str, Any]
    body: bytes
    request_id: str


def parse_request(source: EventSource, event: Event, context: Any, request_id: str, settings: Settings) -> Request:
    """The request in an event.

    Raises ValueError, TypeError, KeyError or AttributeError for an event that cannot be parsed.
    """
    body, scope = _body(event), _scope(source, event, settings.base_path)
    method = scope["method"]
    # GET routes also handle HEAD; `format_response` removes the body.
    scope |= {
        "method": "GET" if method == "HEAD" else method,
        "request_id": request_id,
        "body_size": len(body),
        "authorizer": _authorizer_context(source, event) if settings.auth_mode != "none" else {},
        "aws.event": event,
        "aws.context": context,
    }
    return Request(source, method, scope, body, request_id)


def method_of(source: EventSource, event: Event) -> str | None:
    """The method of an event that cannot be parsed; None where the event has none."""
    try:
        method: Any = source.method(event)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
    return method if isinstance(method, str) else None


def _scope(source: EventSource, event: Event, base_path: str) -> dict[str, Any]:
    headers = _headers(event)
    method = source.method(event)
    if not isinstance(method, str):
        raise TypeError("the method is not a string")
    root_path, path = source.path(event, base_path)
    if CONTROL_CHARACTERS.search(path):
        # Starlette's patterns accept a path that ends with a newline.
        raise ValueError("a control character in the path")
    query = source.query_string(event)
    client_ip = source.client_ip(event, headers)
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http" if headers.get("x-forwarded-proto") == "http" else "https",
        "path": root_path + path,  # with the root path: ASGI, "HTTP Connection Scope"
        "raw_path": None,
        "root_path": root_path,
        # Clients send ASCII. A query that the event source decoded is encoded again.
        "query_string": (query if query.isascii() else quote(query, safe="%&=+;/?:@,$-_.!~*'()")).encode(),
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        "server": None,  # the application uses the Host header
        "client": (client_ip, 0) if client_ip else None,
    }


def _authorizer_context(source: EventSource, event: Event) -> dict[str, Any]:
    """The result of the authorizer by AUTH_MODE: the token's claims (`jwt`), the ARN of the signing principal (`iam`).

    Empty where no authorizer checked the request.
    """
    found: dict[str, Any] = {}
    for mode, (names, type_) in source.authorizer.items():
        value: Any = event
        for name in names:
            value = value.get(name) if isinstance(value, dict) else None
        if isinstance(value, type_):
            found[mode] = value
    return found


def _body(event: Event) -> bytes:
    """Raises ValueError or TypeError for a body that is not text, or not the base64 that the event declares."""
    body = event.get("body")
    if body is None:
        return b""
    if not isinstance(body, str):
        raise TypeError("the body is not a string")
    return base64.b64decode(body, validate=True) if event.get("isBase64Encoded") else body.encode()


def _headers(event: Event) -> dict[str, str]:
    """Names in lower case. The values of a repeated header are joined with commas, cookies with semicolons."""
    multiple = event.get("multiValueHeaders")
    if multiple:
        found = {
            name.lower(): ("; " if name.lower() == "cookie" else ",").join(values)
            for name, values in multiple.items()
            if values
        }
    else:
        found = {name.lower(): value for name, value in (event.get("headers") or {}).items() if value is not None}
    if event.get("cookies"):
        found["cookie"] = "; ".join(event["cookies"])
    return found
