"""API Gateway REST APIs.

API Gateway developer guide, "Lambda proxy integrations in API Gateway":

- The path is percent-encoded and does not contain the stage. Behind a custom domain it starts with the mapping key
  (BASE_PATH).
- The parameters of the query are decoded.
- Cookies are a header with several values.
"""

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from handler.adapter.event_source import (
    Event,
    EventSource,
    Response,
    decode_path,
    format_status_and_body,
    is_default_domain,
    query_parameters,
    request_context,
    split_base_path,
    stage_prefix,
)

IAM_1 = (("requestContext", "identity", "userArn"), str)
JWT_1 = (("requestContext", "authorizer", "claims"), dict)  # of a Cognito authorizer


def method(event: Event) -> str:
    """The method of the request."""
    return event["httpMethod"]  # type: ignore[no-any-return]


def _path(event: Event, base_path: str) -> tuple[str, str]:
    path = decode_path(event.get("path") or "/")
    return (stage_prefix(event), path) if is_default_domain(event) else split_base_path(base_path, path)


def _query_string(event: Event) -> str:
    return urlencode(query_parameters(event))


def _client_ip(event: Event, _: Mapping[str, str]) -> str | None:
    return (request_context(event).get("identity") or {}).get("sourceIp")


def _format_response(response: Response) -> dict[str, Any]:
    formatted = format_status_and_body(response) | {"headers": response.headers}
    return formatted | {"multiValueHeaders": {"set-cookie": response.cookies}} if response.cookies else formatted


REST_API = EventSource(method, _path, _query_string, _client_ip, _format_response, {"jwt": JWT_1, "iam": IAM_1})
