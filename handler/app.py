"""The application: routers, error answers, documentation."""

from functools import partial
from typing import Any

from fastapi import FastAPI

from handler import health
from handler.errors import add_error_handlers, describe_problems, problems
from handler.items import routes as items

DESCRIPTION = "Items in PostgreSQL. Every error is `application/problem+json` (RFC 9457)."


def create_app() -> FastAPI:
    app = FastAPI(
        title="Items",
        version="0.1.0",
        description=DESCRIPTION,
        redirect_slashes=False,  # a redirect costs the client a second invocation
        responses=problems(500),
    )
    app.include_router(items.router)  # first: routes are tried in this order
    app.include_router(health.router)
    add_error_handlers(app)
    app.openapi = partial(_openapi, app)  # type: ignore[method-assign] # the way that FastAPI documents
    return app


def _openapi(app: FastAPI) -> dict[str, Any]:
    if app.openapi_schema is None:
        describe_problems(FastAPI.openapi(app))
    assert app.openapi_schema is not None
    return app.openapi_schema
