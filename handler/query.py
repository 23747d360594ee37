"""Query parameters. Those that nobody declared are refused: a client that misspells one is told.

Both are called by a route, not declared as its parameters: to look at a request for a model's fields takes FastAPI a
twentieth of a list of 50, and a dependency as long as half of an INSERT (docs/adr/0020).
"""

from typing import Any, TypeVar

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError

Model = TypeVar("Model", bound=BaseModel)


def read_query(model: type[Model], request: Request) -> Model:
    """What `model` declares, of a parameter that is repeated the last. It forbids what it does not declare."""
    try:
        return model.model_validate(dict(request.query_params))
    except ValidationError as error:
        raise RequestValidationError([{**one, "loc": ("query", *one["loc"])} for one in error.errors()]) from None


def refuse_query(request: Request) -> None:
    """For a route that takes none."""
    if request.scope["query_string"].strip(b"&"):
        unknown = {"type": "extra_forbidden", "loc": ("query", ""), "msg": "Extra inputs are not permitted"}
        raise RequestValidationError([unknown])


def describe_query(model: type[BaseModel]) -> dict[str, Any]:
    """For `openapi_extra=` of a route that reads `model`, whose fields all have defaults."""
    parameters = [
        {"name": name, "in": "query", "required": False, "schema": schema, "description": schema.get("description", "")}
        for name, schema in model.model_json_schema()["properties"].items()
    ]
    return {"parameters": parameters}
