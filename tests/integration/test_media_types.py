"""Media types of bodies: JSON must be declared, a PATCH is a merge patch, 415 and OPTIONS name the accepted types."""

import gzip
import json
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Body, FastAPI

from handler.api.auth import requires_scopes
from handler.api.routing import ApiRoute
from tests.support.client import Response, call, create_probe, listed, probe_path
from tests.support.event_sources import EVENT_SOURCES, Request, send

ACCEPT = ("accept", "application/json")
ACCEPT_PATCH = ("accept-patch", "application/merge-patch+json, application/json")
WRITES = [("POST", "/probes/", ACCEPT), ("PUT", probe_path(1), ACCEPT), ("PATCH", probe_path(1), ACCEPT_PATCH)]
BODY = b'{"name": "Torch"}'

OTHER_TYPES = [
    "text/plain",
    "text/plain; charset=utf-8",
    "text/json",
    "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=x",
    "application/octet-stream",
    "application/json-patch+json",
    "application/vnd.api+json",
    "application/problem+json",
    "application/ld+json",
    "application/jsonlines",
    "application/json-seq",
    "application/xjson",
    "application",
    "application/",
    "/json",
    "json",
    "*/*",
    "application/*",
    "application/json, text/plain",
    "text/plain, application/json",
    "text/plain;application/json",
    "",
    " ",
    ";",
]
JSON_TYPES = [
    "application/json",
    "application/json; charset=utf-8",
    'application/json;charset="UTF-8"',
    "application/json ; profile=x; charset=utf-8",
    "application/json;",
    "APPLICATION/JSON",
    "Application/Json;Charset=UTF-8",
    " application/json ",
]


def assert_unsupported(response: Response, detail: str, name: str, value: str) -> None:
    assert response.status == 415
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json["title"] == "Unsupported Media Type"
    assert response.json["detail"] == detail
    assert response.headers[name] == value


def names() -> list[str]:
    return [probe["name"] for probe in listed(call("GET", "/probes/"))]


@pytest.mark.parametrize(("method", "path", "accepted"), WRITES)
@pytest.mark.parametrize("media_type", OTHER_TYPES)
def test_a_body_of_another_type_is_415_and_the_response_names_those_that_are_accepted(
    media_type: str, method: str, path: str, accepted: tuple[str, str]
) -> None:
    create_probe()
    response = call(method, path, BODY, content_type=media_type)
    types = accepted[1].replace(", ", " or ")
    assert_unsupported(response, f"The body must be {types}", *accepted)
    assert names() == ["Lamp"]


@pytest.mark.parametrize(("method", "path", "accepted"), WRITES)
def test_a_body_without_a_type_is_415(method: str, path: str, accepted: tuple[str, str]) -> None:
    create_probe()
    for source in EVENT_SOURCES.values():
        response = send(source(Request(method, path, body=BODY)))
        assert (response.status, response.headers[accepted[0]]) == (415, accepted[1])
    assert names() == ["Lamp"]


@pytest.mark.parametrize("content_type", [None, "", "text/plain", "application/json", "application/merge-patch+json"])
@pytest.mark.parametrize(("method", "path"), [(method, path) for method, path, _ in WRITES])
def test_a_missing_body_is_422_with_every_media_type(method: str, path: str, content_type: str | None) -> None:
    create_probe()
    headers = [] if content_type is None else [("content-type", content_type)]
    response = call(method, path, headers=headers)
    assert (response.status, response.json["errors"]) == (
        422,
        [{"detail": "Field required", "in": "body", "pointer": "#"}],
    )


@pytest.mark.parametrize("media_type", JSON_TYPES)
def test_json_is_accepted_with_parameters_and_in_any_case(media_type: str) -> None:
    assert call("POST", "/probes/", BODY, content_type=media_type).status == 201
    for method in ("PUT", "PATCH"):
        assert call(method, probe_path(1), BODY, content_type=media_type).status == 200


@pytest.mark.parametrize("media_type", ["application/merge-patch+json", "Application/Merge-Patch+JSON; charset=utf-8"])
def test_a_merge_patch_is_accepted_by_patch_alone(media_type: str) -> None:
    create_probe()
    assert call("PATCH", probe_path(1), BODY, content_type=media_type).json["name"] == "Torch"
    for method, path in [("POST", "/probes/"), ("PUT", probe_path(1))]:
        assert_unsupported(
            call(method, path, BODY, content_type=media_type), "The body must be application/json", *ACCEPT
        )


