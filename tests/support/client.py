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
from local.examples import example
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


def probe_names(database: Any) -> list[str]:
    """The names of the stored probes, in the order of their ids."""
    return [name for (name,) in database.run("SELECT name FROM probes ORDER BY id")]


def probe_id(number: int) -> UUID:
    """The id of the probe that was stored as `number`, from 1, since the test began."""
    return UUID(int=number)


def probe_path(number: int) -> str:
    return f"/probes/{probe_id(number)}"


def listed(response: Response) -> list[Any]:
    """The elements of a page of a list."""
    elements: list[Any] = response.json[ELEMENTS]
    return elements


def example_body(method: str, path: str) -> Any:
    """The example in the OpenAPI document of an operation's body; None for an operation without a body."""
    operation = openapi()["paths"].get(path, {}).get(method.lower(), {})
    if "requestBody" not in operation:
        return None
    content = next(iter(operation["requestBody"]["content"].values()))
    return example(content | content["schema"], openapi())


def example_path(method: str, path: str) -> str:
    """The path of a route with a valid value for each parameter; it need not be that of a stored row."""
    for one in openapi()["paths"].get(path, {}).get(method.lower(), {}).get("parameters", ()):
        path = path.replace(f"{{{one['name']}}}", str(example(one["schema"], openapi())))
    return path


@cache
def openapi() -> Any:
    return make_app().openapi()


def path_of_first(path: str) -> str:
    """The path of the first row of a resource, for the path of a route: its only parameter is the row's id."""
    rows = call("GET", path.partition("{")[0])
    return re.sub(r"{\w+}", str(listed(rows)[0]["id"]), path) if "{" in path else path
