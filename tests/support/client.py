"""Calls the Lambda handler as API Gateway does, and reads its answer as a client does."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import tests.support.resources  # noqa: F401 - registers the probe, before the handler is imported
from handler.main import handler
from local.events import Context, http_event, http_response

# A valid body of each resource, by the first part of its paths. Yours is added here.
BODIES: dict[str, Any] = {"items": {"name": "Lamp"}}


@dataclass
class Response:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def invoke(event: Any, context: Context | None = None) -> Response:
    """One invocation of the real entry point."""
    answer = http_response(handler(event, context or Context()))
    return Response(answer.status, dict(answer.headers), answer.body)


def call(  # noqa: PLR0913 - what a request has
    method: str,
    path: str,
    body: Any = None,
    *,
    query: str = "",
    content_type: str = "application/json",
    headers: Iterable[tuple[str, str]] = (),
    context: Context | None = None,
) -> Response:
    """`body` goes as it is when it is bytes; anything else but None is encoded as JSON."""
    if body is not None and not isinstance(body, bytes):
        body = json.dumps(body).encode()
    sent = [*headers, ("content-type", content_type)] if body is not None else headers
    return invoke(http_event(method, path, query, sent, body or b""), context)


def create(name: str = "Lamp", description: str | None = None) -> Any:
    """A stored item, as the API answers it."""
    response = call("POST", "/items/", {"name": name, "description": description})
    assert response.status == 201, response.body
    return response.json
