"""The class of this service's routes: `APIRouter(route_class=ApiRoute)`.

It adds to FastAPI's route what a dependency cannot do: it checks the request before the body is read, and stores the
response of a request with an Idempotency-Key before the session commits. FastAPI documentation, "Custom Request and
APIRoute class".
"""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.datastructures import QueryParams

from handler.api.auth import authorize, authorizer, required_scopes
from handler.api.idempotency import StoredResponse, store_response
from handler.api.route_table import accept_headers
from handler.database.session import discard

JSON = "application/json"
MERGE_PATCH = "application/merge-patch+json"  # RFC 7396


class _SingleValues(QueryParams):
    """Query parameters that refuse a repeated name where a route takes a single value."""

    def get(self, key: Any, default: Any = None) -> Any:
        values = self.getlist(key)
        if len(values) > 1:
            repeated = {"type": "repeated", "loc": ("query", key), "msg": "Must be given once", "input": None}
            raise RequestValidationError([repeated])
        return values[0] if values else default


class _Request(Request):
    @property
    def query_params(self) -> QueryParams:
        return _SingleValues(self.scope["query_string"])


class ApiRoute(APIRoute):
    """A route of this service."""

    repeatable = False
    stores_responses = True

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle, scopes, media_types = super().get_route_handler(), required_scopes(self), self.media_types

        async def handle_request(request: Request) -> Response:
            if scopes is not None and authorizer not in request.app.dependency_overrides:
                authorize(request, scopes)
            if media_types:
                _check_media_type(request, media_types)
            if b"&" in request.scope["query_string"]:
                request = _Request(request.scope, request.receive)
            try:
                response = await handle(request)
            except StoredResponse as stored:
                return stored.response
            except BaseException:
                discard(request)
                raise
            if response.status_code >= 400:
                discard(request)
            else:
                store_response(request, response)
            return response

        return handle_request

    @property
    def media_types(self) -> tuple[str, ...]:
        """The accepted media types of the request's body; empty where the route takes no JSON."""
        if getattr(getattr(self.body_field, "field_info", None), "media_type", None) != JSON:
            return ()
        return (MERGE_PATCH, JSON) if "PATCH" in (self.methods or ()) else (JSON,)


class RepeatableRoute(ApiRoute):
    """A route whose only effects are in its session: `APIRouter(route_class=RepeatableRoute)`.

    When such a request loses a race (SQLSTATE 40001, serialization failure, or 40P01, deadlock), the adapter runs it
    again. No response has been sent yet. A route that sends a message or calls another service would repeat that
    effect, so it must be an ApiRoute.
    """

    repeatable = True


def _check_media_type(request: Request, accepted: tuple[str, ...]) -> None:
    """Raises HTTPException 415 for a body of another type, with the header that names the accepted types.

    RFC 9110, 15.5.16; RFC 5789, 2.2.
    """
    headers = request.headers
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise HTTPException(
            415, "The body must not be compressed: send it without Content-Encoding", {"Accept-Encoding": "identity"}
        )
    media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type not in accepted and request.scope.get("body_size", 1):
        raise HTTPException(415, f"The body must be {' or '.join(accepted)}", accept_headers(accepted))
