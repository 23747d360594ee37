"""The same request has the same response from every event source."""

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from fastapi import FastAPI, Response

from handler import main
from tests.support.client import create_probe
from tests.support.event_sources import EVENT_SOURCES, REQUESTS, Request, send


@pytest.fixture
def echo(app: FastAPI) -> None:
    """A route that shows what it got, and responses with bytes and two cookies."""
    from fastapi import Request as FastAPIRequest

    @app.put("/test/{name}")
    async def _route(name: str, request: FastAPIRequest) -> Response:
        seen = [name, request.query_params.getlist("y"), request.cookies, request.headers["x-a"], str(request.base_url)]
        assert request.client is not None
        content = json.dumps([*seen, request.client.host, request.query_params["x"]]).encode() + await request.body()
        response = Response(content, media_type="application/octet-stream")
        response.set_cookie("a", "1")
        response.set_cookie("b", "2")
        return response


@pytest.mark.usefixtures("echo")
@pytest.mark.parametrize("name", REQUESTS)
def test_a_request_has_the_same_response_from_every_event_source(name: str, database: Any) -> None:
    request = REQUESTS[name]
    responses = {}
    for source, event in EVENT_SOURCES.items():
        database.run("TRUNCATE probes, probe_readings, idempotency_keys RESTART IDENTITY")
        create_probe("Lamp", "A desk lamp")
        create_probe("Other &+%")
        response = send(event(request))
        response.body = re.sub(rb'_at":"[^"]+"', b'_at":""', response.body)
        responses[source] = response
    first = responses["HTTP API 2.0"]
    assert responses == dict.fromkeys(EVENT_SOURCES, first)
    assert first.status < 500


@pytest.mark.usefixtures("echo")
@pytest.mark.parametrize("source", EVENT_SOURCES)
def test_a_path_and_a_query_are_decoded_once_and_bytes_stay_bytes(source: str) -> None:
    response = send(EVENT_SOURCES[source](REQUESTS["echo"]))
    assert response.body.endswith(b"\x00\xff")
    name, empty, cookies, header, base, client, last = json.loads(response.body[:-2])
    assert (name, empty, header, client, last) == ("a%20b", [""], "1", "127.0.0.1", "")
    assert cookies == {"a": "1", "b": "2"}
    assert base == "https://api.example.com/"
    assert [cookie.partition(";")[0] for cookie in response.cookies] == ["a=1", "b=2"]


@pytest.mark.parametrize("path", ["/shoppers/", "/shop", "/shop/"])
def test_a_path_that_only_starts_with_the_prefix_is_kept(path: str, serve: Callable[..., FastAPI]) -> None:
    app = serve(base_path="/shop")

    @app.get("/shoppers/")
    async def _shoppers() -> str:
        return "/shoppers/"

    @app.get("/")
    async def _root() -> str:
        return "/"

    for source in EVENT_SOURCES.values():
        response = send(source(Request("GET", path)))
        assert json.loads(response.body) == ("/shoppers/" if path == "/shoppers/" else "/")


@pytest.mark.parametrize(
    ("media_type", "content", "is_text"),
    [
        ("application/problem+json", b"{}", True),
        ("application/vnd.api+json; charset=utf-8", b"{}", True),
        ("image/svg+xml", b"<svg/>", True),
        ("text/plain", "é".encode(), True),
        ("text/plain; charset=latin-1", b"\xe9", False),
        ("image/png", b"text, but not by its media type", False),
        ("application/octet-stream", b"text/plain", False),
    ],
)
def test_a_body_is_text_where_its_media_type_is_text_and_base64_otherwise(
    media_type: str, content: bytes, is_text: bool, app: FastAPI
) -> None:
    @app.get("/test/content")
    async def _route() -> Response:
        return Response(content, headers={"content-type": media_type})

    for source in EVENT_SOURCES.values():
        event = source(Request("GET", "/test/content"))
        assert main.handler(event, None)["isBase64Encoded"] is not is_text
        assert send(event).body == content
