"""Lambda function URLs: payload 2.0 of HTTP APIs with a percent-encoded path.

Lambda developer guide, "Invoking Lambda function URLs". A function URL has no stage and no JWT authorizer. Behind
CloudFront its path may start with BASE_PATH.
"""

from handler.adapter.event_source import Event, EventSource, decode_path, split_base_path
from handler.adapter.http_api import IAM_2, client_ip_2, format_response_2, method_2, query_string_2


def _path(event: Event, base_path: str) -> tuple[str, str]:
    return split_base_path(base_path, decode_path(event.get("rawPath") or "/"))


FUNCTION_URL = EventSource(method_2, _path, query_string_2, client_ip_2, format_response_2, {"iam": IAM_2})
