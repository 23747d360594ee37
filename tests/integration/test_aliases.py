"""In every event source, an entity has one path and a number has one spelling, so no alias passes an IAM policy."""

import json
import re
from typing import Any

import pytest
from fastapi.routing import iter_route_contexts

from handler.main import app
from tests.support.client import call
from tests.support.event_sources import AUTHORIZER_CONTEXTS, EVENT_SOURCES, Received, Request, authorized, send

JSON = ("content-type", "application/json")
BODY = b'{"name": "changed"}'
DECODED = ("HTTP API 2.0", "HTTP API 1.0")  # the gateway decodes the path before it authorizes, routes and invokes

ID = "00000000-0000-4000-8000-0000000000ab"
PATH = f"/probes/{ID}"
# Paths as a client sends them, with the status of the response, for every event source.
ALIASES = {
    422: [
        *(PATH.upper().replace("PROBES", "probes"), PATH.replace("-", ""), f"/probes/urn:uuid:{ID}"),
        *(f"/probes/%7B{ID}%7D", f"/probes/%22{ID}%22", f"/probes/%20{ID}", f"{PATH}%20", f"/probes/%C2%A0{ID}"),
        *(
            f"{PATH}%E2%80%8B",
            f"{PATH}%C2%85",
            f"{PATH};a=b",
            f"{PATH},",
            f"{PATH}%3F",
            f"{PATH}%23",
            f"{PATH}0",
            PATH[:-1],
        ),
        *(PATH.replace("4", "%D9%A4"), PATH.replace("4", "%EF%BC%94"), PATH.replace("4", "%2534"), f"{PATH}%2520"),
        *(f"{PATH}%250A", PATH[:-1], "/probes/171", "/probes/."),
    ],
    404: [
        *(f"/{PATH}", f"//{PATH}", f"/probes//{ID}", f"/.{PATH}", f"/probes/./{ID}", f"/x/..{PATH}", f"{PATH}/{ID}"),
        *(f"/Probes/{ID}", f"/PROBES/{ID}", f"/probes%20/{ID}", f"/%20probes/{ID}", f"/probes;a=b/{ID}"),
        *(f"/probes%5C{ID}", f"/probes%25/{ID}", f"/probes%252F{ID}"),
    ],
    400: [
        *(f"{PATH}%0A", f"{PATH}%0D", f"{PATH}%0D%0A", f"{PATH}%09", f"/probes/%0A{ID}", "/probes/%0A", f"{PATH}%00"),
        *(f"{PATH}%7F", f"/%0Aprobes/{ID}", f"/probes%0A/{ID}"),
    ],
}


@pytest.fixture
def probe(database: Any) -> Any:
    """A probe with ID, as the API responds with it."""
    database.run(f"INSERT INTO probes (id, name) VALUES ('{ID}', 'unchanged')")
    return call("GET", PATH).json


def request(method: str, path: str, query: str = "") -> Request:
    return Request(method, path, query, [JSON], BODY) if method in ("PUT", "PATCH") else Request(method, path, query)


@pytest.mark.usefixtures("probe")
@pytest.mark.parametrize("source", EVENT_SOURCES)
@pytest.mark.parametrize(("status", "path"), [(status, path) for status, paths in ALIASES.items() for path in paths])
def test_an_entity_has_no_other_path_than_its_canonical_id(
    status: int, path: str, source: str, database: Any, probe: Any
) -> None:
    assert probe
    for method in ("GET", "HEAD", "PATCH", "PUT", "DELETE"):
        response = send(EVENT_SOURCES[source](request(method, path)))
        assert response.status == status, method
        assert b"unchanged" not in response.body
        assert "etag" not in response.headers
    assert database.run("SELECT name, version FROM probes") == [["unchanged", 1]]


@pytest.mark.parametrize("source", EVENT_SOURCES)
@pytest.mark.parametrize(
    "path",
    [PATH, PATH.replace("4", "%34"), f"/%70robes/{ID}", f"/%70%72%6F%62%65%73/{ID}", f"/%70%72%6f%62%65%73/{ID}"],
)
def test_an_encoded_character_is_decoded(path: str, source: str, probe: Any) -> None:
    """RFC 3986, 6.2.2.2: these are the same path."""
    assert json.loads(send(EVENT_SOURCES[source](Request("GET", path))).body) == probe


