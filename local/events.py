"""Convert HTTP requests to events of API Gateway's HTTP APIs (payload 2.0), and returned values to HTTP responses.

"Working with AWS Lambda proxy integrations for HTTP APIs", API Gateway developer guide.
"""

import base64
import time
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

FUNCTION_TIMEOUT = 10.0  # seconds, like Timeout in template.yaml
# Bodies of these types reach the function as text, all others as base64.
TEXT_TYPES = ("text/", "application/json", "application/xml", "application/javascript")

Headers = Iterable[tuple[str, str]]


@dataclass
class Context:
    """The context that the Lambda runtime passes with the event. Its remaining time starts at `timeout` seconds."""

    timeout: float = FUNCTION_TIMEOUT
    aws_request_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    function_name: str = "local"
    function_version: str = "$LATEST"
    invoked_function_arn: str = "arn:aws:lambda:eu-central-1:000000000000:function:local"
    memory_limit_in_mb: int = 1024
    _start: float = field(default_factory=time.monotonic)

    def get_remaining_time_in_millis(self) -> int:
        return max(0, int((self.timeout - (time.monotonic() - self._start)) * 1000))


class HttpResponse(NamedTuple):
    status: int
    headers: list[tuple[str, str]]
    body: bytes


def http_event(  # noqa: PLR0913 - what a request has
    method: str,
    path: str,
    query: str,
    headers: Headers,
    body: bytes,
    *,
    authorizer: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The event for a request. `path` is decoded, as HTTP APIs pass it; `query` is the raw query string.

    `authorizer` is the authorizer context; None without an authorizer.
    """
    combined: dict[str, str] = {}
    cookies: list[str] = []
    for name, value in headers:
        key = name.lower()
        if key == "cookie":
            cookies += [cookie.strip() for cookie in value.split(";")]
        else:
            combined[key] = f"{combined[key]},{value}" if key in combined else value
    host = combined.setdefault("host", "localhost")
    now = time.time()
    event: dict[str, Any] = {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": query,
        "headers": combined,
        "requestContext": {
            "accountId": "000000000000",
            "apiId": "local",
            "domainName": host,
            "domainPrefix": host.partition(".")[0],
            "http": {
                "method": method,
                "path": path,
                "protocol": "HTTP/1.1",
                "sourceIp": "127.0.0.1",
                "userAgent": combined.get("user-agent", ""),
            },
            "requestId": str(uuid.uuid4()),
            "routeKey": "$default",
            "stage": "$default",
            "time": time.strftime("%d/%b/%Y:%H:%M:%S +0000", time.gmtime(now)),
            "timeEpoch": int(now * 1000),
        },
        "isBase64Encoded": False,
    }
    if authorizer:
        event["requestContext"]["authorizer"] = authorizer
    if cookies:
        event["cookies"] = cookies
    if query:
        parameters: dict[str, str] = {}
        for key, value in parse_qsl(query, keep_blank_values=True):
            parameters[key] = f"{parameters[key]},{value}" if key in parameters else value
        event["queryStringParameters"] = parameters
    if body:
        event |= _body(body, combined.get("content-type", ""))
    return event


def _body(body: bytes, content_type: str) -> dict[str, Any]:
    if content_type.startswith(TEXT_TYPES):
        try:
            return {"body": body.decode(), "isBase64Encoded": False}
        except UnicodeDecodeError:
            pass
    return {"body": base64.b64encode(body).decode(), "isBase64Encoded": True}


def http_response(returned: dict[str, Any]) -> HttpResponse:
    """The response of API Gateway for the value that the function returned. Raises if API Gateway would reject it."""
    headers = [(name, str(value)) for name, value in (returned.get("headers") or {}).items()]
    headers += [("set-cookie", cookie) for cookie in returned.get("cookies") or []]
    text = returned.get("body") or ""
    body = base64.b64decode(text, validate=True) if returned.get("isBase64Encoded") else text.encode()
    return HttpResponse(int(returned["statusCode"]), headers, body)
