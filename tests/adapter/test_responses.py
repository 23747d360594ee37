"""and the limits of its size."""

import json
import re
from typing import Any

import pytest
from fastapi import FastAPI, Response

from handler import main
from tests.support.client import create_probe, probe_path
from tests.support.event_sources import EVENT_SOURCES, REQUESTS, Request, http_api_2, send


@pytest.mark.parametrize("name", REQUESTS)
def test_every_response_has_the_common_headers(name: str) -> None:
    create_probe()
    response = send(http_api_2(REQUESTS[name]))
    assert response.headers["x-request-id"] == "the-request"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["referrer-policy"] == "no-referrer"
    assert "max-age" in response.headers["strict-transport-security"]
    assert response.headers["content-security-policy"].startswith("default-src 'none'")
    assert response.headers["cache-control"] == ("no-store" if response.status >= 400 else "no-cache")
    assert not [header for header in response.headers if header.startswith("access-control-")]
    assert ("content-type" in response.headers) == (response.status not in (204, 304, 307))
    if response.status in (204, 304, 307) or REQUESTS[name].method == "HEAD":
        assert response.body == b""
    elif response.status >= 400:
        assert json.loads(response.body)["status"] == response.status


def test_the_documentation_may_load_what_it_needs() -> None:
    policy = send(http_api_2(Request("GET", "/docs"))).headers["content-security-policy"]
    assert "script-src https://" in policy


def test_head_has_the_headers_of_get_and_no_body() -> None:
    create_probe()
    for path in (probe_path(1), "/probes/", probe_path(99), "/health/live", "/openapi.json", "/docs"):
        get, head = (send(http_api_2(Request(method, path))) for method in ("GET", "HEAD"))
        assert (head.status, head.headers, head.body) == (get.status, get.headers, b"")
        assert int(head.headers["content-length"]) == len(get.body) > 0


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/probes/", "GET, HEAD, OPTIONS, POST"),
        (probe_path(1), "DELETE, GET, HEAD, OPTIONS, PATCH, PUT"),
        ("/health/live", "GET, HEAD, OPTIONS"),
        ("/openapi.json", "GET, HEAD, OPTIONS"),
    ],
)
def test_options_and_405_name_every_method_of_the_path(path: str, methods: str) -> None:
    options, refused = (send(http_api_2(Request(method, path))) for method in ("OPTIONS", "TRACE"))
    assert (options.status, options.headers["allow"], options.body) == (204, methods, b"")
    assert (refused.status, refused.headers["allow"]) == (405, methods)


def test_a_route_sets_its_own_cache_control(app: FastAPI) -> None:
    @app.get("/test/lasting")
    async def _route(response: Response) -> None:
        response.headers["Cache-Control"] = "max-age=60"

    assert send(http_api_2(Request("GET", "/test/lasting"))).headers["cache-control"] == "max-age=60"


@pytest.mark.parametrize(
    ("source", "limit"), [("HTTP API 2.0", 6_291_556), ("REST API", 6_291_556), ("ALB", 1_048_576)]
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_response_that_the_event_source_does_not_accept_is_an_error(
    source: str, limit: int, method: str, app: FastAPI
) -> None:
    @app.get("/test/large/{size}")
    async def _route(size: int) -> Response:
        return Response("é" * (size // 2), media_type="text/plain; charset=utf-8")

    for size, status in [(limit - 2000, 200), (limit, 500), (limit * 2, 500)]:
        event = EVENT_SOURCES[source](Request(method, f"/test/large/{size}"))
        response = main.handler(event, None)
        assert response["statusCode"] == status
        assert len(json.dumps(response, ensure_ascii=False).encode()) <= limit
    if method == "GET":
        detail = json.loads(response["body"])["detail"]
        assert re.fullmatch(rf"The response has \d+ bytes, and at most {limit} can be returned", detail)


def test_an_exception_while_the_response_is_sent_is_a_problem_response(app: FastAPI) -> None:
    class Broken(Response):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:  # noqa: ARG002 - ASGI's
            await send({"type": "http.response.start", "status": 200, "headers": []})
            raise ValueError("SECRET")

    @app.get("/test/broken", response_class=Response)
    async def _route() -> Response:
        return Broken()

    response = send(http_api_2(Request("GET", "/test/broken")))
    assert (response.status, response.headers["content-type"]) == (500, "application/problem+json")
    assert b"SECRET" not in response.body


@pytest.mark.parametrize("source", EVENT_SOURCES)
def test_a_head_request_that_cannot_be_parsed_gets_400_without_a_body(source: str) -> None:
    event = EVENT_SOURCES[source](Request("HEAD", "/probes/")) | {"body": "!", "isBase64Encoded": True}
    response = main.handler(event, None)
    assert (response["statusCode"], response["body"]) == (400, "")
