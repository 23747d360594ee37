"""Parts of events that are missing, empty, unusual or broken."""

import base64
import json
from typing import Annotated, Any

import pytest
from fastapi import FastAPI
from pydantic import BaseModel, Field

from local.events import http_event
from tests.support.client import call, create_probe, invoke, probe_path
from tests.support.event_sources import EVENT_SOURCES, JSON, LAMP, Request, http_api_2, send

BROKEN: dict[str, dict[str, Any]] = {
    "not base64": {"body": "not base64!", "isBase64Encoded": True},
    "truncated base64": {"body": "A", "isBase64Encoded": True},
    "a surrogate": {"body": "\ud800"},
    "a number as body": {"body": 7},
    "a list as headers": {"headers": [1], "multiValueHeaders": [1]},
    "a number as header": {"headers": {"x": 1}, "multiValueHeaders": {"x": 1}},
    "no method": {"httpMethod": None, "requestContext": {"http": {}}},
    "a number as path": {"path": 7, "rawPath": 7},
    "a surrogate in the query": {
        "rawQueryString": "\ud800",
        "queryStringParameters": {"a": "\ud800"},
        "multiValueQueryStringParameters": {"a": ["\ud800"]},
    },
}


@pytest.mark.parametrize("source", EVENT_SOURCES)
@pytest.mark.parametrize("name", BROKEN)
def test_a_request_that_cannot_be_parsed_gets_400_in_the_format_of_its_event_source(source: str, name: str) -> None:
    event = EVENT_SOURCES[source](Request("POST", "/probes/", headers=[JSON], body=LAMP))
    change = {part: value for part, value in BROKEN[name].items() if part in event}
    if "elb" in event["requestContext"]:
        change.pop("requestContext", None)
    response = send(event | change)
    assert (response.status, json.loads(response.body)["status"]) == (400, 400)


@pytest.mark.parametrize("source", EVENT_SOURCES)
@pytest.mark.parametrize("absent", [None, {}])
def test_missing_parts_are_empty(source: str, absent: Any) -> None:
    event = EVENT_SOURCES[source](Request("GET", "/probes/"))
    parts = [part for part in event if "eaders" in part or "ueryString" in part] + ["body", "cookies"]
    response = send(event | dict.fromkeys(parts, absent) | {"body": None})
    assert response.status == 200


@pytest.mark.parametrize("source", EVENT_SOURCES)
@pytest.mark.parametrize("query", ["", "&", "&&"])
def test_a_query_without_parameters_is_empty(source: str, query: str) -> None:
    create_probe()
    assert send(EVENT_SOURCES[source](Request("GET", probe_path(1), query=query))).status == 200


@pytest.mark.parametrize("host", ["[::1]:8000", "[2001:db8::1]", "a:b:c", "", "\u00e9"])
@pytest.mark.parametrize("source", EVENT_SOURCES)
def test_any_host_header_is_accepted(source: str, host: str) -> None:
    for path, status in [("/health/live", 200), ("/probes", 307), ("/nothing", 404)]:
        event = EVENT_SOURCES[source](Request("GET", path))
        for headers, value in [("headers", host), ("multiValueHeaders", [host])]:
            if headers in event:
                event[headers] |= {"host": value}
        assert send(event).status == status


def test_a_body_in_base64_is_decoded() -> None:
    event = http_api_2(Request("POST", "/probes/", headers=[JSON], body=LAMP))
    encoded = event | {"body": base64.b64encode(LAMP).decode(), "isBase64Encoded": True}
    assert [json.loads(send(one).body)["name"] for one in (event, encoded)] == ["Lämpchen", "Lämpchen"]


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
def test_an_event_with_a_broken_part_gets_400_or_422_and_the_next_request_succeeds(
    change: dict[str, Any], app: FastAPI
) -> None:
    @app.post("/test/body")
    async def _route(body: Body) -> Body:
        return body

    event = http_event("POST", "/test/body", "", [("content-type", "application/json")], b'{"name": ""}')
    response = invoke(event | change)
    assert response.status in (400, 422), response.body
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json["status"] == response.status
    assert call("POST", "/test/body", {"name": "after"}).json == {"name": "after"}
