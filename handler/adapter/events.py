"""Every event that carries an HTTP request, read into one ASGI scope, and the answer that its sender takes.

What differs between them, as AWS documents it (API Gateway developer guide, "Create AWS Lambda proxy integrations for
HTTP APIs" and "Lambda proxy integrations in API Gateway"; Lambda developer guide, "Invoking Lambda function URLs";
ELB user guide, "Lambda functions as targets"):

- Path: decoded from HTTP APIs, still percent-encoded from the others. Routes see it decoded once.
- Query: payload 2.0 has the raw one. REST APIs and payload 1.0 decode it, load balancers do not.
- Stage: HTTP APIs leave a named one in the path, REST APIs do not. Behind a custom domain, payload 2.0 still has the
  stage there and not the mapping key, all others the key (`BASE_PATH`) and not the stage.
- Answer: cookies are a list of their own in payload 2.0 and a multi-value header elsewhere. A load balancer takes
  `headers` or `multiValueHeaders`, whichever it sends, and at most 1 MB.
"""

import base64
import re
from collections.abc import Callable, Mapping
from http import HTTPStatus
from itertools import islice
from typing import Any, NamedTuple
from urllib.parse import quote, unquote, urlencode

from mangum.handlers.alb import all_casings

from handler.settings import settings

Event = Mapping[str, Any]

LAMBDA_LIMIT = 6_291_556  # bytes of an answer, as JSON: Lambda developer guide, "Lambda quotas"
ALB_LIMIT = 1024 * 1024
# Also what is none of these and declares JSON or XML in its suffix (RFC 6839).
TEXT_TYPES = ("text/", "application/json", "application/javascript", "application/xml")
TEXT_SUFFIXES = ("+json", "+xml")
CONTROL_CHARACTERS = re.compile(r"[\x00-\x1f\x7f]")
PHRASES = {status.value: status.phrase for status in HTTPStatus}


class Answer(NamedTuple):
    """`headers` by their names in lower case, without the cookies: those alone may not be joined (RFC 9110, 5.3)."""

    status: int
    headers: dict[str, str]
    cookies: list[str]
    body: bytes


# Where an event has what an authorizer found out, and of which type: API Gateway developer guide, "Create AWS Lambda
# proxy integrations for HTTP APIs", "Pass JWT claims to your integration" and "Control access to HTTP APIs with IAM
# authorization"; Lambda developer guide, "Invoking Lambda function URLs".
Authorizer = dict[str, tuple[tuple[str, ...], type]]
_JWT_1 = (("requestContext", "authorizer", "claims"), dict)
_JWT_2 = (("requestContext", "authorizer", "jwt", "claims"), dict)
_IAM_1 = (("requestContext", "identity", "userArn"), str)
_IAM_2 = (("requestContext", "authorizer", "iam", "userArn"), str)


class Kind(NamedTuple):
    """A sender of requests: how its events are read, what it takes as an answer, and how many bytes of it."""

    method: Callable[[Event], str]
    location: Callable[[Event], tuple[str, str]]  # root path and path, both decoded
    query: Callable[[Event], str]
    source: Callable[[Event, Mapping[str, str]], str | None]
    write: Callable[[Answer], dict[str, Any]]
    authorizer: Authorizer
    limit: int = LAMBDA_LIMIT


def kind_of(event: Any) -> Kind | None:
    """Who sent `event`; None when it is no HTTP request. A request that cannot be told apart is read as payload 2.0.

    What a Lambda authorizer gets describes a request that has yet to be authorized, and what a WebSocket API sends
    looks like one (API Gateway developer guide, "Input to an API Gateway Lambda authorizer", "$context variables").
    """
    if not isinstance(event, dict) or event.keys().isdisjoint(("requestContext", "httpMethod", "rawPath")):
        return None
    context = _context(event)
    if "connectionId" in context or not event.keys().isdisjoint(("methodArn", "routeArn")):
        return None
    if "elb" in context:
        return ALB_MULTI_VALUE if "multiValueHeaders" in event else ALB
    if "httpMethod" in event:
        return HTTP_API_1 if event.get("version") == "1.0" else REST_API
    return FUNCTION_URL if ".lambda-url." in _domain(event) else HTTP_API_2


