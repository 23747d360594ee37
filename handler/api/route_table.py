"""The routes of an application as a table: path templates, and the methods and media types of a path."""

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.routing import iter_route_contexts
from starlette.routing import Match

METHODS = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")


def path_templates(app: FastAPI) -> dict[Callable[..., Any] | None, str | None]:
    """The path template of each endpoint, with the prefixes of include_router(), which are not in the route itself."""
    return {context.endpoint: context.path for context in iter_route_contexts(app.routes)}


def accept_headers(media_types: tuple[str, ...]) -> dict[str, str]:
    """The header that names the media types of a body (RFC 9110, 12.5.1 "Accept"; RFC 5789, 3.1 "Accept-Patch")."""
    name = "Accept-Patch" if "application/merge-patch+json" in media_types else "Accept"
    return {name: ", ".join(media_types)} if media_types else {}


def allow_headers(request: Request) -> dict[str, str]:
    """The Allow header with every method of the request's path, and for OPTIONS the media types of their bodies.

    The framework's own Allow header has only the methods of the first matching route (RFC 9110, 10.2.1 "Allow";
    RFC 5789, 3.1; RFC 9110, 12.5.1).
    """
    methods = {"OPTIONS"}
    media_types: dict[str, str] = {}
    for context in iter_route_contexts(request.app.routes):
        if context.matches(request.scope)[0] != Match.NONE:
            methods |= context.methods or set()
            media_types |= accept_headers(getattr(context.original_route, "media_types", ()))
    methods |= {"HEAD"} if "GET" in methods else set()
    allow = {"Allow": ", ".join(sorted(methods))}
    return allow | media_types if request.method == "OPTIONS" else allow
