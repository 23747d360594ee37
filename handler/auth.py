"""Who may call: what an authorizer has left in the event, and the scope that each route names.

The gateway asks first, this a second time: a route that the gateway leaves open by mistake stays shut. Only what the
gateway writes counts, `requestContext`, and no header: a client writes those. Whether a token is genuine and has not
expired is the gateway's to say, and it says so for each request. Whoever may invoke the function itself
(lambda:InvokeFunction) writes the whole event.

- `jwt`: the claims of a JWT authorizer, or of a REST API's Cognito one, and in them the route's scope. Function URLs
  have no such authorizer.
- `iam`: the ARN of whoever signed the request (SigV4). IAM has no scopes: the caller's policy is the gate, with
  execute-api:Invoke on method and path, or lambda:InvokeFunctionUrl on the whole. So the ARN suffices.
- `none`: everybody, for everything.

A load balancer leaves no mark of either kind: its x-amzn-oidc-* are headers, whose signature nobody here checks.
"""

import hashlib
import json
from collections.abc import Callable, Collection, Coroutine, Mapping
from typing import Any

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute, iter_route_contexts
from mangum.types import ASGI, Receive, Scope, Send

from handler.errors import PROBLEM_JSON, problem
from handler.events import FUNCTION_URL, HTTP_API_1, HTTP_API_2, REST_API, Event, Kind, kind_of
from handler.settings import settings

# Where each kind of event has what an authorizer says: API Gateway developer guide, "Create AWS Lambda proxy
# integrations for HTTP APIs", "Pass JWT claims to your integration" and "Control access to HTTP APIs with IAM
# authorization"; Lambda developer guide, "Invoking Lambda function URLs". Without an authorizer it is null or absent.
_JWT_1 = ("requestContext", "authorizer", "claims")
_IAM_1, _IAM_2 = ("requestContext", "identity", "userArn"), ("requestContext", "authorizer", "iam", "userArn")
MARKS: dict[str, dict[Kind, tuple[str, ...]]] = {
    "jwt": {HTTP_API_2: ("requestContext", "authorizer", "jwt", "claims"), HTTP_API_1: _JWT_1, REST_API: _JWT_1},
    "iam": {HTTP_API_2: _IAM_2, FUNCTION_URL: _IAM_2, HTTP_API_1: _IAM_1, REST_API: _IAM_1},
}
MARK_TYPES: dict[str, type[Any]] = {"jwt": dict, "iam": str}
# RFC 9110, 11.6.1: a 401 says how to ask. RFC 6750, 3: a Bearer challenge has a parameter.
CHALLENGES = {"jwt": 'Bearer realm="api"', "iam": "AWS4-HMAC-SHA256"}
SCHEME = {
    "type": "http",
    "scheme": "bearer",
    "bearerFormat": "JWT",
    "description": "An access token of the issuer that the deployment trusts, with the scope that the operation names. "
    "Where the deployment has AUTH_MODE=iam, an AWS signature (SigV4) in its place, and the caller's IAM policy.",
}


def needs(*scopes: str) -> dict[str, Any]:
    """For `openapi_extra=` of a route: its callers have all of these, and are let in by an authorizer if it is none."""
    return {"security": [{"jwt": list(scopes)}]}


# Everybody may call it where the deployment says AUTH_PUBLIC=true. Its path has no parameters.
PUBLIC: dict[str, Any] = {"security": [{}, {"jwt": []}]}


