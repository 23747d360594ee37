"""One request as each kind of event that carries it, and each kind's answer as the client receives it.

Written from AWS's documentation (see handler/adapter/events.py), not from the code under test.
"""

import base64
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote

from handler.main import handler
from local.events import Context, http_event

HOST = "api.example.com"
TARGET_GROUP = "arn:aws:elasticloadbalancing:eu-central-1:123456789012:targetgroup/service/6d0ecf831eec9f09"


@dataclass
class Request:
    """As the client sends it: path and query percent-encoded."""

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


KINDS: dict[str, Callable[[Request], dict[str, Any]]] = {
    "HTTP API 2.0": http_api_2,
    "HTTP API 1.0": http_api_1,
    "REST API": rest_api,
    "function URL": function_url,
    "ALB": alb,
    "ALB, multi-value": alb_multi_value,
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


# What an authorizer adds to an event, in the modes and event sources that have one.
AUTHORIZER_CONTEXTS: dict[str, dict[str, Callable[[dict[str, Any], Any], None]]] = {
    "jwt": {"HTTP API 2.0": _jwt_2, "HTTP API 1.0": _jwt_1, "REST API": _jwt_1},
    "iam": {"HTTP API 2.0": _iam_2, "HTTP API 1.0": _iam_1, "REST API": _iam_1, "function URL": _iam_2},
}


SCOPES = "probes:read probes:write"


def authorized(mode: str, kind: str, request: Request, scope: str = SCOPES) -> dict[str, Any]:
    """The event for `request` that an authorizer has authenticated, with a token that has these scopes."""
    event = KINDS[kind](request)
    AUTHORIZER_CONTEXTS[mode][kind](
        event, {"iss": "https://issuer.example", "sub": "ann", "exp": "1900000000", "scope": scope}
    )
    return event


def received(event: Any, answer: dict[str, Any] | None) -> Received:
    """What the sender of `event` makes of `answer`. Raises on what it would refuse with a 502."""
    assert answer is not None, "the event was taken for a warm-up"
    single, multiple = answer.get("headers"), answer.get("multiValueHeaders")
    context = event.get("requestContext")
    if isinstance(context, dict) and "elb" in context:
        assert (single is None, multiple is None) == ("multiValueHeaders" in event, "multiValueHeaders" not in event)
        assert answer["statusDescription"].startswith(f"{answer['statusCode']} ")
    pairs = [(name, value) for name, value in (single or {}).items()]
    pairs += [(name, value) for name, values in (multiple or {}).items() for value in values]
    pairs += [("set-cookie", cookie) for cookie in answer.get("cookies", ())]
    body = base64.b64decode(answer["body"], validate=True) if answer["isBase64Encoded"] else answer["body"].encode()
    headers = {name: value for name, value in pairs if name.lower() != "set-cookie"}
    cookies = [value for name, value in pairs if name.lower() == "set-cookie"]
    return Received(answer["statusCode"], headers, cookies, body)


def send(event: Any, context: Any = None) -> Received:
    return received(event, handler(event, context or Context(aws_request_id="the-request")))
