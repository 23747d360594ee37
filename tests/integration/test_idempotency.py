"""Safe retries: a POST with an Idempotency-Key is executed once, even if its response is lost."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Annotated, Any
from uuid import UUID

import pytest
from fastapi import APIRouter, FastAPI, Query
from fastapi import Response as ApiResponse
from pydantic import BaseModel

from handler.api.auth import requires_scopes
from handler.api.idempotency import IDEMPOTENT
from handler.api.routing import ApiRoute
from tests.support.client import Response, call, probe_path
from tests.support.event_sources import AUTHORIZER_CONTEXTS, EVENT_SOURCES, Received, Request, authorized, send
from tests.support.proxy import Proxy

Authorize = Callable[..., FastAPI]

LAMP = {"name": "Lamp", "note": "A desk lamp"}


def post(key: str | None = "key-1", body: Any = LAMP) -> Response:
    return call("POST", "/probes/", body, headers=[] if key is None else [("Idempotency-Key", key)])


def stored(database: Any) -> int:
    return int(database.run("SELECT count(*) FROM probes")[0][0])


def same(one: Response, other: Response) -> bool:
    names = ("location", "etag", "content-type")
    return (one.status, one.body) == (other.status, other.body) and all(
        one.headers[name] == other.headers[name] for name in names
    )


def test_the_same_key_and_body_get_the_same_response_and_store_one_row(database: Any) -> None:
    first = post()
    assert first.status == 201
    assert same(post(), first)
    assert same(post(body={"note": "A desk lamp", "name": "Lamp"}), first), "JSON has no order"
    assert stored(database) == 1


def test_the_first_response_is_returned_after_the_probe_was_changed_or_deleted(database: Any) -> None:
    first = post()
    call("PATCH", probe_path(1), {"name": "Torch"})
    assert same(post(), first)
    call("DELETE", probe_path(1))
    assert same(post(), first)
    assert stored(database) == 0


def test_another_body_with_the_same_key_is_422(database: Any) -> None:
    post()
    assert post(body={"name": "Torch"}).status == 422
    assert stored(database) == 1


def test_a_request_without_a_key_or_with_another_key_creates_another_probe(database: Any) -> None:
    for key in (None, None, "key-1", "key-2"):
        assert post(key).status == 201
    assert stored(database) == 4


@pytest.mark.parametrize("key", ["", "a" * 256, "a\tb", "é", "a\nb"])
def test_a_key_that_is_not_printable_ascii_of_1_to_255_characters_is_refused(key: str, database: Any) -> None:
    refused = post(key)
    assert refused.status == 422
    assert [(one["in"], one["name"]) for one in refused.json["errors"]] == [("header", "Idempotency-Key")]
    assert stored(database) == 0


def test_a_failed_request_does_not_use_up_the_key(database: Any) -> None:
    assert post(body={"name": ""}).status == 422
    database.run("ALTER TABLE probes ADD CONSTRAINT refuses CHECK (name <> 'Lamp')")
    try:
        assert post().status == 422
    finally:
        database.run("ALTER TABLE probes DROP CONSTRAINT refuses")
    assert post().status == 201
    assert stored(database) == 1


def test_a_response_that_was_lost_after_the_commit_is_returned_again(proxy: Proxy, database: Any) -> None:
    """The connection is lost during the COMMIT, which the server may have executed. The client retries the request."""
    post("warm")
    for cut in (0, 1, 5, 6, 12, 20):
        key = f"key-{cut}"
        proxy.cut_after(cut + 400)  # within the replies to the request
        first = post(key)
        assert first.status in (201, 503)
        again = post(key)
        assert again.status == 201
        if first.status == 201:
            assert same(again, first)
    assert stored(database) == 7


def test_a_key_expires(database: Any) -> None:
    first = post()
    database.run("UPDATE idempotency_keys SET expires_at = now() - interval '1 second'")
    second = post(body={"name": "Torch"})
    assert second.status == 201
    assert second.headers["location"] != first.headers["location"]
    assert same(post(body={"name": "Torch"}), second)


def test_new_keys_delete_expired_keys(database: Any) -> None:
    for number in range(25):
        post(f"old-{number}")
    database.run("UPDATE idempotency_keys SET expires_at = now() - interval '1 second'")
    for number in range(3):
        post(f"new-{number}")
    assert database.run("SELECT count(*) FROM idempotency_keys") == [[3]]


def test_the_lifetime_of_a_key_is_a_setting(database: Any, serve: Callable[..., object]) -> None:
    serve(idempotency_ttl=120)
    post()
    seconds = "SELECT extract(epoch FROM expires_at - now())::int FROM idempotency_keys"
    assert 100 < database.run(seconds)[0][0] <= 120


RETRIES = """
import sys
from tests.support.client import call
for number in range(20):
    headers = [("Idempotency-Key", f"race-{number}")]
    response = call("POST", "/probes/", {"name": f"Lamp {number}"}, headers=headers)
    assert response.status == 201, response
    print(response.body.decode())
