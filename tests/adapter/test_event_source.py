"""The same request has the same response from every event source, under every stage and base path."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
from fastapi import FastAPI, Response

from handler import main
from tests.support.client import create_probe, probe_path
from tests.support.event_sources import EVENT_SOURCES, JSON, LAMP, REQUESTS, Request, send


@pytest.fixture
def echo(app: FastAPI) -> None:
    """Add a route whose response contains the parts of its request, bytes and two cookies."""
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


DEFAULT_DOMAIN = "a1b2c3d4e5.execute-api.eu-central-1.amazonaws.com"


class Deployment(NamedTuple):
    """An API behind a domain: its stage, and the prefix of its paths that the client sees."""

    source: str
    domain: str
    stage: str
    prefix: str


DEPLOYMENTS = [
    Deployment(source, domain, stage, prefix)
    for source in ("HTTP API 2.0", "HTTP API 1.0", "REST API")
    for domain, stage, prefix in [
        (DEFAULT_DOMAIN, "$default", ""),
        (DEFAULT_DOMAIN, "dev", "/dev"),
        (DEFAULT_DOMAIN, "probes", "/probes"),
        ("api.example.com", "$default", ""),
        ("api.example.com", "dev", ""),
        ("api.example.com", "dev", "/shop/v1"),
        ("api.example.com", "$default", "/shop/v1"),
    ]
    if (source, stage) != ("REST API", "$default")  # REST APIs have no such stage
]


def deployed(deployment: Deployment, request: Request) -> dict[str, Any]:
    """The event of a request for the deployment's prefix and the request's path."""
    source, domain, stage, prefix = deployment
    in_path = {
        "HTTP API 2.0": f"/{stage}" if stage != "$default" else "",
        "HTTP API 1.0": prefix,
        "REST API": "" if domain == DEFAULT_DOMAIN else prefix,
    }[source]
    event = EVENT_SOURCES[source](replace(request, path=in_path + request.path))
    event["requestContext"] |= {"domainName": domain, "stage": stage, "path": prefix + request.path}
    return event


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=str)
def test_links_start_with_the_prefix_that_the_client_sees(
    deployment: Deployment, serve: Callable[..., FastAPI]
) -> None:
    """Location, Link, redirects, the documentation and `servers` lead to paths that the client can call."""
    prefix = deployment.prefix
    serve(base_path="" if deployment.domain == DEFAULT_DOMAIN else prefix)
    created = send(deployed(deployment, Request("POST", "/probes/", headers=[JSON], body=LAMP)))
    assert (created.status, created.headers["location"]) == (201, f"{prefix}{probe_path(1)}")
    create_probe()
    page = send(deployed(deployment, Request("GET", "/probes/", "limit=1")))
    assert page.headers["link"].startswith(f"<{prefix}/probes/?limit=1&cursor=")
    assert send(deployed(deployment, Request("GET", probe_path(1)))).status == 200
    redirect = send(deployed(deployment, Request("GET", "/probes", "limit=1")))
    assert redirect.status == 307
    assert redirect.headers["location"] == f"https://api.example.com{prefix}/probes/?limit=1"
    docs = send(deployed(deployment, Request("GET", "/docs"))).body.decode()
    assert '"url": "openapi.json"' in docs, "relative to the page, so the prefix does not matter"
    schema = json.loads(send(deployed(deployment, Request("GET", "/openapi.json"))).body)
    assert schema.get("servers") == ([{"url": prefix}] if prefix else None)


@pytest.mark.parametrize("source", ["HTTP API 2.0", "HTTP API 1.0", "REST API"])
def test_a_path_that_only_starts_with_the_stage_is_kept(source: str, app: FastAPI) -> None:
    @app.get("/devices")
    async def _route() -> str:
        return "devices"

    event = EVENT_SOURCES[source](Request("GET", "/devices"))
    event["requestContext"] |= {"domainName": DEFAULT_DOMAIN, "stage": "dev"}
    assert send(event).status == 200
