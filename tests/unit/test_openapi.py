"""The contract is committed: a change to it is seen in review."""

import json
from typing import Any

from local.openapi import PATH, document

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


def is_told(about: Any) -> bool:
    """Whether a reader learns what it is: here, by its default, in one of its kinds, or in the schema that it names."""
    if about.get("default") is not None or not about.keys().isdisjoint(("examples", "description", "$ref")):
        return True
    return any(is_told(kind) for kind in [*about.get("anyOf", []), *([about["items"]] if "items" in about else [])])


def test_every_field_and_parameter_has_an_example_or_a_description() -> None:
    for name, schema in json.loads(document())["components"]["schemas"].items():
        for field, about in schema["properties"].items():
            assert is_told(about), (name, field)
    for operation in operations():
        for parameter in operation.get("parameters", []):
            assert is_told(parameter["schema"]), parameter
