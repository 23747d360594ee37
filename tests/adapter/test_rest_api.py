"""API Gateway REST APIs: stages, custom domains and the format of a response."""

from collections.abc import Callable

import pytest
from fastapi import FastAPI, Response

from handler import main
from tests.support.event_sources import (
    DEFAULT_DOMAIN,
    DEPLOYMENTS,
    Deployment,
    Request,
    assert_links_have_the_prefix,
    rest_api,
    send,
)


@pytest.mark.parametrize("deployment", [one for one in DEPLOYMENTS if one.source == "REST API"], ids=str)
def test_links_start_with_the_prefix_that_the_client_sees(
    deployment: Deployment, serve: Callable[..., FastAPI]
) -> None:
    serve(base_path="" if deployment.domain == DEFAULT_DOMAIN else deployment.prefix)
    assert_links_have_the_prefix(deployment)


def test_a_path_that_only_starts_with_the_stage_is_kept(app: FastAPI) -> None:
    @app.get("/devices")
    async def _route() -> str:
        return "devices"

    event = rest_api(Request("GET", "/devices"))
    event["requestContext"] |= {"domainName": DEFAULT_DOMAIN, "stage": "dev"}
    assert send(event).status == 200


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
