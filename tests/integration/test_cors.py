"""Cross-origin requests of web pages (CORS_ORIGINS)."""

import json
from collections.abc import Callable

import pytest
from fastapi import FastAPI

from handler.app import MAX_BODY_BYTES
from tests.support.client import probe_path
from tests.support.event_sources import Received, Request, http_api_2, send

PAGE = ("origin", "https://app.example")


@pytest.fixture
def cors(serve: Callable[..., FastAPI]) -> Callable[..., FastAPI]:
    def change(*origins: str) -> FastAPI:
        return serve(cors_origins=origins)

    return change


def preflight(method: str, *headers: str) -> Received:
    sent = [PAGE, ("access-control-request-method", method)]
    sent += [("access-control-request-headers", ",".join(headers))] if headers else []
    return send(http_api_2(Request("OPTIONS", probe_path(1), headers=sent)))


def test_a_web_page_of_an_allowed_origin_may_send_requests_and_read_responses(cors: Callable[..., FastAPI]) -> None:
    cors("https://app.example", "https://other.example")
    allowed = preflight("PATCH", "content-type", "if-match", "idempotency-key")
    assert (allowed.status, allowed.body) == (204, b"")
    assert allowed.headers["access-control-allow-origin"] == PAGE[1]
    assert "PATCH" in allowed.headers["access-control-allow-methods"]
    response = send(http_api_2(Request("GET", "/probes/", headers=[PAGE])))
    assert response.headers["access-control-allow-origin"] == PAGE[1]
    assert "ETag" in response.headers["access-control-expose-headers"]
    assert "Origin" in response.headers["vary"]


def test_a_web_page_of_another_origin_is_refused(cors: Callable[..., FastAPI]) -> None:
    cors("https://other.example")
    refused = preflight("GET")
    assert (refused.status, json.loads(refused.body)["detail"]) == (400, "Disallowed CORS origin")
    assert "access-control-allow-origin" not in refused.headers
    assert "access-control-allow-origin" not in send(http_api_2(Request("GET", "/probes/", headers=[PAGE]))).headers


def test_every_origin_is_allowed_where_the_setting_is_an_asterisk(cors: Callable[..., FastAPI]) -> None:
    app = cors("*")

    @app.get("/test/fails")
    async def _route() -> None:
        raise ValueError

    assert preflight("DELETE").headers["access-control-allow-origin"] == "*"

    @app.get("/test/large")
    async def _large() -> str:
        return "x" * 7_000_000

    for path, status in [("/probes/", 200), ("/probes/0", 422), ("/test/fails", 500), ("/test/large", 500)]:
        response = send(http_api_2(Request("GET", path, headers=[PAGE])))
        assert (response.status, response.headers["access-control-allow-origin"]) == (status, "*")
    refused = send(http_api_2(Request("POST", "/probes/", headers=[PAGE], body=b"x" * (MAX_BODY_BYTES + 1))))
    assert (refused.status, refused.headers["access-control-allow-origin"]) == (413, "*")
