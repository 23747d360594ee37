"""The template, the handler, the pinned packages and the files of events/ agree."""

import json
import re
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from local.events import FUNCTION_TIMEOUT, Context, http_event
from tests.infra.template.cloudformation import load as load_template
from tests.support.client import invoke
from tests.support.event_files import ROUTE_FILES, expected_status, load, load_after_storing, name_of

ROOT = Path(__file__).parents[2]
FUNCTIONS = ("ApiFunction", "MigrationFunction")


@pytest.fixture(scope="module")
def template() -> Any:
    return load_template("template.yaml")


@pytest.fixture(scope="module")
def function(template: Any) -> Any:
    return template["Globals"]["Function"] | template["Resources"]["ApiFunction"]["Properties"]


@pytest.fixture(params=ROUTE_FILES, ids=name_of)
def event(request: pytest.FixtureRequest) -> Any:
    return load(request.param)


@pytest.mark.parametrize("logical_id", FUNCTIONS)
def test_the_handler_of_the_template_is_a_function_of_the_artifact(template: Any, logical_id: str) -> None:
    name, _, attribute = template["Resources"][logical_id]["Properties"]["Handler"].rpartition(".")
    module = import_module(name)
    assert callable(getattr(module, attribute))
    assert Path(module.__file__ or "").is_relative_to(ROOT / "handler")


def test_pins_are_the_same_on_every_machine() -> None:
    # pip evaluates a marker for the machine that builds, not for the target platform.
    pins = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if "==" in line]
    assert pins
    assert not [pin for pin in pins if ";" in pin]


def test_the_local_context_is_that_of_the_function(function: Any) -> None:
    assert function["Timeout"] == FUNCTION_TIMEOUT
    assert function["MemorySize"] == Context().memory_limit_in_mb


def test_every_route_has_an_event() -> None:
    paths = json.loads((ROOT / "docs" / "openapi.json").read_text())["paths"]
    routes = {(method.upper(), path) for path, methods in paths.items() for method in methods}
    events = [load(path)["requestContext"]["http"] for path in ROUTE_FILES]
    assert {route_of(http["method"], http["path"], routes) for http in events} == routes


def route_of(method: str, path: str, routes: set[tuple[str, str]]) -> tuple[str, str]:
    """The route of a request, whose path has values for the parameters; the request itself if no route matches."""
    found = [
        route for route in routes if route[0] == method and re.fullmatch(re.sub(r"{\w+}", "[^/]+", route[1]), path)
    ]
    return min(found, key=lambda route: route[1].count("{"), default=(method, path))


def test_the_local_gateway_sends_what_api_gateway_sends(event: Any) -> None:
    http = event["requestContext"]["http"]
    body = event.get("body", "").encode()
    local = http_event(http["method"], event["rawPath"], event["rawQueryString"], event["headers"].items(), body)
    assert event["headers"]["content-length"] == str(len(body))
    assert local["requestContext"].keys() == event["requestContext"].keys()
    assert local["requestContext"]["http"] | {"sourceIp": http["sourceIp"]} == http
    assert local | {"requestContext": event["requestContext"]} == event


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize("path", ROUTE_FILES, ids=name_of)
def test_every_event_succeeds(path: Path) -> None:
    event = load_after_storing(path)
    response = invoke(event)
    assert response.status == expected_status(event), response.body
