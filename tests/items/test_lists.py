"""Lists: order, search, and pages that are stable while rows are inserted and deleted."""

import random
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import pytest

from handler.items.models import NAME_LENGTH
from handler.items.queries import SCAN_ROWS
from tests.items.client import create
from tests.items.cursors import items_cursor
from tests.support.client import Response, call

ORDERS = {"newest": lambda item: -item["id"], "name": lambda item: (item["name"], item["id"])}


def follow(response: Response) -> Response:
    """The next page, by the Link header."""
    target, _, relation = response.headers["link"].partition("; ")
    assert relation == 'rel="next"'
    url = urlsplit(target.strip("<>"))
    assert parse_qs(url.query)["cursor"] == [response.json["next_cursor"]]
    return call("GET", url.path, query=url.query)


def pages(query: str) -> list[Any]:
    """Every item of a list, page by page."""
    page = call("GET", "/items/", query=query)
    found = list(page.json["items"])
    while page.json["next_cursor"]:
        page = follow(page)
        assert page.status == 200
        found += page.json["items"]
    assert "link" not in page.headers
    return found


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("limit", [1, 2, 3, 7, 100])
def test_pages_give_every_item_once_in_order(order: str, limit: int) -> None:
    names = ["b", "a", "c", "a", "B", "ä", "\U0001f4a1"]
    created = [create(name) for name in names]
    assert pages(f"limit={limit}&order={order}") == sorted(created, key=ORDERS[order])


def test_newest_first_is_the_default_order() -> None:
    first, second = create("first"), create("second")
    assert call("GET", "/items/").json["items"] == [second, first]


def test_pages_are_stable_while_rows_are_inserted_and_deleted() -> None:
    items = [create(f"Item {number}") for number in range(10)]
    page = call("GET", "/items/", query="limit=5&order=name")
    assert page.json["items"] == items[:5]
    for gone in (items[2], items[4], items[7]):
        call("DELETE", f"/items/{gone['id']}")
    create("Item 0a")
    later = create("Item 6a")
    assert follow(page).json["items"] == [items[5], items[6], later, items[8], items[9]]


def test_a_page_that_ends_with_the_last_item_has_no_next_cursor() -> None:
    create()
    assert call("GET", "/items/", query="limit=1").json["next_cursor"] is None


@pytest.mark.parametrize("cursor", ["", "x", "MA", "MQ==", "LTE", "%00", "é", "Mg%3D%3D", "a" * 2000])
def test_a_cursor_of_another_format_is_400(cursor: str) -> None:
    assert call("GET", "/items/", query=f"cursor={cursor}").status == 400


def test_a_changed_cursor_and_a_cursor_of_another_list_are_400() -> None:
    for number in range(3):
        create(f"Item {number}")
    cursor = call("GET", "/items/", query="limit=1").json["next_cursor"]
    random.seed(1)
    for _ in range(50):
        position = random.randrange(len(cursor))
        changed = cursor[:position] + random.choice("abcXYZ019-_") + cursor[position + 1 :]
        if changed != cursor:
            assert call("GET", "/items/", query=f"limit=1&cursor={changed}").status == 400
    for other in ("order=name", "q=Item", "q=Item&order=name"):
        assert call("GET", "/items/", query=f"limit=1&cursor={cursor}&{other}").status == 400
    assert call("GET", "/items/", query=f"limit=2&cursor={cursor}").status == 200, "the limit may change"


@pytest.mark.parametrize("character", ["\U0001f4a1", "\x01", '"', "字", "a"])
def test_the_longest_name_has_a_next_page(character: str) -> None:
    items = [create(character * (NAME_LENGTH - 1) + "a") for _ in range(3)]  # a name is not blank
    assert pages("limit=1&order=name") == items


NO_KEYS = [
    b"[",
    b"5",
    b"null",
    b"\xff\xfe",
    b"[" * 1400,
    b"[]",
    b"[true]",
    b'["1"]',
    b"[1,2]",
    b"[1.5]",
    b"[%d]" % 10**30,
]
NO_NAMES = [rb'["\u0000",1]', rb'["\ud800",1]', b'["a",%d]' % 2**63, b'["a"]', b"[1,1]"]


@pytest.mark.parametrize(
    ("order", "data"), [*(("newest", data) for data in NO_KEYS), *(("name", data) for data in NO_NAMES)]
)
def test_a_computed_cursor_for_an_impossible_row_is_400(order: str, data: bytes) -> None:
    assert call("GET", "/items/", query=f"order={order}&cursor={items_cursor(data, order=order)}").status == 400


def test_a_computed_cursor_for_a_possible_row_starts_after_it() -> None:
    first = create()
    create()
    query = f"cursor={items_cursor(b'[2]')}"
    assert call("GET", "/items/", query=query).json["items"] == [first]


@pytest.mark.parametrize("change", ["{}!!!!", "!{}", "{}====", "{}\n", " {}", "{}~", "{}="])
def test_a_cursor_with_anything_added_is_400(change: str) -> None:
    create()
    create()
    cursor = call("GET", "/items/", query="limit=1").json["next_cursor"]
    assert call("GET", "/items/", query=f"cursor={quote(change.format(cursor))}").status == 400


