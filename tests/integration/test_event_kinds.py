"""The same request has the same response from every event source, behind every stage and base path."""

import asyncio
import base64
import json
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import FastAPI, Response

from handler import main
from handler.adapter.detection import NotHttpEvent
from handler.app import MAX_BODY_BYTES
from tests.support.client import create_probe, probe_path
from tests.support.event_files import FILES, expected_status, load, name_of, store_one_of_each
from tests.support.event_kinds import KINDS, Received, Request, http_api_1, http_api_2, rest_api, send

JSON = ("content-type", "application/json")
JSON_PATCH = ("content-type", "application/json-patch+json")
LAMP = b'{"name": "L\xc3\xa4mpchen"}'

CASES = {
    "health": Request("GET", "/health/live"),
    "read": Request("GET", probe_path(1)),
    "read with cookies": Request("GET", probe_path(1), headers=[("cookie", "a=1; b=2")]),
    "read what is known": Request("GET", probe_path(1), headers=[("if-none-match", '"1"')]),
    "create": Request("POST", "/probes/", headers=[JSON], body=LAMP),
    "change": Request("PATCH", probe_path(1), headers=[JSON], body=b'{"note": null}'),
    "replace": Request("PUT", probe_path(1), headers=[JSON, ("if-match", '"1"')], body=LAMP),
    "replace another version": Request("PUT", probe_path(1), headers=[JSON, ("If-Match", '"7"')], body=LAMP),
    "delete": Request("DELETE", probe_path(1)),
    "list": Request("GET", "/probes/"),
    "page": Request("GET", "/probes/", "limit=1&state=idle"),
    "page without the slash": Request("GET", "/probes", "limit=1&state=idle"),
    "repeated parameter": Request("GET", probe_path(1), "limit=1&limit=2"),
    "unknown parameter of a list": Request("GET", "/probes/", "a=1"),
    "empty parameter": Request("GET", "/probes/", "limit="),
    "parameter without a value": Request("GET", "/probes/", "cursor"),
    "encoded parameter": Request("GET", "/probes/", "name=L%C3%A4mp%20%26%2B%25&limit=5"),
    "plus is a space": Request("GET", "/probes/", "name=Other+%26%2B%25"),
    "parameter encoded twice": Request("GET", "/probes/", "name=%252541"),
    "unknown parameter": Request("GET", probe_path(1), "a=1"),
    "no such probe": Request("GET", probe_path(99)),
    "no such path": Request("GET", "/nothing"),
    "encoded path": Request("GET", "/%69tems/1"),
    "path encoded twice": Request("GET", "/probes/%2531"),
    "path that is not ASCII": Request("GET", "/probes/%C3%A9"),
    "question mark in the path": Request("GET", "/probes/1%23"),
    "no such method": Request("POST", probe_path(1), headers=[JSON], body=b"{}"),
    "not valid": Request("POST", "/probes/", headers=[JSON], body=b'{"name": ""}'),
    "no type": Request("POST", "/probes/", body=LAMP),
    "JSON patch": Request(
        "PATCH", probe_path(1), headers=[("content-type", "application/json-patch+json")], body=b"[]"
    ),
    "another version than is there": Request("GET", probe_path(1), headers=[("if-match", '"7"')]),
    "no body": Request("POST", "/probes/", headers=[JSON]),
    "not JSON": Request("POST", "/probes/", headers=[JSON], body=b"{"),
    "binary": Request("POST", "/probes/", headers=[("content-type", "application/octet-stream")], body=b"\xff\x00"),
    "JSON that is not UTF-8": Request("POST", "/probes/", headers=[JSON], body=b'{"name": "\xff"}'),
    "too large": Request("POST", "/probes/", headers=[JSON], body=b" " * 300_000),
    "HEAD": Request("HEAD", probe_path(1)),
    "HEAD of nothing": Request("HEAD", probe_path(99)),
    "OPTIONS": Request("OPTIONS", probe_path(1)),
    "OPTIONS of nothing": Request("OPTIONS", "/nothing"),
    "echo": Request("PUT", "/test/a%2520b", "x=%2B&x=&y", [("cookie", "a=1; b=2"), ("x-a", "1")], b"\x00\xff"),
}


