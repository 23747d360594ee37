"""Authorization: first the authorizer context, then the scopes of the route. A client can write neither."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Depends, FastAPI, Security
from fastapi.routing import iter_route_contexts
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st

from handler.api.auth import PUBLIC, Caller, authorizer, calls_of, required_scopes, requires_scopes
from handler.api.idempotency import IDEMPOTENT
from handler.api.routing import ApiRoute
from handler.main import app as served
from tests.support.client import example_body, example_path, probe_path
from tests.support.event_files import FILES, load
from tests.support.event_sources import (
    ARN,
    AUTHORIZER_CONTEXTS,
    EVENT_SOURCES,
    Received,
    Request,
    authorized,
    http_api_2,
    rest_api,
    send,
)
from tests.support.proxy import Proxy

JSON = ("content-type", "application/json")
LAMP = b'{"name": "Lamp"}'
MODES_AND_SOURCES = [(mode, source) for mode, sources in AUTHORIZER_CONTEXTS.items() for source in sources]
DOCUMENTATION = ["/openapi.json", "/docs", "/docs/oauth2-redirect", "/redoc"]
BEARER, SIGV4 = 'Bearer realm="api"', "AWS4-HMAC-SHA256"
LACKING = 'Bearer realm="api", error="insufficient_scope", scope="{}"'

Authorize = Callable[..., FastAPI]

# The routes outside the shipped resources, and the scopes that each requires.
KNOWN = {
    ("GET", "/probes/"): ["probes:read"],
    ("GET", "/probes/{probe_id}"): ["probes:read"],
    ("POST", "/probes/"): ["probes:write"],
    ("PUT", "/probes/{probe_id}"): ["probes:write"],
    ("PATCH", "/probes/{probe_id}"): ["probes:write"],
    ("DELETE", "/probes/{probe_id}"): ["probes:write"],
    ("GET", "/health/ready"): [],
    ("GET", "/health/live"): "public",
    **{("GET", path): "public" for path in DOCUMENTATION},
}


def declared() -> Iterator[tuple[tuple[str, str], Any]]:
    """Method and path of every route, and the scopes that it declares: None for a route that declares nothing."""
    for context in iter_route_contexts(served.routes):
        assert context.path
        for method in (context.methods or set()) - {"HEAD"}:
            is_public = context.path in DOCUMENTATION or PUBLIC.dependency in calls_of(context.dependant)
            scopes = required_scopes(context.original_route) if not is_public else "public"  # type: ignore[arg-type] # it is an APIRoute
            yield (method, context.path), scopes


ROUTES = dict(declared())
SCOPED = {route: " ".join(scopes) for route, scopes in ROUTES.items() if scopes not in ([], "public")}
LISTED = Request("GET", "/probes/")


def request_of(route: tuple[str, str]) -> Request:
    method, path = route
    example = example_body(method, path)
    body = b"" if example is None else json.dumps(example).encode()
    return Request(method, example_path(method, path), headers=[JSON] if body else [], body=body)


def others(needed: str) -> str:
    """Every other scope of the service."""
    return " ".join({*" ".join(SCOPED.values()).split()} - {*needed.split()})


def assert_refused(response: Received, status: int, challenge: str | None) -> None:
    assert (response.status, response.headers["content-type"]) == (status, "application/problem+json")
    assert json.loads(response.body)["status"] == status
    assert json.loads(response.body)["request_id"] == response.headers["x-request-id"] == "the-request"
    assert response.headers.get("www-authenticate") == challenge
    assert response.headers["cache-control"] == "no-store"


# Every route declares its authorization, and OpenAPI describes it.


def test_every_route_declares_its_scopes_or_is_public() -> None:
    assert {route: scopes for route, scopes in ROUTES.items() if route in KNOWN} == KNOWN
    of_resources = {route: scopes for route, scopes in ROUTES.items() if route not in KNOWN}
    assert all(isinstance(scopes, list) and scopes for scopes in of_resources.values()), of_resources


def test_the_contract_has_the_scopes_of_each_operation(authorize: Authorize) -> None:
    for is_public in (False, True):
        openapi = authorize("jwt", auth_public=is_public).openapi()
        assert [*openapi["components"]["securitySchemes"]] == ["jwt"]
        assert openapi["components"]["securitySchemes"]["jwt"]["scheme"] == "bearer"
        for method, path, operation in operations(openapi):
            required = ROUTES[method, path]
            expected = [{"jwt": [] if required == "public" else required}]
            assert operation.get("security") == (None if required == "public" and is_public else expected)


def test_the_contract_of_iam_has_signatures_and_no_scopes(authorize: Authorize) -> None:
    for is_public in (False, True):
        openapi = authorize("iam", auth_public=is_public).openapi()
        (scheme,) = openapi["components"]["securitySchemes"].items()
        assert (scheme[0], scheme[1]["x-amazon-apigateway-authtype"]) == ("iam", "awsSigv4")
        for method, path, operation in operations(openapi):
            is_open = ROUTES[method, path] == "public" and is_public
            assert operation.get("security") == (None if is_open else [{"iam": []}])


def test_the_contract_joins_the_scopes_of_a_router_and_its_route(authorize: Authorize) -> None:
    def add(app: FastAPI) -> None:
        router = APIRouter(dependencies=[requires_scopes("a")])

        @router.get("/test/both", dependencies=[requires_scopes("b")])
        async def _both() -> None: ...

        app.include_router(router)

    operation = authorize("jwt", add).openapi()["paths"]["/test/both"]["get"]
    assert [sorted(one["jwt"]) for one in operation["security"]] == [["a", "b"]]


def operations(openapi: Any) -> list[tuple[str, str, Any]]:
    paths = openapi["paths"].items()
    return [(method.upper(), path, one) for path, methods in paths for method, one in methods.items()]


def add_to_the_app(app: FastAPI) -> None:
    @app.post("/test/forgotten")
    async def _route() -> None: ...


def add_a_router(app: FastAPI) -> None:
    router = APIRouter(route_class=ApiRoute)

    @router.post("/test/forgotten", dependencies=[IDEMPOTENT])
    async def _route() -> None: ...

    app.include_router(router)


def add_a_router_in_a_router(app: FastAPI) -> None:
    inner, outer = APIRouter(), APIRouter()

    @outer.get("/test/declared", dependencies=[requires_scopes()])
    async def _declared() -> None: ...

    @inner.get("/forgotten")
    async def _forgotten() -> None: ...

    outer.include_router(inner, prefix="/test")
    app.include_router(outer)


def add_a_mount(app: FastAPI) -> None:
    app.mount("/test/forgotten", FastAPI())


def add_a_websocket(app: FastAPI) -> None:
    @app.websocket("/test/forgotten")
    async def _route() -> None: ...


@pytest.mark.parametrize("mode", ["none", "jwt", "iam"])
@pytest.mark.parametrize("add", [add_to_the_app, add_a_router, add_a_router_in_a_router, add_a_mount, add_a_websocket])
def test_an_application_with_a_route_without_authorization_does_not_start(
    add: Callable[[FastAPI], None], mode: str, authorize: Authorize
) -> None:
    with pytest.raises(TypeError, match=r"^/test/forgotten declares no authorization: add dependencies="):
        authorize(mode, add, auth_public=True)


def test_authorization_may_be_declared_by_a_route_a_router_an_inclusion_or_a_dependency(authorize: Authorize) -> None:
    declared = requires_scopes("probes:read")

    async def nested(_caller: Annotated[Any, declared]) -> None: ...

    async def route() -> None: ...

    def add(app: FastAPI) -> None:
        app.get("/test/route", dependencies=[declared])(route)
        for path, of_router, of_inclusion, of_route in [
            ("/test/router", [declared], [], []),
            ("/test/inclusion", [], [declared], []),
            ("/test/nested", [], [], [Depends(nested)]),
        ]:
            router = APIRouter(dependencies=of_router)
            router.get(path, dependencies=of_route)(route)
            app.include_router(router, dependencies=of_inclusion)

    authorize("jwt", add)
    for path in ("/test/route", "/test/router", "/test/inclusion", "/test/nested"):
        request = Request("GET", path)
        for scope, status in [("probes:read", 200), ("probes:write", 403), ("", 403)]:
            assert send(authorized("jwt", "HTTP API 2.0", request, scope)).status == status
        assert send(http_api_2(request)).status == 401


# The authorizer context.


@pytest.mark.parametrize(("mode", "source"), MODES_AND_SOURCES)
def test_a_request_with_an_authorizer_context_succeeds(mode: str, source: str, authorize: Authorize) -> None:
    authorize(mode)
    made = send(authorized(mode, source, Request("POST", "/probes/", headers=[JSON], body=LAMP)))
    assert (made.status, send(authorized(mode, source, LISTED)).status) == (201, 200)


@pytest.mark.parametrize("source", EVENT_SOURCES)
@pytest.mark.parametrize(("mode", "challenge"), [("jwt", BEARER), ("iam", SIGV4)])
def test_a_request_without_an_authorizer_context_is_401(
    mode: str, challenge: str, source: str, authorize: Authorize
) -> None:
    authorize(mode)
    for route in ROUTES:
        assert_refused(send(EVENT_SOURCES[source](request_of(route))), 401, challenge)


@pytest.mark.parametrize("mode", ["jwt", "iam"])
def test_a_401_does_not_depend_on_the_routes(mode: str, authorize: Authorize) -> None:
    authorize(mode)
    create_one = authorized(mode, "HTTP API 2.0", Request("POST", "/probes/", headers=[JSON], body=LAMP))
    assert send(create_one).status == 201
    methods = ("GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE", "TRACE", "PROPFIND")
    paths = (
        "/probes/",
        probe_path(1),
        probe_path(99),
        "/probes/0",
        "/nothing",
        "/",
        "/health/ready",
        "/docs",
        "/PROBES/",
    )
    responses = [send(http_api_2(Request(method, path))) for method in methods for path in paths]
    assert {response.body for response in responses} == {responses[0].body, b""}  # HEAD has none
    assert all(response.headers == responses[0].headers and response.status == 401 for response in responses)


def test_an_authenticated_request_gets_404_and_405(authorize: Authorize) -> None:
    authorize("jwt")
    for method, path, status in [("GET", "/nothing", 404), ("TRACE", "/probes/", 405), ("OPTIONS", "/probes/", 204)]:
        assert send(authorized("jwt", "HTTP API 2.0", Request(method, path), scope="")).status == status


def test_an_authorizer_context_of_another_mode_is_ignored(authorize: Authorize) -> None:
    for mode, other in (("jwt", "iam"), ("iam", "jwt")):
        authorize(mode)
        for source in AUTHORIZER_CONTEXTS[other]:
            assert send(authorized(other, source, LISTED)).status == 401


CLAIMS = {"sub": "ann", "scope": "probes:read probes:write"}
FORGED: dict[str, Callable[[dict[str, Any]], Any]] = {
    "claims in the place of another payload": lambda context: context | {"authorizer": {"claims": CLAIMS}},
    "a Lambda authorizer's context": lambda context: context | {"authorizer": {"lambda": {"jwt": {"claims": CLAIMS}}}},
    "claims that are text": lambda context: context | {"authorizer": {"jwt": {"claims": json.dumps(CLAIMS)}}},
    "claims that are a list": lambda context: context | {"authorizer": {"jwt": {"claims": [CLAIMS]}}},
    "no claims": lambda context: context | {"authorizer": {"jwt": {"claims": {}}}},
    "claims that are null": lambda context: context | {"authorizer": {"jwt": {"claims": None}}},
    "a load balancer's event": lambda context: context | {"elb": {}, "authorizer": {"jwt": {"claims": CLAIMS}}},
    "an authorizer that is text": lambda context: context | {"authorizer": "jwt"},
    "an authorizer that is null": lambda context: context | {"authorizer": None},
    "a function URL": lambda context: (
        context | {"domainName": "a.lambda-url.eu-central-1.on.aws", "authorizer": {"jwt": {"claims": CLAIMS}}}
    ),
    "an ARN in the place of another payload": lambda context: context | {"identity": {"userArn": ARN}},
    "an empty ARN": lambda context: context | {"authorizer": {"iam": {"userArn": ""}}},
    "an ARN that is null": lambda context: context | {"authorizer": {"iam": {"userArn": None, "accountId": "1"}}},
    "an ARN that is an object": lambda context: context | {"authorizer": {"iam": {"userArn": {"a": 1}}}},
    "an iam that is null": lambda context: context | {"authorizer": {"iam": None}},
}


@pytest.mark.parametrize("mode", ["jwt", "iam"])
@pytest.mark.parametrize("name", FORGED)
def test_a_malformed_authorizer_context_is_ignored(name: str, mode: str, authorize: Authorize) -> None:
    authorize(mode)
    event = http_api_2(LISTED)
    event["requestContext"] = FORGED[name](event["requestContext"])
    if "elb" in event["requestContext"]:
        event |= {"httpMethod": "GET", "path": "/probes/"}
    assert send(event).status == 401


@pytest.mark.parametrize("mode", ["jwt", "iam"])
def test_an_authorizer_context_of_payload_2_is_ignored_in_payload_1(mode: str, authorize: Authorize) -> None:
    authorize(mode)
    for source in ("HTTP API 1.0", "REST API"):
        event = EVENT_SOURCES[source](LISTED)
        AUTHORIZER_CONTEXTS[mode]["HTTP API 2.0"](event, CLAIMS)
        assert send(event).status == 401


@pytest.mark.parametrize("source", EVENT_SOURCES)
@pytest.mark.parametrize("mode", ["jwt", "iam"])
def test_headers_and_bodies_are_no_authorizer_context(mode: str, source: str, authorize: Authorize) -> None:
    authorize(mode)
    forged = json.dumps({"authorizer": {"jwt": {"claims": CLAIMS}, "claims": CLAIMS, "iam": {"userArn": ARN}}})
    headers = [
        ("authorization", "Bearer eyJhbGciOiJub25lIn0.eyJzY29wZSI6Iml0ZW1zOnJlYWQifQ."),
        ("x-amzn-oidc-data", "eyJ.eyJ.c2ln"),
        ("x-amzn-oidc-identity", "ann"),
        ("x-amzn-request-context", forged),
        ("x-amzn-lambda-context", forged),
        ("requestcontext", forged),
        ("authorizer", forged),
        ("scope", "probes:read probes:write"),
        ("cookie", "authorizer=jwt; scope=probes:read"),
        JSON,
    ]
    forging = Request("GET", "/probes/", "scope=probes:read&authorizer[jwt]=1", headers, forged.encode())
    assert send(EVENT_SOURCES[source](forging)).status == 401


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4) | st.sampled_from(["probes:read", ARN]),
    lambda values: (
        st.lists(values, max_size=2)
        | st.dictionaries(
            st.sampled_from(["jwt", "claims", "iam", "userArn", "scope", "scp", "identity", "authorizer"]), values
        )
    ),
    max_leaves=8,
)


@pytest.mark.parametrize("mode", ["jwt", "iam"])
def test_any_authorizer_context_is_accepted_or_refused_without_an_error(mode: str, authorize: Authorize) -> None:
    authorize(mode)

    @limits(max_examples=300, deadline=None)
    @given(source=st.sampled_from(sorted(EVENT_SOURCES)), authorizer=ANYTHING, identity=ANYTHING)
    def try_one(source: str, authorizer: Any, identity: Any) -> None:
        event = EVENT_SOURCES[source](LISTED)
        event["requestContext"] |= {"authorizer": authorizer, "identity": identity}
        # 400: payload 1.0 has the client's address in `identity` too.
        assert send(event).status in ((200, 400, 401, 403) if source in AUTHORIZER_CONTEXTS[mode] else (400, 401))

    try_one()


def test_a_route_gets_the_caller(authorize: Authorize) -> None:
    for mode, source in MODES_AND_SOURCES:
        seen: list[Any] = []

        async def me(caller: Annotated[Caller, Security(authorizer, scopes=["probes:read"])]) -> None:
            seen.append(caller)  # noqa: B023 - it is called within the iteration

        authorize(mode, lambda app: app.get("/test/me")(me))
        assert send(authorized(mode, source, Request("GET", "/test/me"))).status == 200
        (caller,) = seen
        assert caller["sub"] == "ann" if mode == "jwt" else caller == ARN


# Scopes.


@pytest.mark.parametrize("source", AUTHORIZER_CONTEXTS["jwt"])
@pytest.mark.parametrize("route", SCOPED, ids=" ".join)
def test_a_route_accepts_only_its_own_scope(route: tuple[str, str], source: str, authorize: Authorize) -> None:
    authorize("jwt")
    needed = SCOPED[route]
    refused = send(authorized("jwt", source, request_of(route), f"openid {others(needed)}"))
    assert_refused(refused, 403, LACKING.format(needed))
    assert send(authorized("jwt", source, request_of(route), needed)).status in (200, 201, 404)


def test_head_requires_the_scopes_of_get(authorize: Authorize) -> None:
    authorize("jwt")
    responses = [
        send(authorized("jwt", "HTTP API 2.0", Request("HEAD", "/probes/"), f"probes:{s}")) for s in ("read", "write")
    ]
    assert [response.status for response in responses] == [200, 403]


@pytest.mark.parametrize("source", AUTHORIZER_CONTEXTS["iam"])
def test_a_signed_request_needs_no_scopes(source: str, authorize: Authorize) -> None:
    authorize("iam")
    for route in ROUTES:
        assert send(authorized("iam", source, request_of(route))).status in (200, 201, 204, 404)


def with_claims(source: str, claims: dict[str, Any]) -> int:
    event = EVENT_SOURCES[source](LISTED)
    AUTHORIZER_CONTEXTS["jwt"][source](event, {"sub": "ann"} | claims)
    return send(event).status


GRANTING: list[dict[str, Any]] = [
    {"scope": "probes:read"},
    {"scope": "openid probes:read profile"},
    {"scope": "[probes:read probes:write]"},  # a list, as HTTP APIs pass it
    {"scope": "[probes:read]"},
    {"scope": ["openid", "probes:read"]},  # a list, as REST APIs pass it
    {"scp": "probes:write probes:read"},
    {"scp": "[probes:write probes:read]"},
    {"scp": ["probes:read"]},
    {"scope": "probes:read", "scp": "other"},
]
NOT_GRANTING: list[dict[str, Any]] = [
    {},
    {"scope": ""},
    {"scope": None},
    {"scope": 7},
    {"scope": {"probes:read": True}},
    {"scope": "probes:readonly"},
    {"scope": "xprobes:read"},
    {"scope": "probes:reader probes:rea probes"},
    {"scope": "probes:read:all"},
    {"scope": "PROBES:READ"},
    {"scope": "probes:read,probes:write"},
    {"scope": "openid\tprobes:read"},
    {"scope": "openid\u00a0probes:read"},
    {"scope": "probes:read\n"},
    {"scope": "[probes:readonly]"},
    {"scope": "[[probes:read]]"},
    {"scope": "[probes:read"},
    {"scope": '["probes:read"]'},
    {"scope": ["probes:read probes:write"]},
    {"scope": [["probes:read"]]},
    {"scope": "other", "scp": "probes:read"},
    {"permissions": "[probes:read]"},
    {"scopes": "probes:read"},
    {"cognito:groups": "[probes:read]"},
]


@pytest.mark.parametrize("source", AUTHORIZER_CONTEXTS["jwt"])
@pytest.mark.parametrize("claims", GRANTING, ids=str)
def test_a_token_with_the_scope_is_accepted(claims: dict[str, Any], source: str, authorize: Authorize) -> None:
    authorize("jwt")
    assert with_claims(source, claims) == 200


@pytest.mark.parametrize("source", AUTHORIZER_CONTEXTS["jwt"])
@pytest.mark.parametrize("claims", NOT_GRANTING, ids=str)
def test_a_similar_scope_is_refused(claims: dict[str, Any], source: str, authorize: Authorize) -> None:
    authorize("jwt")
    assert with_claims(source, claims) == 403


def test_a_route_with_two_scopes_requires_both(authorize: Authorize) -> None:
    def add(app: FastAPI) -> None:
        @app.get("/test/both", dependencies=[requires_scopes("a", "b")])
        async def _both() -> None: ...

    authorize("jwt", add)
    asked = Request("GET", "/test/both")
    for scope, status in [("a", 403), ("b", 403), ("a b", 200), ("b x a", 200)]:
        response = send(authorized("jwt", "HTTP API 2.0", asked, scope))
        assert response.status == status
        assert response.headers.get("www-authenticate") == (LACKING.format("a b") if status == 403 else None)


# Checks before the route runs.


INVALID = {
    "not valid": (b'{"name": ""}', [JSON]),
    "not JSON": (b"{", [JSON]),
    "not of a type that is accepted": (b"\xff", [("content-type", "application/octet-stream")]),
    "compressed": (b"\x1f\x8b", [JSON, ("content-encoding", "gzip")]),
    "valid": (LAMP, [JSON]),
    "with a key": (LAMP, [JSON, ("idempotency-key", "a")]),
}


@pytest.mark.parametrize("name", INVALID)
def test_a_refused_request_takes_no_connection_and_its_body_is_not_parsed(
    name: str, authorize: Authorize, proxy: Proxy, checkouts: list[Any], database: Any
) -> None:
    authorize("jwt")
    body, headers = INVALID[name]
    request = Request("POST", "/probes/", "unknown=1", headers, body)
    with proxy.counting() as count:
        assert_refused(send(http_api_2(request)), 401, BEARER)
        refused = send(authorized("jwt", "HTTP API 2.0", request, "probes:read"))
        assert_refused(refused, 403, LACKING.format("probes:write"))
    assert (count.connections, count.round_trips, len(checkouts)) == (0, 0, 0)
    assert database.run("SELECT count(*) FROM probes") == [[0]]


def test_no_route_of_the_database_runs_without_the_scope(
    authorize: Authorize, proxy: Proxy, checkouts: list[Any]
) -> None:
    authorize("jwt")
    for route, needed in SCOPED.items():
        assert send(authorized("jwt", "HTTP API 2.0", request_of(route), others(needed))).status == 403
        assert send(http_api_2(request_of(route))).status == 401
    assert send(http_api_2(Request("GET", "/health/ready"))).status == 401
    assert len(checkouts) == 0
    assert send(authorized("jwt", "HTTP API 2.0", Request("GET", "/health/ready"), "")).status == 200
    with proxy.counting() as count:
        assert send(authorized("jwt", "HTTP API 2.0", LISTED)).status == 200
    assert (count.connections, count.round_trips, len(checkouts)) == (0, 1, 2)


# Public, and pages of other origins.


def test_documentation_and_liveness_are_public_with_the_setting(authorize: Authorize) -> None:
    for public, status in ((False, 401), (True, 200)):
        for mode in ("jwt", "iam"):
            authorize(mode, auth_public=public)
            for path in [*DOCUMENTATION, "/health/live"]:
                for event in (http_api_2(Request("GET", path)), rest_api(Request("HEAD", path))):
                    assert send(event).status == status
                assert send(authorized(mode, "HTTP API 2.0", Request("GET", path), "")).status == 200
            for path in (
                "/probes/",
                probe_path(1),
                "/health/ready",
                "/docs/",
                "/health/live/",
                "/health",
                "/",
                "//docs",
            ):
                assert send(http_api_2(Request("GET", path))).status == 401
            assert send(http_api_2(Request("POST", "/health/live"))).status == (405 if public else 401)


def test_public_paths_are_public_behind_a_stage_and_a_base_path(authorize: Authorize) -> None:
    authorize("jwt", auth_public=True, base_path="/shop")
    for path, status in [("/shop/health/live", 200), ("/shop/docs", 200), ("/shop/probes/", 401), ("/shop", 401)]:
        assert send(EVENT_SOURCES["REST API"](Request("GET", path))).status == status
    staged = rest_api(Request("GET", "/health/live"))
    staged["requestContext"]["domainName"] = "a1b2c3.execute-api.eu-central-1.amazonaws.com"
    assert send(staged).status == 200


def test_a_preflight_needs_no_authorizer_context_and_a_page_can_read_why_it_was_refused(authorize: Authorize) -> None:
    origin = ("origin", "https://app.example")
    authorize("jwt", cors_origins=(origin[1],))
    asked = [origin, ("access-control-request-method", "PATCH"), ("access-control-request-headers", "authorization")]
    paths = (probe_path(1), "/nothing")
    allowed = [send(http_api_2(Request("OPTIONS", path, headers=asked))) for path in paths]
    assert [response.status for response in allowed] == [204, 204]
    assert allowed[0].headers == allowed[1].headers
    for event in (
        http_api_2(Request("GET", "/probes/", headers=[origin])),
        authorized("jwt", "HTTP API 2.0", Request("GET", "/probes/", headers=[origin]), ""),
    ):
        refused = send(event)
        assert refused.status in (401, 403)
        assert refused.headers["access-control-allow-origin"] == origin[1]
        assert "WWW-Authenticate" in refused.headers["access-control-expose-headers"]


def test_without_origins_a_preflight_is_like_any_other_request(authorize: Authorize) -> None:
    authorize("jwt")
    asked = [("origin", "https://app.example"), ("access-control-request-method", "GET")]
    assert_refused(send(http_api_2(Request("OPTIONS", probe_path(1), headers=asked))), 401, BEARER)


# As it is deployed.

PROCESS = """
import json, sys
from tests.support.client import handler
for line in sys.stdin:
    print(handler(json.loads(line), None)["statusCode"], flush=True)
