"""An event of API Gateway with a broken part gets a response that says so, and the next request is right."""

import base64
from typing import Annotated, Any

import pytest
from fastapi import FastAPI
from pydantic import BaseModel, Field

from local.events import http_event
from tests.support.client import call, invoke


class Body(BaseModel):
    name: Annotated[str, Field(min_length=1)]


@pytest.mark.parametrize(
    "change",
    [
        {"body": "\ud800"},
        {"body": "not base64!", "isBase64Encoded": True},
        {"body": "A", "isBase64Encoded": True},
        {"body": base64.b64encode(b"\xff\xfe").decode(), "isBase64Encoded": True},
        {"body": 7},
        {"rawQueryString": "\ud800"},
        {"requestContext": None},
        {"requestContext": {}},
        {"requestContext": {"http": None}},
        {"version": "3.0"},
    ],
)
def test_an_event_with_a_broken_part_is_refused(change: dict[str, Any], app: FastAPI) -> None:
    @app.post("/test/body")
    async def _route(body: Body) -> Body:
        return body

    event = http_event("POST", "/test/body", "", [("content-type", "application/json")], b'{"name": ""}')
    response = invoke(event | change)
    assert response.status in (400, 422), response.body
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json["status"] == response.status
    assert call("POST", "/test/body", {"name": "after"}).json == {"name": "after"}
