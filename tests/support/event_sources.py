"""One request as the event of each event source, and the response as the client receives it.

Written from AWS's documentation (see the modules of handler/adapter), not from the code under test.
"""

import base64
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote

from handler.main import handler
from local.events import Context, http_event
from tests.support.client import probe_path

HOST = "api.example.com"
TARGET_GROUP = "arn:aws:elasticloadbalancing:eu-central-1:123456789012:targetgroup/service/6d0ecf831eec9f09"


@dataclass
class Request:
    """A request as the client sends it: path and query are percent-encoded."""

    method: str
    path: str
    query: str = ""
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""


@dataclass
class Received:
    status: int
    headers: dict[str, str]
    cookies: list[str]
    body: bytes


def http_api_2(request: Request) -> dict[str, Any]:
    headers = [("host", HOST), *request.headers]
    return http_event(request.method, unquote(request.path), request.query, headers, request.body)


def function_url(request: Request) -> dict[str, Any]:
    event = http_api_2(request)
    event["rawPath"] = event["requestContext"]["http"]["path"] = request.path
    event["requestContext"] |= {"domainName": "a1b2c3.lambda-url.eu-central-1.on.aws", "apiId": "a1b2c3"}
    return event


def rest_api(request: Request) -> dict[str, Any]:
    headers: dict[str, list[str]] = {}
    for name, value in [("Host", HOST), *request.headers]:
        headers.setdefault(name.title(), []).append(value)
    query: dict[str, list[str]] = {}
    for name, value in parse_qsl(request.query, keep_blank_values=True):
        query.setdefault(name, []).append(value)
    return {
        "resource": "/{proxy+}",
        "path": request.path,
        "httpMethod": request.method,
        "headers": {name: values[-1] for name, values in headers.items()},
        "multiValueHeaders": headers,
        "queryStringParameters": {name: values[-1] for name, values in query.items()} or None,
        "multiValueQueryStringParameters": query or None,
        "requestContext": {
            "domainName": HOST,
            "httpMethod": request.method,
            "identity": {"sourceIp": "127.0.0.1", "accessKey": None, "caller": None, "user": None, "userArn": None},
            "path": request.path,
            "stage": "prod",
        },
        **_body(request),
    }


def http_api_1(request: Request) -> dict[str, Any]:
    event = rest_api(request) | {"version": "1.0", "resource": "$default", "path": unquote(request.path)}
    event["requestContext"]["authorizer"] = {"claims": None, "scopes": None}
    return event


def alb_multi_value(request: Request) -> dict[str, Any]:
    headers: dict[str, list[str]] = {}
    for name, value in [("host", HOST), ("x-forwarded-for", "127.0.0.1"), *request.headers]:
        headers.setdefault(name.lower(), []).append(value)
    query: dict[str, list[str]] = {}
    for pair in filter(None, request.query.split("&")):
        name, _, value = pair.partition("=")
        query.setdefault(name, []).append(value)
    return {
        "requestContext": {"elb": {"targetGroupArn": TARGET_GROUP}},
        "httpMethod": request.method,
        "path": request.path,
        "multiValueQueryStringParameters": query,
        "multiValueHeaders": headers,
        **_body(request),
    }


def alb(request: Request) -> dict[str, Any]:
    event = alb_multi_value(request)
    query, headers = event.pop("multiValueQueryStringParameters"), event.pop("multiValueHeaders")
    return event | {
        "queryStringParameters": {name: values[-1] for name, values in query.items()},
        "headers": {name: values[-1] for name, values in headers.items()},
    }


def _body(request: Request) -> dict[str, Any]:
    event = http_api_2(request)
    return {"body": event.get("body"), "isBase64Encoded": event["isBase64Encoded"]}


EVENT_SOURCES: dict[str, Callable[[Request], dict[str, Any]]] = {
    "HTTP API 2.0": http_api_2,
    "HTTP API 1.0": http_api_1,
    "REST API": rest_api,
    "function URL": function_url,
    "ALB": alb,
    "ALB, multi-value": alb_multi_value,
}


JSON = ("content-type", "application/json")
LAMP = b'{"name": "L\xc3\xa4mpchen"}'

