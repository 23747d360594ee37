"""The response that the handler returns: common headers, the event source's format, and its size limit."""

import json
from typing import Any

from handler.adapter.event_source import EventSource, Response
from handler.api.problems import PROBLEM_JSON, problem

# OWASP cheat sheets, "HTTP Headers" and "REST Security".
SECURITY_HEADERS = {
    "x-content-type-options": "nosniff",
    "strict-transport-security": "max-age=63072000; includeSubDomains",
    "referrer-policy": "no-referrer",
}
CONTENT_SECURITY_POLICY = "default-src 'none'; frame-ancestors 'none'"  # a response that is not a page
# JSON encodes one byte of a body as at most six, and the headers have fewer than 64 KiB.
WORST_CASE, HEADERS = 6, 65_536
HEADROOM = 0.9  # fraction of the limit that a page with fewer items may use, because items differ in size


class ResponseTooLarge(Exception):
    """The response is larger than the event source accepts.

    `max_items` is the number of items that fit on the page; None where the response is not a page of several items.
    """

    def __init__(self, size: int, limit: int, headers: dict[str, str], page_items: int | None) -> None:
        self.detail = f"The response has {size} bytes, and at most {limit} can be returned"
        super().__init__(self.detail)
        self.headers = headers
        fitting = max(1, int((page_items or 0) * HEADROOM * limit / size))
        self.max_items = fitting if fitting < (page_items or 0) else None


def problem_response(status: int, detail: str | None, request_id: str) -> Response:
    """An error that the adapter reports itself, as problem+json."""
    body = json.dumps(problem(status, detail, request_id)).encode()
    return Response(status, {"content-type": PROBLEM_JSON, "content-length": str(len(body))}, [], body)


def format_response(
    source: EventSource, method: str, response: Response, request_id: str, *, page_items: int | None = None
) -> dict[str, Any]:
    """The value that the handler returns to an event source, for a request of `method`.

    `page_items` is the number of items of a page. Raises ResponseTooLarge.
    """
    response = _with_common_headers(response, method, request_id)
    formatted = source.format_response(response)
    # The size is measured as the runtime serializes it, and only where it may be above the limit.
    if len(response.body) * WORST_CASE + HEADERS > source.max_response_bytes:
        size = len(json.dumps(formatted, ensure_ascii=False).encode())
        if size > source.max_response_bytes:
            cors = {name: text for name, text in response.headers.items() if name.startswith("access-control-")}
            raise ResponseTooLarge(size, source.max_response_bytes, cors, page_items)
    # HEAD has the headers of GET, so its size is checked too (RFC 9110, 9.3.2).
    return formatted | {"body": "", "isBase64Encoded": False} if method == "HEAD" else formatted


def _with_common_headers(response: Response, method: str, request_id: str) -> Response:
    status, headers, cookies, body = response
    if status >= 400 and headers.get("content-type", "").startswith("text/plain"):
        # Starlette's response to a refused preflight request, or Mangum's response to an exception of the application.
        plain = problem_response(status, body.decode() if status < 500 else None, request_id)
        headers, body = headers | plain.headers, plain.body
    elif method == "OPTIONS" and status == 200:
        status = 204
    if status in (204, 304):  # without a body: RFC 9110, 15.3.5 and 15.4.5
        headers, body = {k: v for k, v in headers.items() if k not in ("content-type", "content-length")}, b""
    headers = {**SECURITY_HEADERS, "cache-control": "no-store" if status >= 400 else "no-cache", **headers}
    if not headers.get("content-type", "").startswith("text/html"):
        headers.setdefault("content-security-policy", CONTENT_SECURITY_POLICY)
    headers["x-request-id"] = request_id
    return Response(status, headers, cookies, body)
