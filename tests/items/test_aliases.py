"""An item's path has its id in canonical decimals. Other spellings of the number are refused."""

from typing import Any

import pytest

from tests.support.event_sources import EVENT_SOURCES, Request, send

# Paths as a client sends them.
ALIASES = [
    *("/items/01", "/items/001", "/items/+1", "/items/%2B1", "/items/1.0", "/items/1.", "/items/1e0", "/items/1_0"),
    *("/items/0x1", "/items/1%20", "/items/%201", "/items/%C2%A01", "/items/1%E2%80%8B", "/items/1%C2%85"),
    *("/items/%D9%A1", "/items/%EF%BC%91", "/items/%C2%B9", "/items/%F0%9D%9F%8F", "/items/1;a=b", "/items/1,"),
    *("/items/%2531", "/items/1%2520", "/items/1%250A", "/items/1%3F", "/items/1%23", "/items/%221%22"),
    *("/items/18446744073709551617", "/items/-18446744073709551615", "/items/%7B1%7D", "/items/."),
]


@pytest.mark.parametrize("source", EVENT_SOURCES)
@pytest.mark.parametrize("path", ALIASES)
def test_an_item_has_no_other_path_than_its_id_in_canonical_decimals(path: str, source: str, database: Any) -> None:
    database.run("INSERT INTO items (name) VALUES ('unchanged')")
    for method in ("GET", "HEAD", "DELETE"):
        response = send(EVENT_SOURCES[source](Request(method, path)))
        assert response.status == 422, method
        assert b"unchanged" not in response.body
    assert database.run("SELECT name, version FROM items") == [["unchanged", 1]]
