"""What is deployed agrees with itself: the template, the handler, and the events that stand in for AWS."""

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml

from handler.settings import AUTH_MODES
from local.events import FUNCTION_TIMEOUT, Context, http_event
from tests.client import create, invoke

ROOT = Path(__file__).parents[2]
# Those that the template's API sends: payload 2.0, from its own domain and the $default stage. Each other file of the
# folder is another kind of event: tests/integration/test_event_kinds.py.
EVENTS = [
    path
    for path in sorted((ROOT / "events").glob("*.json"))
    if path.stem.partition("-")[0] in ("change", "create", "delete", "health", "list", "read", "replace")
]


class TemplateLoader(yaml.SafeLoader):
    """Reads CloudFormation's short forms as the long ones that they stand for: `!Ref Api` is `{"Ref": "Api"}`."""


def _long_form(loader: TemplateLoader, name: str, node: yaml.Node) -> dict[str, Any]:
    value: Any
    match node:
        case yaml.ScalarNode():
            value = loader.construct_scalar(node)
        case yaml.SequenceNode():
            value = loader.construct_sequence(node, deep=True)
        case yaml.MappingNode():
            value = loader.construct_mapping(node, deep=True)
        case _:
            raise TypeError(node)
    if name == "GetAtt" and isinstance(value, str):
        value = value.split(".", 1)
    return {name if name in ("Ref", "Condition") else f"Fn::{name}": value}


TemplateLoader.add_multi_constructor("!", _long_form)


@pytest.fixture(scope="module")
def template() -> Any:
    return yaml.load((ROOT / "template.yaml").read_text(), TemplateLoader)  # noqa: S506 - a SafeLoader


@pytest.fixture(scope="module")
def function(template: Any) -> Any:
    return template["Resources"]["ApiFunction"]["Properties"]


@pytest.fixture(params=EVENTS, ids=lambda path: path.stem)
def event(request: pytest.FixtureRequest) -> Any:
    return json.loads(request.param.read_text())


def test_handler_is_a_function_that_is_shipped(function: Any) -> None:
    name, _, attribute = function["Handler"].rpartition(".")
    module = import_module(name)
    assert callable(getattr(module, attribute))
    assert Path(module.__file__ or "").is_relative_to(ROOT / "handler")


def test_pins_are_the_same_on_every_machine() -> None:
    # pip evaluates a marker for the machine that builds, not for the one that it is told to build for.
    pins = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if "==" in line]
    assert pins
    assert not [pin for pin in pins if ";" in pin]


def test_the_local_context_is_that_of_the_function(function: Any) -> None:
    assert function["Timeout"] == FUNCTION_TIMEOUT
    assert function["MemorySize"] == Context().memory_limit_in_mb


def test_the_database_url_is_a_secret_without_default(template: Any, function: Any) -> None:
    parameter = template["Parameters"][function["Environment"]["Variables"]["DATABASE_URL"]["Ref"]]
    assert parameter["NoEcho"] is True
    assert "Default" not in parameter


def test_who_may_call_is_said_at_every_deployment(template: Any, function: Any) -> None:
    parameter = template["Parameters"][function["Environment"]["Variables"]["AUTH_MODE"]["Ref"]]
    assert "Default" not in parameter
    assert set(parameter["AllowedValues"]) == set(AUTH_MODES)


def test_every_route_reaches_the_function(function: Any) -> None:
    # Without Path and Method an event is the $default route; /{proxy+} would not match /.
    (source,) = function["Events"].values()
    assert source["Type"] == "HttpApi"
    assert source["Properties"] == {"ApiId": {"Ref": "Api"}, "PayloadFormatVersion": "2.0"}


def test_logs_are_json_and_end(template: Any, function: Any) -> None:
    assert function["LoggingConfig"]["LogFormat"] == "JSON"
    group = template["Resources"][function["LoggingConfig"]["LogGroup"]["Ref"]]
    assert group["Type"] == "AWS::Logs::LogGroup"
    assert group["Properties"]["RetentionInDays"] > 0


def test_every_route_has_an_event() -> None:
    paths = json.loads((ROOT / "docs" / "openapi.json").read_text())["paths"]
    routes = {(method.upper(), path.replace("{item_id}", "1")) for path, methods in paths.items() for method in methods}
    events = [json.loads(path.read_text())["requestContext"]["http"] for path in EVENTS]
    assert {(http["method"], http["path"]) for http in events} == routes


def test_the_local_gateway_sends_what_api_gateway_sends(event: Any) -> None:
    http = event["requestContext"]["http"]
    body = event.get("body", "").encode()
    local = http_event(http["method"], event["rawPath"], event["rawQueryString"], event["headers"].items(), body)
    assert event["headers"]["content-length"] == str(len(body))
    assert local["requestContext"].keys() == event["requestContext"].keys()
    assert local["requestContext"]["http"] | {"sourceIp": http["sourceIp"]} == http
    assert local | {"requestContext": event["requestContext"]} == event


@pytest.mark.usefixtures("database")
def test_every_event_succeeds(event: Any) -> None:
    create()
    response = invoke(event)
    assert response.status in (200, 201, 204), response.body
