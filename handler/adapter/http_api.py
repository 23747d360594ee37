"""API Gateway HTTP APIs, payload formats 2.0 and 1.0.

API Gateway developer guide, "Create AWS Lambda proxy integrations for HTTP APIs in API Gateway", "Pass JWT claims to
your integration" and "Control access to HTTP APIs with IAM authorization":

- The path is decoded. On the default domain it starts with the stage, unless that is `$default`.
- Behind a custom domain, payload 2.0 has the stage in the path and not the mapping key (BASE_PATH); payload 1.0 has the
  mapping key and not the stage.
- The query of payload 2.0 is raw. Payload 1.0 has decoded parameters.
- Payload 2.0 accepts cookies as a separate list, payload 1.0 as a header with several values.
"""

from collections.abc import Mapping
from typing import Any

from handler.adapter import rest_api
from handler.adapter.event_source import (
    Event,
    EventSource,
    Response,
    format_status_and_body,
    is_default_domain,
    remove_prefix,
    split_base_path,
    stage_prefix,
)

IAM_2 = (("requestContext", "authorizer", "iam", "userArn"), str)
JWT_2 = (("requestContext", "authorizer", "jwt", "claims"), dict)


def method_2(event: Event) -> str:
    """The method of payload 2.0. Raises ValueError for another version."""
    if event.get("version") != "2.0":
        raise ValueError("the payload's version is unknown")
    return event["requestContext"]["http"]["method"]  # type: ignore[no-any-return]


def _path_2(event: Event, base_path: str) -> tuple[str, str]:
    stage, path = stage_prefix(event), event.get("rawPath") or "/"
    if is_default_domain(event):
        return stage, remove_prefix(stage, path)
    if remove_prefix(stage, path) != path:
        return base_path, remove_prefix(stage, path)
    return base_path, remove_prefix(base_path, path)


def _path_1(event: Event, base_path: str) -> tuple[str, str]:
    path = event.get("path") or "/"
    if is_default_domain(event):
        return stage_prefix(event), remove_prefix(stage_prefix(event), path)
    return split_base_path(base_path, path)


def query_string_2(event: Event) -> str:
    """The raw query of payload 2.0."""
    return event.get("rawQueryString") or ""


def client_ip_2(event: Event, _: Mapping[str, str]) -> str | None:
    """The client's address in payload 2.0."""
    return event["requestContext"]["http"].get("sourceIp")  # type: ignore[no-any-return]


def format_response_2(response: Response) -> dict[str, Any]:
    """The response in the format of payload 2.0."""
    formatted = format_status_and_body(response) | {"headers": response.headers}
    return formatted | {"cookies": response.cookies} if response.cookies else formatted


HTTP_API_2 = EventSource(
    method_2, _path_2, query_string_2, client_ip_2, format_response_2, {"jwt": JWT_2, "iam": IAM_2}
)
HTTP_API_1 = rest_api.REST_API._replace(path=_path_1)
