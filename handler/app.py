"""The application: routers, middleware, error responses, documentation."""

from collections.abc import Sequence
from functools import partial

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from fastapi.routing import APIRoute
from mangum.types import ASGI, Receive, Scope, Send
from starlette.routing import Route

from handler import health, resources
from handler.api.auth import with_authorization
from handler.api.docs_pages import replace_docs_pages
from handler.api.errors import add_error_handlers
from handler.api.openapi import describe
from handler.api.problems import too_large
from handler.api.route_table import METHODS
from handler.settings import Settings

# Above the longest valid body: 10,200 characters, each of them twelve bytes as an escaped surrogate pair.
MAX_BODY_BYTES = 256 * 1024
# Headers that a page of another origin may send, and read from a response, beside those that CORS always allows.
CORS_REQUEST_HEADERS = ("Authorization", "Idempotency-Key", "If-Match", "If-None-Match")
CORS_RESPONSE_HEADERS = ("ETag", "Link", "Location", "Retry-After", "WWW-Authenticate", "X-Request-Id")
DESCRIPTION = """
Every error is `application/problem+json` (RFC 9457) with the request's id, which is also in the `X-Request-Id` header.
A list returns one page, and `next_cursor` for the page after it. A resource with a `version` returns it as its `ETag`,
for `If-Match` and `If-None-Match` of later requests.
""".strip()
# The SPDX name of the licence in the file LICENSE.
LICENSE = {"name": "MIT", "identifier": "MIT"}


def create_app(settings: Settings) -> FastAPI:
    """The application with these settings; they are in `app.state.settings`.

    `settings.database` is not used: the process has one engine (`handler/database/engine.py`).
    """
    app = FastAPI(
        title=settings.service_name,
        version="0.1.0",
        description=DESCRIPTION,
        license_info=LICENSE,
        openapi_tags=[*resources.tags(), {"name": "health", "description": health.__doc__}],
        generate_unique_id_function=_operation_id,
        # With telemetry, FastAPI looks for OpenTelemetry's providers in every request: 2 % of a GET (docs/adr/0020).
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    app.state.settings = settings
    for router in resources.routers():
        app.include_router(router)
    app.include_router(health.router)
    add_error_handlers(app)
    replace_docs_pages(app)
    # Requests are matched in the order of the routes: the documentation's come last.
    app.router.routes.sort(key=lambda route: isinstance(route, Route))
    app.openapi = partial(describe, app)  # type: ignore[method-assign] # FastAPI documents this assignment
    return app


def _operation_id(route: APIRoute) -> str:
    return route.name


def add_middleware(app: FastAPI) -> ASGI:
    """`app` behind its middleware: CORS first, then the limit of bodies, then authorization, then routing.

    FastAPI's `add_middleware` would put CORS inside the handler of unexpected exceptions, and a page of another origin
    could not read a 500. Raises TypeError when a route declares no authorization.
    """
    return _with_cors(_with_body_limit(with_authorization(app)), app.state.settings.cors_origins)


def _with_body_limit(app: ASGI) -> ASGI:
    """Respond with 413 to a body of more than MAX_BODY_BYTES."""

    async def limited(scope: Scope, receive: Receive, send: Send) -> None:
        response = too_large(scope["request_id"], MAX_BODY_BYTES) if scope["body_size"] > MAX_BODY_BYTES else app
        await response(scope, receive, send)

    return limited


def _with_cors(app: ASGI, origins: Sequence[str]) -> ASGI:
    """Allow pages of these origins to read the responses."""
    if not origins:
        return app
    return CORSMiddleware(
        app,
        allow_origins=origins,
        allow_methods=METHODS,
        allow_headers=CORS_REQUEST_HEADERS,
        expose_headers=CORS_RESPONSE_HEADERS,
    )
