"""The type of an event source: how its events are read, and how its responses are formatted.

Each event source has a module in this package, which cites AWS's documentation: `http_api.py`,
`rest_api.py`, `function_url.py` and `load_balancer.py`. This module has their type and the functions that several of
them use.
"""

import base64
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple
from urllib.parse import unquote

Event = Mapping[str, Any]

LAMBDA_LIMIT = 6_291_556  # bytes of a response, as JSON: Lambda developer guide, "Lambda quotas"
# Other media types are text where their suffix declares JSON or XML (RFC 6839).
TEXT_TYPES = ("text/", "application/json", "application/javascript", "application/xml")
TEXT_SUFFIXES = ("+json", "+xml")


class Response(NamedTuple):
    """A response before it is formatted for an event source.

    The names of `headers` are in lower case. Cookies are separate, because they are the only headers that must
    not be joined with commas (RFC 9110, 5.3).
    """

    status: int
    headers: dict[str, str]
    cookies: list[str]
    body: bytes


# The position of an authorizer's result in an event, by AUTH_MODE: the member names from the root, and the type.
AuthorizerContext = dict[str, tuple[tuple[str, ...], type]]


class EventSource(NamedTuple):
    """An AWS service that sends HTTP requests as events.

    The functions raise ValueError, TypeError, KeyError or AttributeError where the event lacks the part.
    """

    method: Callable[[Event], str]
    # The root path and the path below it, both decoded, from the event and BASE_PATH.
    path: Callable[[Event, str], tuple[str, str]]
    query_string: Callable[[Event], str]
    client_ip: Callable[[Event, Mapping[str, str]], str | None]  # from the event and its headers
    format_response: Callable[[Response], dict[str, Any]]
    authorizer: AuthorizerContext
    max_response_bytes: int = LAMBDA_LIMIT  # of the formatted response, as JSON


def request_context(event: Event) -> Mapping[str, Any]:
    """The event's `requestContext`; empty where it has none."""
    context = event.get("requestContext")
    return context if isinstance(context, dict) else {}


def domain_name(event: Event) -> str:
    """The domain that the client called."""
    return str(request_context(event).get("domainName"))


def is_default_domain(event: Event) -> bool:
    """Whether the client called API Gateway's own domain. Only there, paths start with the stage."""
    return ".execute-api." in domain_name(event)


def stage_prefix(event: Event) -> str:
    """The stage as a prefix of URLs of the default domain, such as "/dev"; empty for `$default`."""
    stage = request_context(event).get("stage") or "$default"
    return "" if stage == "$default" else f"/{stage}"


def remove_prefix(prefix: str, path: str) -> str:
    """`path` below `prefix`: `/dev/items/` without `/dev` is `/items/`. `/devices` does not start with `/dev`."""
    return (path[len(prefix) :] or "/") if prefix and f"{path}/".startswith(f"{prefix}/") else path


def split_base_path(base_path: str, path: str) -> tuple[str, str]:
    """The root path and the path below it, where `path` starts with the mapping key of a custom domain."""
    below = remove_prefix(base_path, path)
    return (base_path, below) if below != path else ("", path)


def decode_path(path: str) -> str:
    """Percent-decode a path once, except its slashes.

    `/items%2F1` and `/items/1` are different paths (RFC 3986, 2.2), also for IAM policies.
    """
    return "%2F".join(map(unquote, re.split("%2F", path, flags=re.IGNORECASE)))


def query_parameters(event: Event) -> list[tuple[str, str]]:
    """The names and values of the query's parameters, repeated ones included."""
    multiple = event.get("multiValueQueryStringParameters")
    if multiple:
        return [(name, value or "") for name, values in multiple.items() for value in values or ("",)]
    return [(name, value or "") for name, value in (event.get("queryStringParameters") or {}).items()]


def format_status_and_body(response: Response) -> dict[str, Any]:
    """The members that every event source accepts. A body is text where it is UTF-8 and its media type is text.

    Other bodies are base64: those that are compressed, binary or in another character encoding.
    """
    media_type = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    is_text = media_type.startswith(TEXT_TYPES) or media_type.endswith(TEXT_SUFFIXES)
    if response.body and is_text and "content-encoding" not in response.headers:
        try:
            return {"statusCode": response.status, "body": response.body.decode(), "isBase64Encoded": False}
        except UnicodeDecodeError:
            pass
    body = base64.b64encode(response.body).decode()
    return {"statusCode": response.status, "body": body, "isBase64Encoded": bool(response.body)}