BAD_QUERIES = ["limit=0", "limit=101", "limit=x", "limit=1e3", "limit=1&limit=x", "Limit=1", "page=2", "order=price"]
BAD_QUERIES += ["q=", "q=ab", "q=" + "x" * 101, "q=abc%00", "q=%20%20%20", "cursor=" + "x" * 2001]
BAD_QUERIES += [
    "limit=01",
    "limit=%2B1",
    "limit=1.0",
    "limit=1_0",
    "limit=%201",
    "limit=1%0A",
    "limit=%D9%A1",
    "limit=",
]
BAD_QUERIES += ["limit=1&limit=1", "limit=abc&limit=1", "q=abc&q=def", "order=name&order=name", "cursor=a&cursor=a"]


@pytest.mark.parametrize("query", BAD_QUERIES)
def test_a_query_outside_the_stated_limits_is_refused(query: str) -> None:
    response = call("GET", "/items/", query=query)
    assert response.status == 422
    assert response.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("query", "detail"),
    [
        ("q=ab", "Must have three letters or digits in a row"),
        ("q=" + "x" * 101, "String should have at most 100 characters"),
        ("q=abc%00", "Must not contain the NUL character"),
        ("q=abc&q=abc", "Must be given once"),
        ("limit=01", "Must be a whole number in decimal digits, without leading zeros"),
        ("order=price", "Input should be 'newest' or 'name'"),
        ("cursor=" + "x" * 2001, "String should have at most 2000 characters"),
        ("limit=0", "Input should be greater than or equal to 1"),
    ],
)
def test_an_invalid_parameter_is_reported_once_by_its_name(query: str, detail: str) -> None:
    name = query.partition("=")[0]
    assert call("GET", "/items/", query=query).json["errors"] == [{"detail": detail, "in": "query", "name": name}]


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("limt=1", [{"name": "limt"}]),
        ("limit=1&LIMIT=1", [{"name": "LIMIT"}]),
        ("sort=1&sort=2&order-by=name", [{"name": "sort"}, {"name": "order-by"}]),
        ("%3Cscript%3E=1", [{}]),
        ("a%20text=1&another%20text=2", [{}]),
        ("x" * 41 + "=1", [{}]),
    ],
)
def test_a_parameter_that_a_list_does_not_declare_is_422_and_named_where_its_name_is_plain(
    query: str, names: list[dict[str, str]]
) -> None:
    response = call("GET", "/items/", query=query)
    assert response.status == 422
    errors = [{"detail": "Extra inputs are not permitted", "in": "query"} | name for name in names]
    assert response.json["errors"] == errors


@pytest.mark.parametrize("path", ["/items/1", "/health/live", "/health/ready"])
@pytest.mark.parametrize("query", ["utm_source=x", "a=1&a=2", "limit=x"])
def test_an_undeclared_parameter_is_ignored_outside_of_lists(path: str, query: str) -> None:
    create()
    assert call("GET", path, query=query).status == 200


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("limit", [1, 100])
def test_a_search_finds_substrings_of_both_columns_in_any_case(order: str, limit: int) -> None:
    found = [create("Desk LAMP"), create("Torch", "Also a lamp"), create("lamplight"), create("Straßenlampe")]
    create("Chair", "No light")
    create("l a m p")
    assert pages(f"q=LaMp&order={order}&limit={limit}") == sorted(found, key=ORDERS[order])


@pytest.mark.parametrize("order", ORDERS)
def test_a_search_finds_rows_beyond_the_scanned_rows(order: str, database: Any) -> None:
    crowd = "INSERT INTO items (name) SELECT 'm' || g FROM generate_series(1, {}) AS g"
    before = [create("a Lamp"), create("z Lamp")]
    database.run(crowd.format(2 * SCAN_ROWS))
    amid = [create("m Lamp"), create("b Lamp")]
    database.run(crowd.format(2 * SCAN_ROWS))
    assert pages(f"q=lamp&limit=1&order={order}") == sorted(before + amid, key=ORDERS[order])
    assert pages(f"q=lamp&limit=3&order={order}") == sorted(before + amid, key=ORDERS[order])


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("between", [SCAN_ROWS - 2, SCAN_ROWS - 1, SCAN_ROWS, SCAN_ROWS + 1])
def test_a_search_finds_rows_at_the_end_of_the_scanned_rows(order: str, between: int, database: Any) -> None:
    ends = [create("a Lamp")]
    database.run(f"INSERT INTO items (name) SELECT 'm' || g FROM generate_series(1, {between}) AS g")
    ends.append(create("z Lamp"))
    assert pages(f"q=lamp&limit=3&order={order}") == sorted(ends, key=ORDERS[order])


@pytest.mark.parametrize(
    "text",
    [
        "100%",
        "abc_d",
        "abc\\d",
        "%abc%",
        "___abc",
        "\\\\abc",
        "'; --abc",
        "$100",
        "äöü",
        "\U0001f4a1abc",
        "字字字",
        "١٢٣",
    ],
)
def test_a_search_has_no_wildcards(text: str) -> None:
    found = create(f"x{text}y")
    create("xabc-d 1000 x abcd")
    assert pages(f"q={quote(text)}") == [found]


@pytest.mark.parametrize("text", ["C++", "???", "a b c", "ab-cd", "__ab", "a.b.c", "%%%", "\U0001f4a1" * 3, "   "])
def test_a_search_that_no_index_supports_is_422_with_the_reason(text: str) -> None:
    response = call("GET", "/items/", query=f"q={quote(text)}")
    assert response.status == 422
    assert response.json["errors"] == [
        {"detail": "Must have three letters or digits in a row", "in": "query", "name": "q"}
    ]


def test_a_search_ignores_case_outside_ascii() -> None:
    assert pages(f"q={quote('ÄPFEL')}") == []
    found = create("Apfel und äpfel")
    assert pages(f"q={quote('ÄPFEL')}") == [found]
