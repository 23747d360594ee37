"""Stored items for the tests of items."""

from typing import Any

from tests.support.client import call


def create(name: str = "Lamp", description: str | None = None) -> Any:
    """A stored item, as the API returns it."""
    response = call("POST", "/items/", {"name": name, "description": description})
    assert response.status == 201, response.body
    return response.json
