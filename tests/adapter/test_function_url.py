"""Lambda function URLs: payload 2.0 with a percent-encoded path, and BASE_PATH behind CloudFront."""

from collections.abc import Callable

import pytest
from fastapi import FastAPI

from tests.support.client import create_probe, probe_path
from tests.support.event_sources import JSON, LAMP, Request, function_url, send


def test_the_path_is_decoded_once(app: FastAPI) -> None:
    @app.get("/test/{name}")
    async def _route(name: str) -> str:
        return name

    assert send(function_url(Request("GET", "/test/a%20b"))).body == b'"a b"'
    assert send(function_url(Request("GET", "/test/a%2520b"))).body == b'"a%20b"'


def test_an_encoded_slash_does_not_separate_segments(app: FastAPI) -> None:
    @app.get("/test/{name}")
    async def _route(name: str) -> str:
        return name

    assert send(function_url(Request("GET", "/test/a%2fb"))).body == b'"a%2Fb"'


@pytest.mark.parametrize("prefix", ["", "/shop"])
def test_links_start_with_the_base_path_only_where_the_path_does(prefix: str, serve: Callable[..., FastAPI]) -> None:
    serve(base_path="/shop")
    created = send(function_url(Request("POST", f"{prefix}/probes/", headers=[JSON], body=LAMP)))
    assert (created.status, created.headers["location"]) == (201, f"{prefix}{probe_path(1)}")
    create_probe()
    page = send(function_url(Request("GET", f"{prefix}/probes/", "limit=1")))
    assert page.headers["link"].startswith(f"<{prefix}/probes/?limit=1&cursor=")


def test_a_stage_is_not_removed_from_the_path(app: FastAPI) -> None:
    @app.get("/dev/test")
    async def _route() -> None:
        pass

    event = function_url(Request("GET", "/dev/test"))
    event["requestContext"]["stage"] = "dev"
    assert send(event).status == 200
