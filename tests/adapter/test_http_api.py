"""API Gateway HTTP APIs, payload formats 2.0 and 1.0: the format of a response."""

import pytest
from fastapi import FastAPI, Response

from handler import main
from tests.support.event_sources import (
    Request,
    http_api_1,
    http_api_2,
    send,
)


@pytest.fixture
def cookies(app: FastAPI) -> None:
    """Add a route whose response has two cookies."""

    @app.get("/test/cookies")
    async def _route(response: Response) -> None:
        response.set_cookie("a", "1")
        response.set_cookie("b", "2")


@pytest.mark.usefixtures("cookies")
def test_payload_2_takes_cookies_as_a_list() -> None:
    returned = main.handler(http_api_2(Request("GET", "/test/cookies")), None)
    assert returned is not None
    assert [cookie.partition(";")[0] for cookie in returned["cookies"]] == ["a=1", "b=2"]
    assert "set-cookie" not in returned["headers"]
    assert "multiValueHeaders" not in returned


@pytest.mark.usefixtures("cookies")
def test_payload_1_takes_cookies_as_a_header_with_several_values() -> None:
    returned = main.handler(http_api_1(Request("GET", "/test/cookies")), None)
    assert returned is not None
    assert [cookie.partition(";")[0] for cookie in returned["multiValueHeaders"]["set-cookie"]] == ["a=1", "b=2"]
    assert "cookies" not in returned


def test_a_payload_of_another_version_gets_400() -> None:
    assert send(http_api_2(Request("GET", "/health/live")) | {"version": "3.0"}).status == 400