@pytest.fixture
def echo(app: FastAPI) -> None:
    """A route that shows what it got, and answers with bytes and two cookies."""
    from fastapi import Request as Asked

    @app.put("/test/{name}")
    async def _route(name: str, request: Asked) -> Response:
        seen = [name, request.query_params.getlist("y"), request.cookies, request.headers["x-a"], str(request.base_url)]
        assert request.client is not None
        said = json.dumps([*seen, request.client.host, request.query_params["x"]]).encode() + await request.body()
        response = Response(said, media_type="application/octet-stream")
        response.set_cookie("a", "1")
        response.set_cookie("b", "2")
        return response


@pytest.mark.usefixtures("echo")
@pytest.mark.parametrize("name", CASES)
def test_a_request_answers_alike_in_every_kind_of_event(name: str, database: Any) -> None:
    request = CASES[name]
    answers = {}
    for kind, event in KINDS.items():
        database.run("TRUNCATE probes, probe_readings, idempotency_keys RESTART IDENTITY")
        create_probe("Lamp", "A desk lamp")
        create_probe("Other &+%")
        answer = send(event(request))
        answer.body = re.sub(rb'_at":"[^"]+"', b'_at":""', answer.body)
        answers[kind] = answer
    first = answers["HTTP API 2.0"]
    assert answers == dict.fromkeys(KINDS, first)
    assert first.status < 500


@pytest.mark.usefixtures("echo")
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_decoded_twice_and_bytes_are_bytes(kind: str) -> None:
    answer = send(KINDS[kind](CASES["echo"]))
    assert answer.body.endswith(b"\x00\xff")
    name, empty, cookies, header, base, client, last = json.loads(answer.body[:-2])
    assert (name, empty, header, client, last) == ("a%20b", [""], "1", "127.0.0.1", "")
    assert cookies == {"a": "1", "b": "2"}
    assert base == "https://api.example.com/"
    assert [cookie.partition(";")[0] for cookie in answer.cookies] == ["a=1", "b=2"]


# Behind stages and base paths.

DEFAULT_DOMAIN = "a1b2c3d4e5.execute-api.eu-central-1.amazonaws.com"


def behind(kind: str, domain: str, stage: str, prefix: str, request: Request) -> dict[str, Any]:
    """The event for `prefix` and the request's path on `domain`, as this kind of API sees it."""
    in_path = {
        "HTTP API 2.0": f"/{stage}" if stage != "$default" else "",
        "HTTP API 1.0": prefix,
        "REST API": "" if domain == DEFAULT_DOMAIN else prefix,
    }[kind]
    event = KINDS[kind](replace(request, path=in_path + request.path))
    event["requestContext"] |= {"domainName": domain, "stage": stage, "path": prefix + request.path}
    return event


@pytest.fixture(
    params=[
        (kind, domain, stage, prefix)
        for kind in ("HTTP API 2.0", "HTTP API 1.0", "REST API")
        for domain, stage, prefix in [
            (DEFAULT_DOMAIN, "$default", ""),
            (DEFAULT_DOMAIN, "dev", "/dev"),
            (DEFAULT_DOMAIN, "probes", "/probes"),
            ("api.example.com", "$default", ""),
            ("api.example.com", "dev", ""),
            ("api.example.com", "dev", "/shop/v1"),
            ("api.example.com", "$default", "/shop/v1"),
        ]
        if (kind, stage) != ("REST API", "$default")  # REST APIs have no such stage
    ],
    ids=str,
)
def place(request: pytest.FixtureRequest, serve: Callable[..., FastAPI]) -> tuple[str, str, str, str]:
    _, domain, _, prefix = request.param
    serve(base_path="" if domain == DEFAULT_DOMAIN else prefix)
    return request.param  # type: ignore[no-any-return]


def test_links_start_with_what_the_client_sees(place: tuple[str, str, str, str]) -> None:
    prefix = place[-1]
    made = send(behind(*place, Request("POST", "/probes/", headers=[JSON], body=LAMP)))
    assert (made.status, made.headers["location"]) == (201, f"{prefix}{probe_path(1)}")
    create_probe()
    page = send(behind(*place, Request("GET", "/probes/", "limit=1")))
    assert page.headers["link"].startswith(f"<{prefix}/probes/?limit=1&cursor=")
    assert send(behind(*place, Request("GET", probe_path(1)))).status == 200
    redirect = send(behind(*place, Request("GET", "/probes", "limit=1")))
    assert redirect.status == 307
    assert redirect.headers["location"] == f"https://api.example.com{prefix}/probes/?limit=1"
    docs = send(behind(*place, Request("GET", "/docs"))).body.decode()
    assert '"url": "openapi.json"' in docs, "relative to the page, whatever is in front of it"
    schema = json.loads(send(behind(*place, Request("GET", "/openapi.json"))).body)
    assert schema.get("servers") == ([{"url": prefix}] if prefix else None)


