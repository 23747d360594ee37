"""API Gateway REST APIs: the format of a response."""

from fastapi import FastAPI, Response

from handler import main
from tests.support.event_sources import (
    Request,
    rest_api,
)


def test_cookies_are_a_header_with_several_values(app: FastAPI) -> None:
    @app.get("/test/cookies")
    async def _route(response: Response) -> None:
        response.set_cookie("a", "1")
        response.set_cookie("b", "2")

    returned = main.handler(rest_api(Request("GET", "/test/cookies")), None)
    assert returned is not None
    assert [cookie.partition(";")[0] for cookie in returned["multiValueHeaders"]["set-cookie"]] == ["a=1", "b=2"]
    assert "set-cookie" not in returned["headers"]
    assert "cookies" not in returned
