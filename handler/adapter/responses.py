"""What every response has, wherever it was made: added once, outside of the framework, before it leaves."""

import json
import logging
from typing import Any

from handler.adapter.events import Answer, Kind
from handler.api.problems import PROBLEM_JSON, problem

# OWASP cheat sheets, "HTTP Headers" and "REST Security".
SECURITY = {
    "x-content-type-options": "nosniff",
    "strict-transport-security": "max-age=63072000; includeSubDomains",
    "referrer-policy": "no-referrer",
}
NO_PAGE = "default-src 'none'; frame-ancestors 'none'"
# A byte of a body is never more than six in JSON, and the headers fit into the rest.
WORST_CASE, HEADERS = 6, 65_536
HEADROOM = 0.9  # of the size that may be filled again: items differ in size

logger = logging.getLogger(__name__)


class ResponseTooLarge(Exception):
    """The event source does not take a response of this size.

    `max_items` is how many items of the page would fit; None where the response is no page of several items.
    """

    def __init__(self, size: int, limit: int, headers: dict[str, str], page_items: int | None) -> None:
        self.detail = f"The response has {size} bytes, and at most {limit} can be returned"
        super().__init__(self.detail)
        self.headers = headers
        fitting = max(1, int((page_items or 0) * HEADROOM * limit / size))
        self.max_items = fitting if fitting < (page_items or 0) else None


def problem_response(status: int, detail: str | None, request_id: str) -> Answer:
    body = json.dumps(problem(status, detail, request_id)).encode()
    return Answer(status, {"content-type": PROBLEM_JSON, "content-length": str(len(body))}, [], body)


def format_response(
    kind: Kind, method: str, answer: Answer, request_id: str, *, page_items: int | None = None
) -> dict[str, Any]:
    """What the handler returns to an event source of this kind, for a request of `method`.

    `page_items` is how many items a page has, where the response is one. Raises ResponseTooLarge.
    """
    answer = _finished(answer, method, request_id)
    formatted = kind.write(answer)
    # Measured as the runtime serializes it, and only where it may be too much.
    if len(answer.body) * WORST_CASE + HEADERS > kind.limit:
        size = len(json.dumps(formatted, ensure_ascii=False).encode())
        if size > kind.limit:
            cors = {name: text for name, text in answer.headers.items() if name.startswith("access-control-")}
            raise ResponseTooLarge(size, kind.limit, cors, page_items)
    # After the measuring: HEAD has the headers that GET has (RFC 9110, 9.3.2).
    return formatted | {"body": "", "isBase64Encoded": False} if method == "HEAD" else formatted


def _finished(answer: Answer, method: str, request_id: str) -> Answer:
    status, headers, cookies, body = answer
    if status >= 400 and headers.get("content-type", "").startswith("text/plain"):
        # Starlette's response to a preflight that it refuses, or Mangum's last resort.
        plain = problem_response(status, body.decode() if status < 500 else None, request_id)
        headers, body = headers | plain.headers, plain.body
    elif method == "OPTIONS" and status == 200:
        status = 204
    if status in (204, 304):  # RFC 9110, 15.3.5 and 15.4.5
        headers, body = {k: v for k, v in headers.items() if k not in ("content-type", "content-length")}, b""
    headers = {**SECURITY, "cache-control": "no-store" if status >= 400 else "no-cache", **headers}
    if not headers.get("content-type", "").startswith("text/html"):
        headers.setdefault("content-security-policy", NO_PAGE)
    headers["x-request-id"] = request_id
    return Answer(status, headers, cookies, body)
