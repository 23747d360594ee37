"""The OpenAPI document describes the authorization and the preconditions that the deployment enforces."""

from importlib import import_module
from typing import Any

import pytest

from handler import resources
from tests.support.application import make_app

CHANGES = ("PATCH", "PUT", "DELETE")


@pytest.fixture
def describe() -> Any:
    """The document of a deployment with these settings."""

    def of(**values: object) -> dict[str, Any]:
        return make_app(**values).openapi()

    return of


def operations(document: dict[str, Any]) -> dict[str, Any]:
    paths = document["paths"].items()
    return {f"{method.upper()} {path}": operation for path, methods in paths for method, operation in methods.items()}


def test_without_authorization_no_operation_names_a_scheme_or_refuses_a_caller(describe: Any) -> None:
    document = describe(auth_mode="none")
    assert not document["components"].get("securitySchemes")
    assert "security" not in document
    for operation in operations(document).values():
        assert "security" not in operation
        assert operation["responses"].keys().isdisjoint(("401", "403"))


@pytest.mark.parametrize("public", [False, True])
@pytest.mark.parametrize("mode", ["jwt", "iam"])
def test_an_operation_that_is_protected_says_so_and_can_be_401(describe: Any, mode: str, public: bool) -> None:
    document = describe(auth_mode=mode, auth_public=public)
    assert list(document["components"]["securitySchemes"]) == [mode]
    for name, operation in operations(document).items():
        is_protected = not (public and name == "GET /health/live")
        assert ("security" in operation) == ("401" in operation["responses"]) == is_protected, name
        scopes = [scope for way in operation.get("security", []) for scope in way[mode]]
        assert ("403" in operation["responses"]) == bool(scopes), name


@pytest.mark.parametrize("required", [False, True])
def test_if_match_is_required_where_the_deployment_requires_it(describe: Any, required: bool) -> None:
    for name, operation in operations(describe(require_if_match=required)).items():
        if "412" in operation["responses"]:
            headers = {one["name"]: one["required"] for one in operation["parameters"] if one["in"] == "header"}
            is_required = required and name.startswith(CHANGES)
            assert headers == {"If-Match": is_required, "If-None-Match": False}, name
            assert ("428" in operation["responses"]) == is_required, name


def test_every_resource_is_a_tag_with_the_description_of_its_package(describe: Any) -> None:
    document = describe()
    described = {tag["name"]: tag["description"] for tag in document["tags"]}
    packages = {package.rpartition(".")[2]: package for package in resources.RESOURCES} | {"health": "handler.health"}
    assert described.keys() == packages.keys()
    assert {tag for operation in operations(document).values() for tag in operation["tags"]} == described.keys()
    for name, description in described.items():
        assert description == import_module(packages[name]).__doc__


def test_operations_are_named_by_their_routes_and_described(describe: Any) -> None:
    named = {name: operation["operationId"] for name, operation in operations(describe()).items()}
    assert named["POST /probes/"] == "create_probe"
    assert len(set(named.values())) == len(named)
    assert all(operation["description"] for operation in operations(describe()).values())
