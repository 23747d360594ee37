"""The OpenAPI document of AUTH_MODE=jwt is committed, so a review shows each change of the contract."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.routing import iter_route_contexts

from local.openapi import PATH, document
from tests.support.application import make_app

pytestmark = pytest.mark.usefixtures("shipped_resources")

METHODS = {"get", "put", "post", "delete", "patch"}


def test_the_committed_schema_is_the_application_s() -> None:
    assert PATH.read_text() == document(), "the API changed: run `make openapi` and commit docs/openapi.json"


def operations() -> list[Any]:
    paths = json.loads(document())["paths"].values()
    return [operation for path in paths for method, operation in path.items() if method in METHODS]


def test_every_error_is_described_as_a_problem() -> None:
    for operation in operations():
        for status, response in operation["responses"].items():
            if int(status) >= 400:
                assert list(response["content"]) == ["application/problem+json"]


def is_described(about: Any) -> bool:
    """Whether a field or one of its types has a description, an example, a default or a reference to a schema."""
    if about.get("default") is not None or not about.keys().isdisjoint(("examples", "description", "$ref")):
        return True
    return any(
        is_described(kind) for kind in [*about.get("anyOf", []), *([about["items"]] if "items" in about else [])]
    )


def test_every_field_and_parameter_has_an_example_or_a_description() -> None:
    for name, schema in json.loads(document())["components"]["schemas"].items():
        for field, about in schema.get("properties", {}).items():  # an enum has no example
            assert is_described(about), (name, field)
    for operation in operations():
        for parameter in operation.get("parameters", []):
            assert is_described(parameter["schema"]), parameter


def test_operation_ids_are_the_names_of_the_routes() -> None:
    names = {context.name for context in iter_route_contexts(make_app().routes) if context.include_in_schema}
    assert {operation["operationId"] for operation in operations()} == names


def references(found: Any) -> Iterator[str]:
    for name, value in (
        found.items() if isinstance(found, dict) else enumerate(found) if isinstance(found, list) else ()
    ):
        if name == "$ref":
            yield value
        yield from references(value)


def test_every_reference_resolves() -> None:
    openapi = json.loads(document())
    found = {*references(openapi)}
    assert "#/components/schemas/Problem" in found
    assert found <= {f"#/components/schemas/{name}" for name in openapi["components"]["schemas"]}


def test_every_media_type_of_a_body_is_described() -> None:
    for methods in json.loads(document())["paths"].values():
        for method, operation in methods.items():
            if "requestBody" in operation:
                merge_patch = ["application/merge-patch+json"] if method == "patch" else []
                assert [*operation["requestBody"]["content"]] == [*merge_patch, "application/json"]
