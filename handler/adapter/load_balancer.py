"""Application Load Balancers with a Lambda function as target, with and without multi-value headers.

Elastic Load Balancing user guide, "Lambda functions as targets":

- Path and query are percent-encoded.
- The load balancer accepts `headers`, or `multiValueHeaders` where its target group has multi-value headers.
- A response has at most 1 MB.
- The result of the load balancer's own authentication is in headers (x-amzn-oidc-*). Their signature is not verified
  here, so there is no authorizer context.
"""

from collections.abc import Mapping
from http import HTTPStatus
from itertools import islice
from typing import Any

from mangum.handlers.alb import all_casings

from handler.adapter import rest_api
from handler.adapter.event_source import (
    Event,
    EventSource,
    Response,
    decode_path,
    format_status_and_body,
    query_parameters,
    split_base_path,
)

MAX_RESPONSE_BYTES = 1024 * 1024
PHRASES = {status.value: status.phrase for status in HTTPStatus}


def _path(event: Event, base_path: str) -> tuple[str, str]:
    return split_base_path(base_path, decode_path(event.get("path") or "/"))


def _query_string(event: Event) -> str:
    return "&".join(f"{name}={value}" for name, value in query_parameters(event))


def _client_ip(_: Event, headers: Mapping[str, str]) -> str | None:
    """The last address. The client may have written the addresses before it."""
    return headers.get("x-forwarded-for", "").rpartition(",")[2].strip() or None


def _format_response(response: Response) -> dict[str, Any]:
    """A header has one value, so each cookie uses another spelling of set-cookie: upper and lower case differ."""
    names = islice(all_casings("set-cookie"), len(response.cookies))
    headers = response.headers | dict(zip(names, response.cookies, strict=True))
    return _format_status(response) | {"headers": headers}


def _format_multi_value_response(response: Response) -> dict[str, Any]:
    headers = {name: [value] for name, value in response.headers.items()}
    if response.cookies:
        headers["set-cookie"] = response.cookies
    return _format_status(response) | {"multiValueHeaders": headers}


def _format_status(response: Response) -> dict[str, Any]:
    description = f"{response.status} {PHRASES.get(response.status, '')}".rstrip()
    return format_status_and_body(response) | {"statusDescription": description}


ALB = EventSource(rest_api.method, _path, _query_string, _client_ip, _format_response, {}, MAX_RESPONSE_BYTES)
ALB_MULTI_VALUE = ALB._replace(format_response=_format_multi_value_response)
