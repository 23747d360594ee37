"""Example requests from an OpenAPI document, for the banner of `make run` and for `make seed`."""

import json
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

MISSING = object()


def creations(openapi: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The path and an example body of each POST of `openapi` with a JSON body and without parameters in its path."""
    for path, operations in openapi["paths"].items():
        content = operations.get("post", {}).get("requestBody", {}).get("content", {}).get("application/json")
        if content and "{" not in path:
            yield path, example(content | content.get("schema", {}), openapi)


def curl(openapi: Mapping[str, Any], url: str, auth_mode: str) -> str:
    """A command that sends the first POST of `openapi`, or a GET of the first path if there is no POST.

    With `jwt` it sends a token of `make token`. With `iam` it signs the request as the user `ann`.
    """
    path, body = next(creations(openapi), (next(iter(openapi["paths"])), MISSING))
    operation = openapi["paths"][path]["get" if body is MISSING else "post"]
    scopes = " ".join(scope for one in operation.get("security", ()) for scope in one.get("jwt", ()))
    options = {
        "jwt": f"""-H "Authorization: Bearer $(make -s token SCOPES='{scopes or "any"}')" """,
        "iam": "--aws-sigv4 aws:amz:local:execute-api --user ann:any ",
    }
    data = "" if body is MISSING else f" --json {shlex.quote(json.dumps(body, ensure_ascii=False))}"
    return f"curl -s {options.get(auth_mode, '')}{url}{path}{data}"


def example(schema: Mapping[str, Any], openapi: Mapping[str, Any]) -> Any:
    """An example of `schema`: the given one, or otherwise a value that meets its constraints."""
    found = _given(schema, openapi)
    return _made(_resolved(schema, openapi), openapi) if found is MISSING else found


def _given(schema: Mapping[str, Any], openapi: Mapping[str, Any]) -> Any:
    """The example, constant or default of `schema` or of the schema to which it refers; MISSING without one."""
    schema = _resolved(schema, openapi)
    examples = schema.get("examples")
    if isinstance(examples, Mapping):  # of a media type, by name
        return next(iter(examples.values()))["value"]
    if examples:
        return examples[0]
    for name in ("example", "const", "default"):
        if schema.get(name) is not None:
            return schema[name]
    if schema.get("enum"):
        return schema["enum"][0]
    found = (_given(one, openapi) for word in ("anyOf", "oneOf") for one in schema.get(word, ()))
    return next((one for one in found if one is not MISSING), MISSING)


def _made(schema: Mapping[str, Any], openapi: Mapping[str, Any]) -> Any:
    for word in ("allOf", "anyOf", "oneOf"):
        if schema.get(word):
            return example(schema[word][0], openapi)
    made: Any = None
    match schema.get("type"):
        case "object":
            required = schema.get("required", ())
            properties = schema.get("properties", {}).items()
            found = {
                name: example(one, openapi) if name in required else _given(one, openapi) for name, one in properties
            }
            made = {name: value for name, value in found.items() if value is not MISSING}
        case "array":
            made = [example(schema.get("items", {}), openapi)] * max(1, schema.get("minItems", 1))
        case "integer" | "number":
            made = schema.get("minimum", schema.get("exclusiveMinimum", 0) + 1)
        case "boolean":
            made = False
        case "string":
            made = FORMATS.get(schema.get("format", ""), "x" * max(1, schema.get("minLength", 1)))
    return made


FORMATS = {
    "date": "2026-01-31",
    "date-time": "2026-01-31T12:00:00Z",
    "email": "ann@example.com",
    "uri": "https://example.com/",
    "uuid": "6f0d8a4e-3c1b-4f5a-9d2e-7b8c9a0d1e2f",
}


def _resolved(schema: Mapping[str, Any], openapi: Mapping[str, Any]) -> Mapping[str, Any]:
    while "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        schema = {**openapi["components"]["schemas"][name], **{k: v for k, v in schema.items() if k != "$ref"}}
    return schema