def test_a_json_patch_is_not_applied_as_a_merge_patch() -> None:
    create_probe()
    patch = [{"op": "replace", "path": "/name", "value": "Torch"}]
    for body in (patch, {"name": "Torch"}):
        assert call("PATCH", probe_path(1), body, content_type="application/json-patch+json").status == 415
    assert names() == ["Lamp"]


ENCODINGS = ["gzip", "GZIP", "br", "deflate", "zstd", "x-gzip", "gzip, identity", "identity, gzip", "unknown"]


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize(("method", "path"), [(method, path) for method, path, _ in WRITES])
def test_an_encoded_body_is_415_and_the_response_names_no_encoding(method: str, path: str, encoding: str) -> None:
    create_probe()
    for body in (gzip.compress(BODY), BODY):
        response = call(method, path, body, headers=[("Content-Encoding", encoding)])
        assert_unsupported(
            response, "The body must not be compressed: send it without Content-Encoding", "accept-encoding", "identity"
        )
    assert names() == ["Lamp"]


@pytest.mark.parametrize("encoding", ["identity", "Identity"])
def test_an_identity_encoding_is_accepted(encoding: str) -> None:
    assert call("POST", "/probes/", BODY, headers=[("Content-Encoding", encoding)]).status == 201


def test_a_compressed_body_without_the_header_is_400() -> None:
    assert call("POST", "/probes/", gzip.compress(BODY)).status == 400


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/probes/", {"allow": "GET, HEAD, OPTIONS, POST", **dict([ACCEPT])}),
        (probe_path(1), {"allow": "DELETE, GET, HEAD, OPTIONS, PATCH, PUT", **dict([ACCEPT, ACCEPT_PATCH])}),
        ("/health/live", {"allow": "GET, HEAD, OPTIONS"}),
        ("/docs", {"allow": "GET, HEAD, OPTIONS"}),
    ],
)
def test_options_name_the_media_types_of_bodies(path: str, headers: dict[str, str]) -> None:
    """RFC 5789, 3.1 "The Accept-Patch Header"."""
    response = call("OPTIONS", path)
    found = {name: response.headers[name] for name in ("allow", "accept", "accept-patch") if name in response.headers}
    assert (response.status, found) == (204, headers)
    refused = call("TRACE", path)
    assert (refused.status, refused.headers["allow"]) == (405, headers["allow"])
    assert not {"accept", "accept-patch"} & refused.headers.keys()


def test_a_route_that_declares_another_media_type_accepts_it(app: FastAPI) -> None:
    router = APIRouter(route_class=ApiRoute, dependencies=[requires_scopes()])

    @router.put("/test/image")
    async def _image(image: Annotated[bytes, Body(media_type="image/png")]) -> int:
        return len(image)

    app.include_router(router)
    response = call("PUT", "/test/image", b"\x89PNG", content_type="image/png")
    assert (response.status, response.json) == (200, 4)
    assert "accept" not in call("OPTIONS", "/test/image").headers


def test_the_media_types_of_a_path_are_those_of_all_its_routes(app: FastAPI) -> None:
    first, second = (APIRouter(route_class=ApiRoute, dependencies=[requires_scopes()]) for _ in range(2))

    @first.get("/{name}")
    async def _read(name: str) -> str:
        return name

    @first.post("/{name}")
    async def _create(name: str, body: dict[str, Any]) -> str:
        return name + json.dumps(body)

    @second.patch("/{name}")
    async def _change(name: str, body: dict[str, Any]) -> str:
        return name + json.dumps(body)

    app.include_router(first, prefix="/test")
    app.include_router(second, prefix="/test")
    headers = call("OPTIONS", "/test/a").headers
    assert headers["allow"] == "GET, HEAD, OPTIONS, PATCH, POST"
    assert (headers["accept"], headers["accept-patch"]) == (ACCEPT[1], ACCEPT_PATCH[1])
    assert call("PATCH", "/test/a", {}, content_type="application/merge-patch+json").status == 200
