"""Application Load Balancers, with and without multi-value headers."""

from typing import Any

import pytest
from fastapi import FastAPI, Response
from fastapi import Request as FastAPIRequest

from handler import main
from tests.support.event_sources import Request, alb, alb_multi_value, send


@pytest.fixture
def cookies(app: FastAPI) -> None:
    """Add a route whose response has three cookies."""

    @app.get("/test/cookies")
    async def _route(response: Response) -> None:
        for name in ("a", "b", "c"):
            response.set_cookie(name, "1")


def returned(event: Any) -> dict[str, Any]:
    """The value that the handler returns to the load balancer."""
    response: dict[str, Any] | None = main.handler(event, None)
    assert response is not None
    return response


@pytest.mark.usefixtures("cookies")
def test_each_cookie_has_a_header_name_of_its_own_without_multi_value_headers() -> None:
    response = returned(alb(Request("GET", "/test/cookies")))
    cookies = {name: value for name, value in response["headers"].items() if name.lower() == "set-cookie"}
    assert [value.partition("=")[0] for value in cookies.values()] == ["a", "b", "c"]
    assert all(isinstance(value, str) for value in response["headers"].values())


@pytest.mark.usefixtures("cookies")
def test_every_header_is_a_list_with_multi_value_headers() -> None:
    headers = returned(alb_multi_value(Request("GET", "/test/cookies")))["multiValueHeaders"]
    assert [value.partition("=")[0] for value in headers["set-cookie"]] == ["a", "b", "c"]
    assert all(isinstance(values, list) for values in headers.values())


@pytest.mark.parametrize(("path", "description"), [("/health/live", "200 OK"), ("/nothing", "404 Not Found")])
def test_the_status_has_a_description(path: str, description: str) -> None:
    assert returned(alb(Request("GET", path)))["statusDescription"] == description


def test_a_status_without_a_known_phrase_is_described_by_its_number(app: FastAPI) -> None:
    @app.get("/test/status", status_code=299)
    async def _route() -> None:
        pass

    assert returned(alb(Request("GET", "/test/status")))["statusDescription"] == "299"


@pytest.mark.parametrize(
    ("forwarded_for", "client"),
    [("203.0.113.9", "203.0.113.9"), ("10.0.0.1, 203.0.113.9", "203.0.113.9"), ("", None), (None, None)],
)
def test_the_client_is_the_last_forwarded_address(forwarded_for: str | None, client: str | None, app: FastAPI) -> None:
    @app.get("/test/client")
    async def _route(request: FastAPIRequest) -> str | None:
        return request.client.host if request.client else None

    event = alb(Request("GET", "/test/client"))
    event["headers"]["x-forwarded-for"] = forwarded_for
    assert send(event).body == (f'"{client}"'.encode() if client else b"null")


def test_an_authentication_header_is_not_an_authorizer_context(app: FastAPI) -> None:
    @app.get("/test/authorizer")
    async def _route(request: FastAPIRequest) -> dict[str, Any]:
        authorizer: dict[str, Any] = request.scope["authorizer"]
        return authorizer

    headers = [("x-amzn-oidc-identity", "ann"), ("x-amzn-oidc-data", "e30.e30.")]
    assert send(alb(Request("GET", "/test/authorizer", headers=headers))).body == b"{}"
