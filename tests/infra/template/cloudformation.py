"""An evaluator of CloudFormation templates: rules, conditions and functions."""

import json
import re
import subprocess
from collections.abc import Iterator, Mapping
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[3]
SAM_PYTHON = ROOT / ".venv-sam" / "bin" / "python"
# Pseudo parameters of an account that does not exist.
PSEUDO = {
    "AWS::AccountId": "123456789012",
    "AWS::Partition": "aws",
    "AWS::Region": "eu-west-1",
    "AWS::StackName": "lambda-api-test",
    "AWS::StackId": "arn:aws:cloudformation:eu-west-1:123456789012:stack/lambda-api-test/0b1c2d3e",
}
NO_VALUE = object()
Template = dict[str, Any]
Parameters = Mapping[str, str]


class TemplateLoader(yaml.SafeLoader):
    """Reads the short forms of CloudFormation's functions as their long forms: `!Ref Api` is `{"Ref": "Api"}`."""


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


def load(path: str) -> Template:
    loaded: Template = yaml.load((ROOT / path).read_text(), TemplateLoader)  # noqa: S506 - a SafeLoader
    return loaded


def values(template: Template, given: Parameters) -> dict[str, str]:
    """The value of each parameter, given or default. Raises ValueError for a value that CloudFormation refuses."""
    declared = template["Parameters"]
    if unknown := given.keys() - declared.keys():
        raise ValueError(f"unknown: {unknown}")
    found = {name: given.get(name, parameter.get("Default")) for name, parameter in declared.items()}
    for name, value in found.items():
        allowed = [str(one) for one in declared[name].get("AllowedValues", [])]
        pattern = declared[name].get("AllowedPattern", "")
        if value is None or (allowed and str(value) not in allowed) or not re.search(pattern, str(value)):
            raise ValueError(f"{name} cannot be {value}")
    return {name: str(value) for name, value in found.items()}


def broken_rules(template: Template, given: Parameters) -> list[str]:
    """The descriptions of the assertions that do not hold for these parameters."""
    parameters = values(template, given)
    return [
        assertion["AssertDescription"]
        for rule in template["Rules"].values()
        if _holds(rule.get("RuleCondition", {"Fn::Equals": ["", ""]}), parameters, {})
        for assertion in rule["Assertions"]
        if not _holds(assertion["Assert"], parameters, {})
    ]


def expand(template: Template, cases: list[Parameters]) -> list[Template]:
    """The template as SAM expands it for each of the `cases`, with packaged code."""
    assert SAM_PYTHON.exists(), "make .venv-sam/ready installs the SAM CLI, whose translator this test runs"
    packaged = deepcopy(template)
    del packaged["Globals"]["Function"]["CodeUri"]
    for resource in packaged["Resources"].values():
        if resource["Type"] == "AWS::Serverless::Function":
            resource["Properties"]["CodeUri"] = "s3://bucket/code"
    request = json.dumps([packaged, [values(template, case) for case in cases]])
    script = Path(__file__).with_name("sam_translate.py")
    done = subprocess.run([SAM_PYTHON, script], input=request, capture_output=True, text=True, check=True)
    expanded: list[Template] = json.loads(done.stdout)
    return expanded


def evaluate(template: Template, given: Parameters) -> Template:
    """Outputs and Resources with conditions and functions evaluated. Values that only AWS knows stay: `{"Ref": "Api"}`.

    In a string they stay as `${Api}`.
    """
    parameters = values(template, given)
    conditions = template.get("Conditions", {})

    @cache
    def condition(name: str) -> bool:
        return _holds(conditions[name], parameters, Conditions())

    class Conditions(dict[str, bool]):
        def __missing__(self, name: str) -> bool:
            return condition(name)

    known = PSEUDO | parameters
    mappings = template.get("Mappings", {})
    return {
        section: {
            name: _evaluated(resource, known, Conditions(), mappings)
            for name, resource in template.get(section, {}).items()
            if "Condition" not in resource or condition(resource["Condition"])
        }
        for section in ("Resources", "Outputs")
    }


def nested(resources: Mapping[str, Any], name: str) -> Template:
    """Outputs and Resources of the nested stack `name`, as `evaluate`, with the parameters that `resources` give it.

    Parameters that are outputs of another nested stack are evaluated too.
    """

    def given(value: Any) -> str:
        match value:
            case {"Fn::GetAtt": [str(stack), str(output)]} if output.startswith("Outputs."):
                return _text(nested(resources, stack)["Outputs"][output.removeprefix("Outputs.")]["Value"])
        return _text(value)

    properties = resources[name]["Properties"]
    parameters = {key: given(value) for key, value in properties["Parameters"].items()}
    return evaluate(load(properties["TemplateURL"]), parameters)