class GuardedRoute(APIRoute):
    """A route that asks for its scopes before it reads the body or takes a connection. Without any named, it is shut.

    Not a dependency: those run after the body was read, and cost more.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle, needed = super().get_route_handler(), _scopes_of(self)
        if needed == []:
            return handle

        async def ask_first(request: Request) -> Response:
            mode = settings().auth_mode
            if needed is None and mode != "none":
                raise HTTPException(403, "The route names no scope, so nobody may call it")
            if needed and mode == "jwt":
                granted = _granted(request.scope["caller"])
                if not all(scope in granted for scope in needed):
                    lacking = f'{CHALLENGES["jwt"]}, error="insufficient_scope", scope="{" ".join(needed)}"'
                    raise HTTPException(403, f"This needs the scope {' '.join(needed)}", {"WWW-Authenticate": lacking})
            return await handle(request)

        return ask_first


def with_guard(app: FastAPI) -> ASGI:
    """`app` for callers whom an authorizer let in; others get 401 whatever they ask for, and learn of no route.

    A route finds in `request.scope["caller"]` who calls: the token's claims, the signer's ARN, or None.
    Raises TypeError when a route of `app` would ask nobody.
    """
    public, mode = _public_paths(app), settings().auth_mode
    if mode == "none":
        return app
    if not settings().auth_public:
        public = frozenset()

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        scope["caller"] = _mark(mode, scope["aws.event"])
        if scope["caller"] is None and scope["path"].removeprefix(scope["root_path"]) not in public:
            members = problem(401, "No authorizer has let this request in", scope["request_id"])
            answer = JSONResponse(members, 401, {"WWW-Authenticate": CHALLENGES[mode]}, PROBLEM_JSON)
            await answer(scope, receive, send)
        else:
            await app(scope, receive, send)

    return guarded


def caller(request: Request) -> str:
    """A digest that is the caller's alone: of the token's subject and client, or of the signer's ARN.

    Raises HTTPException 400 when the token names neither.
    """
    mark = request.scope.get("caller")
    who = [mark.get("sub"), mark.get("client_id")] if isinstance(mark, Mapping) else [mark, None]
    if isinstance(mark, Mapping) and not any(who):
        raise HTTPException(400, "The token has neither sub nor client_id, so it cannot be told whose request this is")
    return hashlib.sha256(json.dumps(who).encode()).hexdigest()


def describe_authorization(openapi: dict[str, Any]) -> None:
    """Add what `needs` refers to."""
    openapi["components"]["securitySchemes"] = {"jwt": SCHEME}


def _mark(mode: str, event: Event) -> Mapping[str, Any] | str | None:
    kind = kind_of(event)
    place = MARKS[mode].get(kind) if kind else None
    if place is None:
        return None
    found: Any = event
    for part in place:
        found = found.get(part) if isinstance(found, dict) else None
    return found if found and isinstance(found, MARK_TYPES[mode]) else None


def _granted(claims: Mapping[str, Any]) -> Collection[Any]:
    """The scopes in a token, from the claims that JWT authorizers look at: `scope`, or else `scp`.

    A string has spaces between them (RFC 6749, 3.3). A list is "[a b]" from an HTTP API and a list from a REST API.
    """
    found = claims["scope"] if "scope" in claims else claims.get("scp")
    if isinstance(found, str):
        return (found[1:-1] if found.startswith("[") and found.endswith("]") else found).split(" ")
    return found if isinstance(found, list) else ()


def _scopes_of(route: APIRoute) -> list[str] | None:
    """The scopes that a route names; None when it says nothing of its callers."""
    security = (route.openapi_extra or {}).get("security")
    return None if security is None else [scope for one in security for scopes in one.values() for scope in scopes]


def _public_paths(app: FastAPI) -> frozenset[str]:
    documentation = {app.openapi_url, app.docs_url, app.redoc_url, app.swagger_ui_oauth2_redirect_url}
    public = set()
    for context in iter_route_contexts(app.routes):
        route = context.original_route
        if isinstance(route, GuardedRoute):
            if {} in (route.openapi_extra or {}).get("security", ()):
                public.add(context.path)
        elif context.path in documentation:
            public.add(context.path)
        else:
            raise TypeError(f"{context.path} would ask nobody who calls: its router needs route_class=GuardedRoute")
    return frozenset(path for path in public if path)