"""


def test_concurrent_requests_with_one_key_get_one_response_and_store_one_row(database: Any) -> None:
    command = [sys.executable, "-c", RETRIES]
    clients = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ) for _ in range(4)]
    responses = {client.communicate(timeout=60)[0] for client in clients}
    assert all(client.returncode == 0 for client in clients)
    assert len(responses) == 1
    assert stored(database) == 20


# The response has the prefix of the request that it is returned to.

DEFAULT_DOMAIN = "a1b2c3d4e5.execute-api.eu-central-1.amazonaws.com"
KEYED = Request(
    "POST", "/probes/", "", [("content-type", "application/json"), ("idempotency-key", "one")], b'{"name": "L"}'
)


def on_stage(stage: str) -> Received:
    event = EVENT_SOURCES["REST API"](KEYED)
    event["requestContext"] |= {"domainName": DEFAULT_DOMAIN, "stage": stage}
    return send(event)


def below(base_path: str) -> Received:
    event = EVENT_SOURCES["function URL"](Request(KEYED.method, f"{base_path}/probes/", "", KEYED.headers, KEYED.body))
    return send(event)


def test_the_location_of_a_stored_response_has_the_prefix_of_the_second_request(
    serve: Callable[..., object], database: Any
) -> None:
    serve(base_path="/shop")
    responses = [on_stage("dev"), on_stage("prod"), on_stage("probes"), below("/shop"), below(""), on_stage("dev")]
    locations = [response.headers["location"] for response in responses]
    assert locations == [f"{path}{probe_path(1)}" for path in ("/dev", "/prod", "/probes", "/shop", "", "/dev")]
    assert len({(response.status, response.body) for response in responses}) == 1
    assert stored(database) == 1


@pytest.mark.parametrize("location", ["/devices/1", "https://other.example/dev/1", "dev/1", "", "/"])
def test_a_location_without_the_stage_is_returned_unchanged(location: str, serve: Callable[..., FastAPI]) -> None:
    def add(app: FastAPI) -> None:
        router = APIRouter(route_class=ApiRoute)

        @router.post("/test/", dependencies=[requires_scopes(), IDEMPOTENT])
        async def _route(response: ApiResponse) -> None:
            response.headers["Location"] = location

        app.include_router(router)

    serve(add)
    event = EVENT_SOURCES["REST API"](Request("POST", "/test/", "", [("idempotency-key", "one")]))
    event["requestContext"] |= {"domainName": DEFAULT_DOMAIN, "stage": "dev"}
    responses = [send(event), send(event)]
    assert [response.headers["location"] for response in responses] == [location, location]


# A key belongs to its caller, method, path and query.

ROLE = "arn:aws:sts::123456789012:assumed-role/shop/{}"
SAME_CALLER = [
    [ROLE.format("i-0123456789abcdef0"), ROLE.format("task-2"), ROLE.format("ann@example.com"), ROLE.format("1")],
    ["arn:aws:iam::123456789012:user/ann"],
    ["arn:aws:iam::123456789012:user/bob"],
    ["arn:aws:iam::123456789012:user/team/ann"],
    ["arn:aws:iam::123456789012:user/team/bob"],
    ["arn:aws:sts::123456789012:federated-user/ann"],
    ["arn:aws:sts::123456789012:federated-user/bob"],
    ["arn:aws:sts::123456789012:assumed-role/shop-2/task-2", "arn:aws:sts::123456789012:assumed-role/shop-2/task-3"],
    ["arn:aws:sts::210987654321:assumed-role/shop/task-2", "arn:aws:sts::210987654321:assumed-role/shop/task-3"],
    ["arn:aws-cn:sts::123456789012:assumed-role/shop/task-2"],
    ["arn:aws:iam::210987654321:user/ann"],
    ["arn:aws:iam::123456789012:root"],
    ["arn:aws:iam::123456789012:role/shop"],
]


def number_of(event: Any) -> int:
    response = send(event)
    assert response.status == 201, response.body
    return UUID(json.loads(response.body)["id"]).int


@pytest.mark.parametrize("source", AUTHORIZER_CONTEXTS["iam"])
def test_the_owner_of_a_key_is_the_user_or_the_role_without_its_session(source: str, authorize: Authorize) -> None:
    authorize("iam")
    arn = authorized("iam", source, KEYED)
    for number, arns in enumerate(SAME_CALLER, start=1):
        for one in arns * 2:
            assert number_of(json.loads(json.dumps(arn).replace(ROLE.format("session"), one))) == number, one


SAME_CLIENT: list[list[dict[str, Any]]] = [
    [{"sub": "ann"}, {"sub": "ann", "exp": "1", "iat": "2", "jti": "3", "scope": "probes:write x"}, {"sub": "ann"}],
    [{"sub": "bob"}],
    [{"sub": "ann", "iss": "https://other.example"}, {"sub": "ann", "iss": "https://other.example", "jti": "7"}],
    [
        {"sub": "ann", "client_id": "app"},
        {"sub": "ann", "azp": "app"},
        {"sub": "ann", "azp": "app", "client_id": "app"},
    ],
    [{"sub": "ann", "client_id": "other-app"}],
    [{"client_id": "ann"}, {"azp": "ann"}],
    [{"client_id": "app"}],
    [{"sub": "a" * 4000}],
    [{"sub": "a" * 4001}],
    [{"sub": 'ann", "'}],
]


@pytest.mark.parametrize("source", AUTHORIZER_CONTEXTS["jwt"])
def test_the_owner_of_a_key_is_the_token_s_issuer_subject_and_client(source: str, authorize: Authorize) -> None:
    authorize("jwt")
    for number, tokens in enumerate(SAME_CLIENT, start=1):
        for claims in tokens * 2:
            event = EVENT_SOURCES[source](KEYED)
            AUTHORIZER_CONTEXTS["jwt"][source](
                event, {"iss": "https://issuer.example", "scope": "probes:write", **claims}
            )
            assert number_of(event) == number, claims


@pytest.mark.parametrize(
    "claims", [{}, {"iss": "x"}, {"sub": ""}, {"sub": None, "azp": ""}, {"aud": "x", "username": "a"}]
)
def test_a_key_of_a_token_that_names_neither_subject_nor_client_is_400(
    claims: dict[str, Any], authorize: Authorize, database: Any
) -> None:
    authorize("jwt")
    for headers, status in [(KEYED.headers, 400), (KEYED.headers[:1], 201)]:
        event = EVENT_SOURCES["HTTP API 2.0"](Request("POST", "/probes/", "", headers, KEYED.body))
        AUTHORIZER_CONTEXTS["jwt"]["HTTP API 2.0"](event, {"scope": "probes:write", **claims})
        assert send(event).status == status
    assert stored(database) == 1, "only the request without a key was executed"


class Order(BaseModel):
    name: str


def test_a_key_belongs_to_its_method_path_and_query(serve: Callable[..., FastAPI]) -> None:
    called: list[str] = []

    def add(app: FastAPI) -> None:
        router = APIRouter(route_class=ApiRoute, dependencies=[requires_scopes(), IDEMPOTENT])

        @router.api_route("/test/{name}", methods=["POST", "PUT"])
        async def _route(name: str, body: Order, size: Annotated[int, Query()] = 1) -> int:
            called.append(f"{name} {body.name} {size}")
            return len(called)

        app.include_router(router)

    serve(add)

    def order(method: str, path: str, query: str = "") -> Response:
        return call(method, path, {"name": "Lamp"}, query=query, headers=[("idempotency-key", "one")])

    for _ in range(2):
        assert [order(*one).json for one in [("POST", "/test/a"), ("PUT", "/test/a"), ("POST", "/test/b")]] == [1, 2, 3]
    assert order("POST", "/test/a", "size=2").status == 422
    assert len(called) == 3


def test_a_key_of_a_plain_route_is_an_error_that_names_the_route_class(
    serve: Callable[..., FastAPI], caplog: pytest.LogCaptureFixture
) -> None:
    def add(app: FastAPI) -> None:
        @app.post("/test/plain", dependencies=[requires_scopes(), IDEMPOTENT])
        async def _route() -> None: ...

    serve(add)
    assert call("POST", "/test/plain", headers=[("idempotency-key", "one")]).status == 500
    assert "IDEMPOTENT stores responses only for routes of a router with route_class=ApiRoute" in caplog.text