"""


@pytest.mark.parametrize(
    ("environment", "statuses"),
    [
        ({"AUTH_MODE": "jwt"}, [401, 401, 403, 200, 401]),
        ({"AUTH_MODE": "jwt", "AUTH_PUBLIC": "true"}, [401, 200, 403, 200, 401]),
        ({"AUTH_MODE": "iam"}, [401, 401, 401, 401, 200]),
        ({"AUTH_MODE": "none"}, [200, 200, 200, 200, 200]),
    ],
    ids=str,
)
def test_the_environment_decides_the_authorization_mode(environment: dict[str, str], statuses: list[int]) -> None:
    events = [
        http_api_2(LISTED),
        http_api_2(Request("GET", "/health/live")),
        authorized("jwt", "HTTP API 2.0", LISTED, "probes:write"),
        authorized("jwt", "HTTP API 2.0", LISTED, "probes:read"),
        authorized("iam", "HTTP API 2.0", LISTED),
    ]
    done = subprocess.run(
        [sys.executable, "-c", PROCESS],
        input="".join(json.dumps(event) + "\n" for event in events),
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert [int(line) for line in done.stdout.split()] == statuses


@pytest.mark.parametrize("mode", ["jwt", "iam"])
def test_the_events_with_an_authorizer_context_succeed_in_their_mode(mode: str, authorize: Authorize) -> None:
    authorize(mode)
    marked = [path for path in FILES if path.stem == f"authorized-{mode}"]
    assert marked
    for path in marked:
        assert send(load(path)).status == 200