@pytest.mark.usefixtures("probe")
@pytest.mark.parametrize("source", EVENT_SOURCES)
@pytest.mark.parametrize("path", [f"/probes%2F{ID}", f"/probes%2f{ID}"])
def test_an_encoded_slash_separates_no_segments(path: str, source: str) -> None:
    """RFC 3986, 2.2: `/probes%2FID` differs from `/probes/ID`, unless the gateway has decoded it."""
    assert send(EVENT_SOURCES[source](Request("GET", path))).status == (200 if source in DECODED else 404)


@pytest.mark.usefixtures("probe")
@pytest.mark.parametrize("source", EVENT_SOURCES)
@pytest.mark.parametrize("method", ["GET", "HEAD", "PATCH", "PUT", "DELETE"])
@pytest.mark.parametrize("path", [f"{PATH}/", f"{PATH}//"])
def test_a_trailing_slash_is_a_redirect_to_the_path_without_it(
    path: str, method: str, source: str, database: Any
) -> None:
    response = send(EVENT_SOURCES[source](request(method, path)))
    assert (response.status, response.headers["location"]) == (307, f"https://api.example.com{PATH}")
    assert response.body == b""
    assert database.run("SELECT name, version FROM probes") == [["unchanged", 1]]


@pytest.mark.parametrize("source", EVENT_SOURCES)
@pytest.mark.parametrize("suffix", ["%0A", "%0D%0A", "%00", "%1F", "%7F", "%09"])
def test_a_control_character_after_any_path_is_400(suffix: str, source: str) -> None:
    for context in iter_route_contexts(app.routes):
        assert context.path
        path = re.sub(r"{\w+}", "1", context.path) + suffix
        for method in context.methods or ():
            assert send(EVENT_SOURCES[source](request(method, path))).status == 400, (method, path)


@pytest.mark.usefixtures("probe")
@pytest.mark.parametrize("source", AUTHORIZER_CONTEXTS["iam"])
def test_no_alias_passes_a_policy_on_the_path(source: str, authorize: Any) -> None:
    authorize("iam")
    assert send(authorized("iam", source, Request("GET", PATH))).status == 200
    for status, paths in ALIASES.items():
        for path in paths:
            assert send(authorized("iam", source, Request("GET", path))).status == status, path


# Query parameters.


def list_probes(source: str, query: str) -> Received:
    return send(EVENT_SOURCES[source](Request("GET", "/probes/", query)))


NUMBERS = ["1.0", "01", "%2B1", "1_0", "1e1", "%201", "1%20", "1%0A", "%D9%A1", "0x1", "", "-1", "0", "true", "%221%22"]


@pytest.mark.parametrize("source", EVENT_SOURCES)
@pytest.mark.parametrize("number", NUMBERS)
def test_a_number_in_the_query_is_in_canonical_decimals(number: str, source: str) -> None:
    assert list_probes(source, f"limit={number}").status == 422
    assert list_probes(source, "limit=1").status == 200


REPEATED = [
    "limit=abc&limit=1",
    "limit=1&limit=1",
    "limit=1&state=idle&limit=2",
    "state=idle&state=active",
    "state=idle&%73tate=active",
]
REPEATED += ["cursor=a&cursor=b", "limit&limit=1", "limit=1&limit=", "limit=1&&limit=1"]


@pytest.mark.parametrize("source", [source for source in EVENT_SOURCES if source != "ALB"])
@pytest.mark.parametrize("query", REPEATED)
def test_a_parameter_of_one_value_that_is_repeated_is_422(query: str, source: str) -> None:
    response = list_probes(source, query)
    assert response.status == 422
    (error,) = json.loads(response.body)["errors"]
    assert error["detail"] == "Must be given once"


def test_a_load_balancer_without_multi_value_headers_passes_the_last_value_only() -> None:
    """ELB user guide, "Multi-value headers": the handler cannot refuse values that the load balancer omits."""
    assert list_probes("ALB", "limit=abc&limit=1").status == 200
    assert list_probes("ALB", "limit=1&limit=abc").status == 422


@pytest.mark.parametrize("source", EVENT_SOURCES)
def test_a_parameter_that_is_not_declared_may_be_repeated_where_it_is_ignored(source: str) -> None:
    assert send(EVENT_SOURCES[source](Request("GET", "/health/live", "a=1&a=2"))).status == 200