def references(node: Any) -> Iterator[str]:
    """The names to which `node` refers: parameters, conditions, logical ids, mappings."""
    match node:
        case {"Ref": str(name)} | {"Condition": str(name)} if len(node) == 1:
            yield name
        case {"Fn::GetAtt": [name, *_]}:
            yield name
        case {"Fn::Sub": str(text)}:
            yield from _substituted(text)
        case {"Fn::Sub": [text, own]}:
            yield from (name for name in _substituted(text) if name not in own)
            yield from references(own)
        case {"Fn::If": [name, *rest]} | {"Fn::FindInMap": [name, *rest]}:
            yield name
            yield from references(rest)
        case dict():
            for key, value in node.items():
                # A resource names conditions and resources; a policy's Condition is a dictionary.
                if key in ("Condition", "DependsOn") and not isinstance(value, dict):
                    yield from [value] if isinstance(value, str) else value
                else:
                    yield from references(value)
        case list():
            yield from (name for value in node for name in references(value))


def _substituted(text: str) -> list[str]:
    return [name.split(".", 1)[0] for name in re.findall(r"\$\{([^!}]+)\}", text)]


def _holds(node: Any, parameters: Mapping[str, str], conditions: Mapping[str, bool]) -> bool:
    def text(value: Any) -> str:
        return str(_evaluated(value, parameters, conditions, {}))

    match node:
        case {"Fn::Equals": [one, other]}:
            return text(one) == text(other)
        case {"Fn::Contains": [list(several), one]}:
            return text(one) in [text(each) for each in several]
        case {"Fn::Not": [one]}:
            return not _holds(one, parameters, conditions)
        case {"Fn::And": several} if 2 <= len(several) <= 10:
            return all(_holds(one, parameters, conditions) for one in several)
        case {"Fn::Or": several} if 2 <= len(several) <= 10:
            return any(_holds(one, parameters, conditions) for one in several)
        case {"Condition": name}:
            return conditions[name]
    raise ValueError(f"CloudFormation does not accept {node}")


def _evaluated(node: Any, known: Mapping[str, str], conditions: Mapping[str, bool], mappings: Any) -> Any:  # noqa: C901, PLR0911
    def again(inner: Any) -> Any:
        return _evaluated(inner, known, conditions, mappings)

    match node:
        case {"Ref": "AWS::NoValue"}:
            return NO_VALUE
        case {"Ref": name}:
            return known.get(name, node)
        case {"Fn::If": [name, one, other]}:
            return again(one if conditions[name] else other)
        case {"Fn::FindInMap": path}:
            found = mappings
            for key in path:
                found = found[again(key)]
            return found
        case {"Fn::Sub": str(text)}:
            return _sub(text, known)
        case {"Fn::Sub": [text, own]}:
            return _sub(text, {**known, **{name: _text(again(value)) for name, value in own.items()}})
        case {"Fn::Join": [separator, parts]}:
            joined = again(parts)
            return separator.join(joined) if isinstance(joined, list) else {"Fn::Join": [separator, joined]}
        case {"Fn::Split": [separator, whole]}:
            text = again(whole)
            return text.split(separator) if isinstance(text, str) else {"Fn::Split": [separator, text]}
        case {"Fn::Select": [index, parts]}:
            several = again(parts)
            return several[int(index)] if isinstance(several, list) else {"Fn::Select": [index, several]}
        case dict():
            pairs = ((key, again(value)) for key, value in node.items())
            return {key: value for key, value in pairs if value is not NO_VALUE}
        case list():
            return [value for value in map(again, node) if value is not NO_VALUE]
    return node


def _sub(text: str, known: Mapping[str, str]) -> str:
    return re.sub(r"\$\{([^!}]+)\}", lambda found: known.get(found[1], found[0]), text)


def _text(value: Any) -> str:
    match value:
        case {"Ref": name}:
            return f"${{{name}}}"
        case {"Fn::GetAtt": path}:
            return f"${{{'.'.join(path)}}}"
        case dict():
            return re.sub(r"\W+", "-", str(value)).strip("-")
    return str(value)