@pytest.mark.parametrize("path", ["/shoppers/", "/shop", "/shop/"])
def test_a_path_that_merely_starts_with_the_prefix_is_not_cut(path: str, serve: Callable[..., FastAPI]) -> None:
    app = serve(base_path="/shop")

    @app.get("/shoppers/")
    async def _shoppers() -> str:
        return "/shoppers/"

    @app.get("/")
    async def _root() -> str:
        return "/"

    for kind in KINDS.values():
        answer = send(kind(Request("GET", path)))
        assert json.loads(answer.body) == ("/shoppers/" if path == "/shoppers/" else "/")


def test_a_path_that_merely_starts_with_the_stage_is_not_cut(app: FastAPI) -> None:
    @app.get("/devices")
    async def _route() -> str:
        return "devices"

    for kind in (http_api_2, http_api_1, rest_api):
        event = kind(Request("GET", "/devices"))
        event["requestContext"] |= {"domainName": DEFAULT_DOMAIN, "stage": "dev"}
        assert send(event).status == 200


def returned(event: Any, context: Any = None) -> dict[str, Any]:
    """What the handler returns to Lambda."""
    response: dict[str, Any] = main.handler(event, context)
    return response


# What every response has.


@pytest.mark.parametrize("name", CASES)
def test_every_answer_says_how_it_may_be_used(name: str) -> None:
    create_probe()
    answer = send(http_api_2(CASES[name]))
    assert answer.headers["x-request-id"] == "the-request"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert "max-age" in answer.headers["strict-transport-security"]
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")
    assert answer.headers["cache-control"] == ("no-store" if answer.status >= 400 else "no-cache")
    assert not [header for header in answer.headers if header.startswith("access-control-")]
    assert ("content-type" in answer.headers) == (answer.status not in (204, 304, 307))
    if answer.status in (204, 304, 307) or CASES[name].method == "HEAD":
        assert answer.body == b""
    elif answer.status >= 400:
        assert json.loads(answer.body)["status"] == answer.status


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


def test_a_route_says_itself_how_long_its_answer_lasts(app: FastAPI) -> None:
    @app.get("/test/lasting")
    async def _route(response: Response) -> None:
        response.headers["Cache-Control"] = "max-age=60"

    assert send(http_api_2(Request("GET", "/test/lasting"))).headers["cache-control"] == "max-age=60"


@pytest.mark.parametrize(
    ("media_type", "content", "is_text"),
    [
        ("application/problem+json", b"{}", True),
        ("application/vnd.api+json; charset=utf-8", b"{}", True),
        ("image/svg+xml", b"<svg/>", True),
        ("text/plain", "é".encode(), True),
        ("text/plain; charset=latin-1", b"\xe9", False),
        ("image/png", b"ascii all the same", False),
        ("application/octet-stream", b"text/plain", False),
    ],
)
def test_text_travels_as_text_and_everything_else_as_base64(
    media_type: str, content: bytes, is_text: bool, app: FastAPI
) -> None:
    @app.get("/test/content")
    async def _route() -> Response:
        return Response(content, headers={"content-type": media_type})

    for kind in KINDS.values():
        event = kind(Request("GET", "/test/content"))
        assert returned(event)["isBase64Encoded"] is not is_text
        assert send(event).body == content


