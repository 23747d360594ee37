"""An item has one path and a number one spelling, in every event source: an IAM policy on the path is not passed by."""

import json
import re
from typing import Any

import pytest
from fastapi.routing import iter_route_contexts

from handler.main import app as shipped
from tests.support.client import create
from tests.support.event_kinds import AUTHORIZER_CONTEXTS, KINDS, Received, Request, authorized, send

JSON = ("content-type", "application/json")
BODY = b'{"name": "changed"}'
DECODED = ("HTTP API 2.0", "HTTP API 1.0")  # the gateway decodes the path before it authorizes, routes and invokes

# Each is refused by every event source: the status, and the path as a client sends it.
ALIASES = {
    422: [
        *("/items/01", "/items/001", "/items/+1", "/items/%2B1", "/items/1.0", "/items/1.", "/items/1e0", "/items/1_0"),
        *("/items/0x1", "/items/1%20", "/items/%201", "/items/%C2%A01", "/items/1%E2%80%8B", "/items/1%C2%85"),
        *("/items/%D9%A1", "/items/%EF%BC%91", "/items/%C2%B9", "/items/%F0%9D%9F%8F", "/items/1;a=b", "/items/1,"),
        *("/items/%2531", "/items/1%2520", "/items/1%250A", "/items/1%3F", "/items/1%23", "/items/%221%22"),
        *("/items/18446744073709551617", "/items/-18446744073709551615", "/items/%7B1%7D", "/items/."),
    ],
    404: [
        *("//items/1", "///items/1", "/items//1", "/./items/1", "/items/./1", "/x/../items/1", "/items/1/1"),
        *("/Items/1", "/ITEMS/1", "/items%20/1", "/%20items/1", "/items;a=b/1", "/items%5C1", "/items%25/1"),
        *("/items%252F1"),
    ],
    400: [
        *("/items/1%0A", "/items/1%0D", "/items/1%0D%0A", "/items/1%09", "/items/%0A1", "/items/%0A", "/items/1%00"),
        *("/items/1%7F", "/%0Aitems/1", "/items%0A/1"),
    ],
}


def request(method: str, path: str, query: str = "") -> Request:
    return Request(method, path, query, [JSON], BODY) if method in ("PUT", "PATCH") else Request(method, path, query)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("status", "path"), [(status, path) for status, paths in ALIASES.items() for path in paths])
def test_an_item_has_no_other_path_than_its_id_in_canonical_decimals(
    status: int, path: str, kind: str, database: Any
) -> None:
    create("unchanged")
    for method in ("GET", "HEAD", "PATCH", "PUT", "DELETE"):
        response = send(KINDS[kind](request(method, path)))
        assert response.status == status, method
        assert b"unchanged" not in response.body
        assert "etag" not in response.headers
    assert database.run("SELECT name, version FROM items") == [["unchanged", 1]]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("path", ["/items/1", "/items/%31", "/%69tems/1", "/%69%74%65%6D%73/%31", "/%69%74%65%6d%73/1"])
def test_an_encoded_character_is_the_character(path: str, kind: str) -> None:
    """RFC 3986, 6.2.2.2: these are the same path."""
    item = create()
    assert json.loads(send(KINDS[kind](Request("GET", path))).body) == item


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("path", ["/items%2F1", "/items%2f1"])
def test_an_encoded_slash_separates_no_segments(path: str, kind: str) -> None:
    """RFC 3986, 2.2: `/items%2F1` is another path than `/items/1`, except where the gateway has decoded it already."""
    create()
    assert send(KINDS[kind](Request("GET", path))).status == (200 if kind in DECODED else 404)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["GET", "HEAD", "PATCH", "PUT", "DELETE"])
@pytest.mark.parametrize("path", ["/items/1/", "/items/1//"])
def test_a_trailing_slash_is_a_redirect_to_the_path_without_it(
    path: str, method: str, kind: str, database: Any
) -> None:
    create("unchanged")
    response = send(KINDS[kind](request(method, path)))
    assert (response.status, response.headers["location"]) == (307, "https://api.example.com/items/1")
    assert response.body == b""
    assert database.run("SELECT name, version FROM items") == [["unchanged", 1]]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("suffix", ["%0A", "%0D%0A", "%00", "%1F", "%7F", "%09"])
def test_a_control_character_after_any_path_is_400(suffix: str, kind: str) -> None:
    create()
    for context in iter_route_contexts(shipped.routes):
        assert context.path
        path = re.sub(r"{\w+}", "1", context.path) + suffix
        for method in context.methods or ():
            assert send(KINDS[kind](request(method, path))).status == 400, (method, path)


@pytest.mark.parametrize("kind", AUTHORIZER_CONTEXTS["iam"])
def test_no_alias_passes_a_policy_on_the_path(kind: str, authorize: Any) -> None:
    create("secret")
    authorize("iam")
    assert send(authorized("iam", kind, Request("GET", "/items/1"))).status == 200
    for status, paths in ALIASES.items():
        for path in paths:
            assert send(authorized("iam", kind, Request("GET", path))).status == status, path


# Query parameters.


def listed(kind: str, query: str) -> Received:
    return send(KINDS[kind](Request("GET", "/items/", query)))


NUMBERS = ["1.0", "01", "%2B1", "1_0", "1e1", "%201", "1%20", "1%0A", "%D9%A1", "0x1", "", "-1", "0", "true", "%221%22"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("number", NUMBERS)
def test_a_number_in_the_query_is_in_canonical_decimals(number: str, kind: str) -> None:
    assert listed(kind, f"limit={number}").status == 422
    assert listed(kind, "limit=1").status == 200


REPEATED = ["limit=abc&limit=1", "limit=1&limit=1", "limit=1&order=name&limit=2", "q=abc&q=def", "q=abc&%71=def"]
REPEATED += ["order=name&order=newest", "cursor=a&cursor=b", "limit&limit=1", "limit=1&limit=", "limit=1&&limit=1"]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "ALB"])
@pytest.mark.parametrize("query", REPEATED)
def test_a_parameter_of_one_value_that_is_repeated_is_422(query: str, kind: str) -> None:
    response = listed(kind, query)
    assert response.status == 422
    (error,) = json.loads(response.body)["errors"]
    assert error["detail"] == "Must be given once"


def test_a_load_balancer_without_multi_value_headers_passes_the_last_value_only() -> None:
    """ELB user guide, "Multi-value headers": what it leaves out cannot be refused here."""
    assert listed("ALB", "limit=abc&limit=1").status == 200
    assert listed("ALB", "limit=1&limit=abc").status == 422


@pytest.mark.parametrize("kind", KINDS)
def test_a_parameter_that_is_not_declared_may_be_repeated_where_it_is_ignored(kind: str) -> None:
    create()
    assert send(KINDS[kind](Request("GET", "/items/1", "a=1&a=2"))).status == 200