def is_warmup(event: Any) -> bool:
    """Whether an event only keeps the environment warm: a rule's schedule, or a schedule's payload `{"warmup": true}`.

    EventBridge user guide, "Creating a scheduled rule"; EventBridge Scheduler's events are written by its users.
    """
    return isinstance(event, dict) and (event.get("source") == "aws.events" or event.get("warmup") is True)


def read_scope(kind: Kind, event: Event) -> dict[str, Any]:
    """The ASGI scope of a request. Raises ValueError, TypeError, KeyError or AttributeError on what is none."""
    headers = _headers(event)
    method = kind.method(event)
    if not isinstance(method, str):
        raise TypeError("the method is no string")
    root_path, path = kind.location(event)
    if CONTROL_CHARACTERS.search(path):
        raise ValueError("a control character in the path")  # Starlette's patterns let a path end with a newline
    query = kind.query(event)
    source = kind.source(event, headers)
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http" if headers.get("x-forwarded-proto") == "http" else "https",
        "path": root_path + path,  # the whole of it: ASGI, "HTTP Connection Scope"
        "raw_path": None,
        "root_path": root_path,
        # Clients send ASCII; what a sender decoded is encoded again.
        "query_string": (query if query.isascii() else quote(query, safe="%&=+;/?:@,$-_.!~*'()")).encode(),
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        "server": None,  # the Host header says it
        "client": (source, 0) if source else None,
    }


def read_authorizer(kind: Kind, event: Event) -> dict[str, Any]:
    """What an authorizer found out: the token's claims as `jwt`, the ARN of the principal that signed as `iam`.

    Null, absent, empty or of another type where no authorizer was asked.
    """
    found: dict[str, Any] = {}
    for mode, (path, type_) in kind.authorizer.items():
        value: Any = event
        for name in path:
            value = value.get(name) if isinstance(value, dict) else None
        if isinstance(value, type_):
            found[mode] = value
    return found


def read_body(event: Event) -> bytes:
    """Raises ValueError or TypeError on what is neither text nor the base64 that it says it is."""
    body = event.get("body")
    if body is None:
        return b""
    if not isinstance(body, str):
        raise TypeError("the body is no string")
    return base64.b64decode(body, validate=True) if event.get("isBase64Encoded") else body.encode()


def _headers(event: Event) -> dict[str, str]:
    """Names in lower case; a repeated header is one with commas, cookies one with semicolons (RFC 9110, 5.3)."""
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


def _method_2(event: Event) -> str:
    if event.get("version") != "2.0":
        raise ValueError("the payload's version is unknown")
    return event["requestContext"]["http"]["method"]  # type: ignore[no-any-return]


def _method_1(event: Event) -> str:
    return event["httpMethod"]  # type: ignore[no-any-return]


def _http_api_2_location(event: Event) -> tuple[str, str]:
    stage, path = _stage(event), event.get("rawPath") or "/"
    if _on_default_domain(event):
        return stage, _without(stage, path)
    if _without(stage, path) != path:
        return settings().base_path, _without(stage, path)
    return settings().base_path, _without(settings().base_path, path)


def _http_api_1_location(event: Event) -> tuple[str, str]:
    path = event.get("path") or "/"
    if _on_default_domain(event):
        return _stage(event), _without(_stage(event), path)
    return _under_base_path(path)


def _rest_api_location(event: Event) -> tuple[str, str]:
    path = _decode(event.get("path") or "/")
    return (_stage(event), path) if _on_default_domain(event) else _under_base_path(path)


def _encoded_location(event: Event) -> tuple[str, str]:
    return _under_base_path(_decode(event.get("rawPath") or event.get("path") or "/"))


def _decode(path: str) -> str:
    """An encoded slash stays one: to IAM policies too, `/items%2F1` is another path than `/items/1` (RFC 3986, 2.2)."""
    return "%2F".join(map(unquote, re.split("%2F", path, flags=re.IGNORECASE)))


def _under_base_path(path: str) -> tuple[str, str]:
    inside = _without(settings().base_path, path)
    return (settings().base_path, inside) if inside != path else ("", path)


def _without(prefix: str, path: str) -> str:
    """`/dev/items/` without `/dev` is `/items/`; `/devices` does not have it."""
    return (path[len(prefix) :] or "/") if prefix and f"{path}/".startswith(f"{prefix}/") else path


def _on_default_domain(event: Event) -> bool:
    return ".execute-api." in _domain(event)


