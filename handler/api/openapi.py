"""Add to FastAPI's OpenAPI document what FastAPI does not know about the contract.

FastAPI documentation, "Extending OpenAPI".
"""

from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute, iter_route_contexts

from handler.api.auth import calls_of, describe_authorization
from handler.api.conditional import describe_preconditions
from handler.api.idempotency import KEY_HEADER, claim_key
from handler.api.problems import describe_problems


def describe(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document of `app`, as this deployment enforces it. It is created once."""
    if app.openapi_schema is None:
        document = FastAPI.openapi(app)
        describe_problems(document)
        describe_authorization(document, app.state.settings)
        _describe_routes(app, document)
    assert app.openapi_schema is not None
    return app.openapi_schema


def _describe_routes(app: FastAPI, document: dict[str, Any]) -> None:
    """Add the headers that the code reads from the request, and every media type of a body that ApiRoute accepts.

    Declared headers would cost as much time per request as a dependency.
    """
    for context in iter_route_contexts(app.routes):
        if not isinstance(context.original_route, APIRoute) or not context.include_in_schema:
            continue
        media_types = getattr(context.original_route, "media_types", ())
        for method in context.methods or ():
            operation = document["paths"][context.path_format][method.lower()]
            if claim_key in calls_of(context.dependant):
                operation.setdefault("parameters", []).append(KEY_HEADER)
            if 412 in context.responses:
                describe_preconditions(operation, method, require_if_match=app.state.settings.require_if_match)
            if media_types:
                (body,) = operation["requestBody"]["content"].values()
                operation["requestBody"]["content"] = dict.fromkeys(media_types, body)
