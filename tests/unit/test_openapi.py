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


def test_every_field_and_parameter_has_an_example_or_a_description() -> None:
    schemas = json.loads(document())["components"]["schemas"]
    for name in ("ItemIn", "ItemPatch", "ItemOut"):
        for field, schema in schemas[name]["properties"].items():
            assert "examples" in schema or "examples" in schema.get("anyOf", [{}])[0], (name, field)
