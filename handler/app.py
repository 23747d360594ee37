"""The application: routers, error answers, documentation."""

from functools import partial
from types import MappingProxyType
from typing import Any

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from mangum.types import ASGI, Receive, Scope, Send

from handler import health
from handler.auth import GuardedRoute, describe_authorization
from handler.docs_pages import replace_docs_pages
from handler.errors import METHODS, add_error_handlers, describe_problems, too_large
from handler.items import routes as items
from handler.settings import settings

# Above the longest valid body: 10,200 characters, each of them twelve bytes as an escaped surrogate pair.
MAX_BODY = 256 * 1024
# What a page of another origin may send beside what every page may, and what it may read of an answer.
CORS_REQUEST_HEADERS = ("Authorization", "Idempotency-Key", "If-Match", "If-None-Match")
CORS_ANSWER_HEADERS = ("ETag", "Link", "Location", "Retry-After", "WWW-Authenticate", "X-Request-Id")
DESCRIPTION = "Items in PostgreSQL. Every error is `application/problem+json` (RFC 9457)."


def create_app() -> FastAPI:
    app = FastAPI(
        title="Items",
        version="0.1.0",
        description=DESCRIPTION,
        # Nothing exports it; asked for in every request, it costs 2 % of a GET (docs/adr/0020).
        telemetry={"tracing": False, "metrics": False, "logs": False},
        redirect_slashes=False,  # a redirect costs the client a second invocation
        # Not by include_router(), which matches a request twice, behind the documentation (docs/adr/0020).
        routes=[*items.router.routes, *health.router.routes],
    )
    app.router.route_class = GuardedRoute
    app.dependency_overrides = MappingProxyType({})  # type: ignore[assignment] # such routes would not look at it
    add_error_handlers(app)
    replace_docs_pages(app)
    app.openapi = partial(_openapi, app)  # type: ignore[method-assign] # the way that FastAPI documents
    return app


def _openapi(app: FastAPI) -> dict[str, Any]:
    if app.openapi_schema is None:
        describe_problems(FastAPI.openapi(app))
        describe_authorization(FastAPI.openapi(app))
    assert app.openapi_schema is not None
    return app.openapi_schema


def with_limit(app: ASGI) -> ASGI:
    """`app` for bodies up to MAX_BODY; a larger one is 413."""

    async def limited(scope: Scope, receive: Receive, send: Send) -> None:
        answer = too_large(scope["request_id"], MAX_BODY) if scope["body_size"] > MAX_BODY else app
        await answer(scope, receive, send)

    return limited


def with_cors(app: ASGI) -> ASGI:
    """`app` for pages of the origins in CORS_ORIGINS. Around all of it, so that they can read a 500 too."""
    origins = settings().cors_origins
    if not origins:
        return app
    return CORSMiddleware(
        app,
        allow_origins=origins,
        allow_methods=METHODS,
        allow_headers=CORS_REQUEST_HEADERS,
        expose_headers=CORS_ANSWER_HEADERS,
    )