# Requests that every event source can carry.
REQUESTS = {
    "health": Request("GET", "/health/live"),
    "read": Request("GET", probe_path(1)),
    "read with cookies": Request("GET", probe_path(1), headers=[("cookie", "a=1; b=2")]),
    "read with a current ETag": Request("GET", probe_path(1), headers=[("if-none-match", '"1"')]),
    "create": Request("POST", "/probes/", headers=[JSON], body=LAMP),
    "patch": Request("PATCH", probe_path(1), headers=[JSON], body=b'{"note": null}'),
    "replace": Request("PUT", probe_path(1), headers=[JSON, ("if-match", '"1"')], body=LAMP),
    "replace another version": Request("PUT", probe_path(1), headers=[JSON, ("If-Match", '"7"')], body=LAMP),
    "delete": Request("DELETE", probe_path(1)),
    "list": Request("GET", "/probes/"),
    "page": Request("GET", "/probes/", "limit=1&state=idle"),
    "page without the slash": Request("GET", "/probes", "limit=1&state=idle"),
    "repeated parameter": Request("GET", probe_path(1), "limit=1&limit=2"),
    "unknown parameter of a list": Request("GET", "/probes/", "a=1"),
    "empty parameter": Request("GET", "/probes/", "limit="),
    "parameter without a value": Request("GET", "/probes/", "cursor"),
    "encoded parameter": Request("GET", "/probes/", "name=L%C3%A4mp%20%26%2B%25&limit=5"),
    "plus is a space": Request("GET", "/probes/", "name=Other+%26%2B%25"),
    "parameter encoded twice": Request("GET", "/probes/", "name=%252541"),
    "unknown parameter": Request("GET", probe_path(1), "a=1"),
    "missing probe": Request("GET", probe_path(99)),
    "missing path": Request("GET", "/nothing"),
    "encoded path": Request("GET", "/%69tems/1"),
    "path encoded twice": Request("GET", "/probes/%2531"),
    "path that is not ASCII": Request("GET", "/probes/%C3%A9"),
    "question mark in the path": Request("GET", "/probes/1%23"),
    "method that is not allowed": Request("POST", probe_path(1), headers=[JSON], body=b"{}"),
    "invalid": Request("POST", "/probes/", headers=[JSON], body=b'{"name": ""}'),
    "no media type": Request("POST", "/probes/", body=LAMP),
    "JSON patch": Request(
        "PATCH", probe_path(1), headers=[("content-type", "application/json-patch+json")], body=b"[]"
    ),
    "read another version": Request("GET", probe_path(1), headers=[("if-match", '"7"')]),
    "no body": Request("POST", "/probes/", headers=[JSON]),
    "not JSON": Request("POST", "/probes/", headers=[JSON], body=b"{"),
    "binary": Request("POST", "/probes/", headers=[("content-type", "application/octet-stream")], body=b"\xff\x00"),
    "JSON that is not UTF-8": Request("POST", "/probes/", headers=[JSON], body=b'{"name": "\xff"}'),
    "too large": Request("POST", "/probes/", headers=[JSON], body=b" " * 300_000),
    "HEAD": Request("HEAD", probe_path(1)),
    "HEAD of a missing probe": Request("HEAD", probe_path(99)),
    "OPTIONS": Request("OPTIONS", probe_path(1)),
    "OPTIONS of a missing path": Request("OPTIONS", "/nothing"),
    "echo": Request("PUT", "/test/a%2520b", "x=%2B&x=&y", [("cookie", "a=1; b=2"), ("x-a", "1")], b"\x00\xff"),
}


ARN = "arn:aws:sts::123456789012:assumed-role/shop/session"
_IAM = {"accessKey": "ASIA", "accountId": "123456789012", "callerId": "AROA:session", "userArn": ARN, "userId": "AROA"}
_IDENTITY = {"accessKey": "ASIA", "accountId": "123456789012", "caller": "AROA:session", "user": "AROA", "userArn": ARN}


def _jwt_2(event: dict[str, Any], claims: Any) -> None:
    event["requestContext"]["authorizer"] = {"jwt": {"claims": claims, "scopes": None}}


def _jwt_1(event: dict[str, Any], claims: Any) -> None:
    event["requestContext"]["authorizer"] = {"claims": claims, "scopes": None}


def _iam_2(event: dict[str, Any], _: Any) -> None:
    event["requestContext"]["authorizer"] = {"iam": dict(_IAM)}


def _iam_1(event: dict[str, Any], _: Any) -> None:
    event["requestContext"]["identity"] |= _IDENTITY


# The function that adds an authorizer context to an event, by mode and event source.
AUTHORIZER_CONTEXTS: dict[str, dict[str, Callable[[dict[str, Any], Any], None]]] = {
    "jwt": {"HTTP API 2.0": _jwt_2, "HTTP API 1.0": _jwt_1, "REST API": _jwt_1},
    "iam": {"HTTP API 2.0": _iam_2, "HTTP API 1.0": _iam_1, "REST API": _iam_1, "function URL": _iam_2},
}


SCOPES = "probes:read probes:write"


def authorized(mode: str, source: str, request: Request, scope: str = SCOPES) -> dict[str, Any]:
    """The event for `request` that an authorizer has authenticated, with a token that has these scopes."""
    event = EVENT_SOURCES[source](request)
    AUTHORIZER_CONTEXTS[mode][source](
        event, {"iss": "https://issuer.example", "sub": "ann", "exp": "1900000000", "scope": scope}
    )
    return event


def parse_response(event: Any, returned: dict[str, Any] | None) -> Received:
    """The response that the client gets for what the handler returned to the sender of `event`.

    Raises for a value that the event source turns into a 502.
    """
    assert returned is not None, "the event was handled as a warm-up"
    single, multiple = returned.get("headers"), returned.get("multiValueHeaders")
    context = event.get("requestContext")
    if isinstance(context, dict) and "elb" in context:
        assert (single is None, multiple is None) == ("multiValueHeaders" in event, "multiValueHeaders" not in event)
        assert returned["statusDescription"].startswith(f"{returned['statusCode']} ")
    pairs = [(name, value) for name, value in (single or {}).items()]
    pairs += [(name, value) for name, values in (multiple or {}).items() for value in values]
    pairs += [("set-cookie", cookie) for cookie in returned.get("cookies", ())]
    body = (
        base64.b64decode(returned["body"], validate=True) if returned["isBase64Encoded"] else returned["body"].encode()
    )
    headers = {name: value for name, value in pairs if name.lower() != "set-cookie"}
    cookies = [value for name, value in pairs if name.lower() == "set-cookie"]
    return Received(returned["statusCode"], headers, cookies, body)


def send(event: Any, context: Any = None) -> Received:
    return parse_response(event, handler(event, context or Context(aws_request_id="the-request")))