@pytest.mark.parametrize(("kind", "limit"), [("HTTP API 2.0", 6_291_556), ("REST API", 6_291_556), ("ALB", 1_048_576)])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_response_that_the_event_source_does_not_take_is_an_error(
    kind: str, limit: int, method: str, app: FastAPI
) -> None:
    @app.get("/test/large/{size}")
    async def _route(size: int) -> Response:
        return Response("é" * (size // 2), media_type="text/plain; charset=utf-8")

    for size, status in [(limit - 2000, 200), (limit, 500), (limit * 2, 500)]:
        event = KINDS[kind](Request(method, f"/test/large/{size}"))
        response = returned(event)
        assert response["statusCode"] == status
        assert len(json.dumps(response, ensure_ascii=False).encode()) <= limit
    if method == "GET":
        detail = json.loads(response["body"])["detail"]
        assert re.fullmatch(rf"The response has \d+ bytes, and at most {limit} can be returned", detail)


def test_what_breaks_while_it_answers_is_a_problem_too(app: FastAPI) -> None:
    class Broken(Response):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:  # noqa: ARG002 - ASGI's
            await send({"type": "http.response.start", "status": 200, "headers": []})
            raise ValueError("SECRET")

    @app.get("/test/broken", response_class=Response)
    async def _route() -> Response:
        return Broken()

    answer = send(http_api_2(Request("GET", "/test/broken")))
    assert (answer.status, answer.headers["content-type"]) == (500, "application/problem+json")
    assert b"SECRET" not in answer.body


# CORS.

PAGE = ("origin", "https://app.example")


@pytest.fixture
def cors(serve: Callable[..., FastAPI]) -> Callable[..., FastAPI]:
    def change(*origins: str) -> FastAPI:
        return serve(cors_origins=origins)

    return change


def preflight(method: str, *headers: str) -> Received:
    asked = [PAGE, ("access-control-request-method", method)]
    asked += [("access-control-request-headers", ",".join(headers))] if headers else []
    return send(http_api_2(Request("OPTIONS", probe_path(1), headers=asked)))


def test_a_page_of_an_origin_that_is_named_may_ask_and_read(cors: Callable[..., FastAPI]) -> None:
    cors("https://app.example", "https://other.example")
    allowed = preflight("PATCH", "content-type", "if-match", "idempotency-key")
    assert (allowed.status, allowed.body) == (204, b"")
    assert allowed.headers["access-control-allow-origin"] == PAGE[1]
    assert "PATCH" in allowed.headers["access-control-allow-methods"]
    answer = send(http_api_2(Request("GET", "/probes/", headers=[PAGE])))
    assert answer.headers["access-control-allow-origin"] == PAGE[1]
    assert "ETag" in answer.headers["access-control-expose-headers"]
    assert "Origin" in answer.headers["vary"]


def test_a_page_of_another_origin_may_not(cors: Callable[..., FastAPI]) -> None:
    cors("https://other.example")
    refused = preflight("GET")
    assert (refused.status, json.loads(refused.body)["detail"]) == (400, "Disallowed CORS origin")
    assert "access-control-allow-origin" not in refused.headers
    assert "access-control-allow-origin" not in send(http_api_2(Request("GET", "/probes/", headers=[PAGE]))).headers


def test_every_page_may_where_the_setting_says_so(cors: Callable[..., FastAPI]) -> None:
    app = cors("*")

    @app.get("/test/fails")
    async def _route() -> None:
        raise ValueError

    assert preflight("DELETE").headers["access-control-allow-origin"] == "*"

    @app.get("/test/large")
    async def _large() -> str:
        return "x" * 7_000_000

    for path, status in [("/probes/", 200), ("/probes/0", 422), ("/test/fails", 500), ("/test/large", 500)]:
        answer = send(http_api_2(Request("GET", path, headers=[PAGE])))
        assert (answer.status, answer.headers["access-control-allow-origin"]) == (status, "*")
    refused = send(http_api_2(Request("POST", "/probes/", headers=[PAGE], body=b"x" * (MAX_BODY_BYTES + 1))))
    assert (refused.status, refused.headers["access-control-allow-origin"]) == (413, "*")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("query", ["", "&", "&&"])
def test_a_query_without_a_parameter_is_none(kind: str, query: str) -> None:
    create_probe()
    assert send(KINDS[kind](Request("GET", probe_path(1), query=query))).status == 200


@pytest.mark.parametrize("kind", KINDS)
def test_a_head_that_cannot_be_read_is_refused_without_a_body(kind: str) -> None:
    event = KINDS[kind](Request("HEAD", "/probes/")) | {"body": "!", "isBase64Encoded": True}
    answer = returned(event)
    assert (answer["statusCode"], answer["body"]) == (400, "")


# Requests that cannot be parsed.

BROKEN: dict[str, dict[str, Any]] = {
    "no base64": {"body": "not base64!", "isBase64Encoded": True},
    "base64 cut short": {"body": "A", "isBase64Encoded": True},
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


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_request_is_400_in_the_sender_s_own_form(kind: str, name: str) -> None:
    event = KINDS[kind](Request("POST", "/probes/", headers=[JSON], body=LAMP))
    change = {part: value for part, value in BROKEN[name].items() if part in event}
    if "elb" in event["requestContext"]:
        change.pop("requestContext", None)
    answer = send(event | change)
    assert (answer.status, json.loads(answer.body)["status"]) == (400, 400)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("absent", [None, {}])
def test_missing_parts_are_empty(kind: str, absent: Any) -> None:
    event = KINDS[kind](Request("GET", "/probes/"))
    parts = [part for part in event if "eaders" in part or "ueryString" in part] + ["body", "cookies"]
    answer = send(event | dict.fromkeys(parts, absent) | {"body": None})
    assert answer.status == 200


@pytest.mark.parametrize("host", ["[::1]:8000", "[2001:db8::1]", "a:b:c", "", "\u00e9"])
@pytest.mark.parametrize("kind", KINDS)
def test_any_host_is_served(kind: str, host: str) -> None:
    for path, status in [("/health/live", 200), ("/probes", 307), ("/nothing", 404)]:
        event = KINDS[kind](Request("GET", path))
        for headers, value in [("headers", host), ("multiValueHeaders", [host])]:
            if headers in event:
                event[headers] |= {"host": value}
        assert send(event).status == status


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_every_file_of_events_gets_a_response(path: Path, serve: Callable[..., FastAPI]) -> None:
    store_one_of_each()
    event = load(path)
    if path.stem == "scheduled":
        assert main.handler(event, None) is None
        return
    if path.stem in ("migration-create", "sqs"):
        with pytest.raises(NotHttpEvent):
            main.handler(event, None)
        return
    if path.stem == "custom-domain-mapping":
        serve(base_path="/shop")
    answer = send(event)
    assert answer.status == expected_status(event), answer.body


# Wherever it is called.

LIVE = http_api_2(Request("GET", "/probes/"))


def test_a_context_may_lack_everything() -> None:
    for context in (None, object(), SimpleNamespace(aws_request_id=None), {}):
        answer = returned(LIVE, context)
        assert answer["statusCode"] == 200
        assert answer["headers"]["x-request-id"]
    refused = returned(LIVE | {"body": 7})
    assert json.loads(refused["body"])["request_id"] == refused["headers"]["x-request-id"]


@pytest.fixture
def current_loop() -> Iterator[None]:
    """Whatever the test makes the thread's current loop, it is none afterwards."""
    yield
    asyncio.set_event_loop(None)


@pytest.mark.usefixtures("current_loop")
def test_it_works_without_a_current_loop_and_with_a_closed_one() -> None:
    asyncio.set_event_loop(None)
    assert send(LIVE).status == 200
    closed = asyncio.new_event_loop()
    closed.close()
    asyncio.set_event_loop(closed)
    assert send(LIVE).status == 200
    asyncio.run(asyncio.sleep(0))
    assert send(LIVE).status == 200


def test_it_works_inside_a_running_loop() -> None:
    async def call() -> int:
        return send(LIVE).status

    assert asyncio.run(call()) == 200
    assert send(LIVE).status == 200


def test_it_works_from_threads_one_after_another_and_at_once() -> None:
    statuses = []
    for _ in range(3):
        thread = threading.Thread(target=lambda: statuses.append(send(LIVE).status))
        thread.start()
        thread.join()
    with ThreadPoolExecutor(max_workers=4) as threads:
        statuses += [answer.status for answer in threads.map(send, [LIVE] * 20)]
    assert set(statuses) == {200}


def test_a_body_in_base64_is_the_same_request() -> None:
    event = http_api_2(Request("POST", "/probes/", headers=[JSON], body=LAMP))
    encoded = event | {"body": base64.b64encode(LAMP).decode(), "isBase64Encoded": True}
    assert [json.loads(send(one).body)["name"] for one in (event, encoded)] == ["Lämpchen", "Lämpchen"]
