"""Calls the Lambda handler as API Gateway does, and parses its response as a client does."""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any
from uuid import UUID

import tests.support.resources  # noqa: F401 - registers the probe, before the handler is imported
from handler.main import handler
from local.events import Context, http_event, http_response
from tests.support.application import make_app

ELEMENTS = "items"  # the key of the elements of a page, of any resource


@dataclass
class Response:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def invoke(event: Any, context: Context | None = None) -> Response:
    """Invoke the real entry point once."""
    response = http_response(handler(event, context or Context()))
    return Response(response.status, dict(response.headers), response.body)


def call(  # noqa: PLR0913 - the parts of a request
    method: str,
    path: str,
    body: Any = None,
    *,
    query: str = "",
    content_type: str = "application/json",
    headers: Iterable[tuple[str, str]] = (),
    context: Context | None = None,
) -> Response:
    """Send a request. `body` is sent unchanged if it is bytes; any other value except None is encoded as JSON."""
    if body is not None and not isinstance(body, bytes):
        body = json.dumps(body).encode()
    sent = [*headers, ("content-type", content_type)] if body is not None else headers
    return invoke(http_event(method, path, query, sent, body or b""), context)


def assert_unavailable(response: Response) -> None:
    assert response.status == 503, response.body
    assert response.headers["content-type"] == "application/problem+json"
    assert int(response.headers["retry-after"]) >= 1


def create_probe(name: str = "Lamp", note: str | None = None) -> Any:
    """A stored probe, as the API responds with it."""
    response = call("POST", "/probes/", {"name": name, "note": note})
    assert response.status == 201, response.body
    return response.json


def probe_id(number: int) -> UUID:
    """The id of the probe that was stored as `number`, from 1, since the test began."""
    return UUID(int=number)


def probe_path(number: int) -> str:
    return f"/probes/{probe_id(number)}"


def listed(response: Response) -> list[Any]:
    """The elements of a page of a list."""
    elements: list[Any] = response.json[ELEMENTS]
    return elements


@cache
def example_bodies() -> dict[str, Any]:
    """A valid body for the POST of each resource, by the first part of its path, from the examples of its schema."""
    document = make_app().openapi()
    found = {}
    for path, operations in document["paths"].items():
        if "requestBody" in operations.get("post", {}) and "{" not in path:
            (content,) = operations["post"]["requestBody"]["content"].values()
            found[path.split("/")[1]] = _example(content["schema"], document)
    return found


def _example(schema: Any, document: Any) -> Any:
    """An example of `schema` with only the required properties."""
    if "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    for name in ("examples", "enum"):
        if name in schema:
            return schema[name][0]
    if schema["type"] == "array":
        return [_example(schema["items"], document)]
    return {name: _example(schema["properties"][name], document) for name in schema.get("required", ())}


def path_of_first(path: str) -> str:
    """The path of the first row of a resource, for the path of a route: its only parameter is the row's id."""
    rows = call("GET", path.partition("{")[0])
    return re.sub(r"{\w+}", str(listed(rows)[0]["id"]), path) if "{" in path else path