def _domain(event: Event) -> str:
    return str(_context(event).get("domainName"))


def _context(event: Event) -> Mapping[str, Any]:
    context = event.get("requestContext")
    return context if isinstance(context, dict) else {}


def _stage(event: Event) -> str:
    """A named stage as the prefix that it is in URLs of the default domain."""
    stage = _context(event).get("stage") or "$default"
    return "" if stage == "$default" else f"/{stage}"


def _raw_query(event: Event) -> str:
    return event.get("rawQueryString") or ""


def _decoded_query(event: Event) -> str:
    return urlencode(_parameters(event))


def _encoded_query(event: Event) -> str:
    return "&".join(f"{name}={value}" for name, value in _parameters(event))


def _parameters(event: Event) -> list[tuple[str, str]]:
    multiple = event.get("multiValueQueryStringParameters")
    if multiple:
        return [(name, value or "") for name, values in multiple.items() for value in values or ("",)]
    return [(name, value or "") for name, value in (event.get("queryStringParameters") or {}).items()]


def _source_2(event: Event, _: Mapping[str, str]) -> str | None:
    return event["requestContext"]["http"].get("sourceIp")  # type: ignore[no-any-return]


def _source_1(event: Event, _: Mapping[str, str]) -> str | None:
    return (_context(event).get("identity") or {}).get("sourceIp")


def _source_alb(_: Event, headers: Mapping[str, str]) -> str | None:
    """The last address: what is before it, the client may have written."""
    return headers.get("x-forwarded-for", "").rpartition(",")[2].strip() or None


def _write_2(answer: Answer) -> dict[str, Any]:
    written = _common(answer) | {"headers": answer.headers}
    return written | {"cookies": answer.cookies} if answer.cookies else written


def _write_1(answer: Answer) -> dict[str, Any]:
    written = _common(answer) | {"headers": answer.headers}
    return written | {"multiValueHeaders": {"set-cookie": answer.cookies}} if answer.cookies else written


def _write_alb(answer: Answer) -> dict[str, Any]:
    """A name has one value here, so each cookie has a name of its own: set-cookie, in another case."""
    names = islice(all_casings("set-cookie"), len(answer.cookies))
    headers = answer.headers | dict(zip(names, answer.cookies, strict=True))
    return _common(answer) | {"statusDescription": _description(answer.status), "headers": headers}


def _write_alb_multi_value(answer: Answer) -> dict[str, Any]:
    headers = {name: [value] for name, value in answer.headers.items()}
    if answer.cookies:
        headers["set-cookie"] = answer.cookies
    return _common(answer) | {"statusDescription": _description(answer.status), "multiValueHeaders": headers}


def _common(answer: Answer) -> dict[str, Any]:
    """Status and body: text as it is, and as base64 what is compressed, binary, or not the UTF-8 that JSON carries."""
    media_type = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
    is_text = media_type.startswith(TEXT_TYPES) or media_type.endswith(TEXT_SUFFIXES)
    if answer.body and is_text and "content-encoding" not in answer.headers:
        try:
            return {"statusCode": answer.status, "body": answer.body.decode(), "isBase64Encoded": False}
        except UnicodeDecodeError:
            pass
    body = base64.b64encode(answer.body).decode()
    return {"statusCode": answer.status, "body": body, "isBase64Encoded": bool(answer.body)}


def _description(status: int) -> str:
    return f"{status} {PHRASES.get(status, '')}".rstrip()


_1: Authorizer = {"jwt": _JWT_1, "iam": _IAM_1}
HTTP_API_2 = Kind(_method_2, _http_api_2_location, _raw_query, _source_2, _write_2, {"jwt": _JWT_2, "iam": _IAM_2})
FUNCTION_URL = Kind(_method_2, _encoded_location, _raw_query, _source_2, _write_2, {"iam": _IAM_2})
HTTP_API_1 = Kind(_method_1, _http_api_1_location, _decoded_query, _source_1, _write_1, _1)
REST_API = Kind(_method_1, _rest_api_location, _decoded_query, _source_1, _write_1, _1)
ALB = Kind(_method_1, _encoded_location, _encoded_query, _source_alb, _write_alb, {}, ALB_LIMIT)
ALB_MULTI_VALUE = ALB._replace(write=_write_alb_multi_value)
