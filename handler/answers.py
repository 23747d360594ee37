"""What every answer has, whoever made it: done once, outside of the framework, on what is about to leave."""

import json
import logging
from typing import Any

from handler.errors import PROBLEM_JSON, problem
from handler.events import Answer, Kind

# OWASP cheat sheets, "HTTP Headers" and "REST Security".
SECURITY = {
    "x-content-type-options": "nosniff",
    "strict-transport-security": "max-age=63072000; includeSubDomains",
    "referrer-policy": "no-referrer",
}
NO_PAGE = "default-src 'none'; frame-ancestors 'none'"
# A byte of a body is never more than six in JSON, and the headers fit into the rest.
WORST_CASE, HEADERS = 6, 65_536
TOO_LARGE = "The answer is larger than Lambda can return"

logger = logging.getLogger(__name__)


def refusal(status: int, detail: str | None, request_id: str) -> Answer:
    body = json.dumps(problem(status, detail, request_id)).encode()
    return Answer(status, {"content-type": PROBLEM_JSON, "content-length": str(len(body))}, [], body)


def write(kind: Kind, method: str, answer: Answer, request_id: str) -> dict[str, Any]:
    """What the handler returns to a sender of this kind, for a request of `method`."""
    answer = _finished(answer, method, request_id)
    written = kind.write(answer)
    # Measured as the runtime serialises it, and only where it may be too much.
    if len(answer.body) * WORST_CASE + HEADERS > kind.limit:
        size = len(json.dumps(written, ensure_ascii=False).encode())
        if size > kind.limit:
            logger.error("%s: %d bytes", TOO_LARGE, size)
            refused = refusal(500, TOO_LARGE, request_id)
            cors = {name: text for name, text in answer.headers.items() if name.startswith("access-control-")}
            answer = _finished(refused._replace(headers=refused.headers | cors), method, request_id)
            written = kind.write(answer)
    # After the measuring: HEAD has the headers that GET has (RFC 9110, 9.3.2).
    return written | {"body": "", "isBase64Encoded": False} if method == "HEAD" else written


def _finished(answer: Answer, method: str, request_id: str) -> Answer:
    status, headers, cookies, body = answer
    if status >= 400 and headers.get("content-type", "").startswith("text/plain"):
        # Starlette's refusal of a preflight, or Mangum's last resort.
        plain = refusal(status, body.decode() if status < 500 else None, request_id)
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
