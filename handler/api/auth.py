"""Authorization: the authorizer context of a request, and the scopes that each route requires.

The gateway authorizes a request first, and the function checks it again. So a route that the gateway leaves open by
mistake is still protected. The authorizer context is what the gateway writes into `requestContext`
(`handler/adapter/requests.py` reads it). Headers are not used, because clients write them. The gateway verifies the
signature and the expiry of a token. A principal that may invoke the function itself (lambda:InvokeFunction) can write
any event.

- `jwt`: the claims of a JWT authorizer, or of a REST API's Cognito authorizer. They must contain the route's scopes.
- `iam`: the ARN of the principal that signed the request (SigV4). IAM has no scopes: the policy of the principal allows
  execute-api:Invoke on method and path, or lambda:InvokeFunctionUrl on the whole function.
- `none`: no authorization.

The events of a load balancer have no authorizer context. Its x-amzn-oidc-* headers are not used, because their
signature is not verified here.
"""

import hashlib
import json
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from fastapi import Depends, FastAPI, HTTPException, Request, Security
from fastapi.dependencies.models import Dependant
from fastapi.openapi.models import HTTPBearer
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute, iter_route_contexts
from fastapi.security import SecurityScopes
from fastapi.security.base import SecurityBase
from mangum.types import ASGI, Receive, Scope, Send
from starlette.routing import Route

from handler.api.problems import PROBLEM_JSON, describe_responses, problem
from handler.api.settings import get_settings
from handler.settings import Settings

# A 401 names how to authenticate (RFC 9110, 11.6.1). A Bearer challenge has a parameter (RFC 6750, 3).
CHALLENGES = {"jwt": 'Bearer realm="api"', "iam": "AWS4-HMAC-SHA256"}
NO_AUTHORIZER = "The request passed no authorizer"
# API Gateway developer guide, "x-amazon-apigateway-authtype property".
SIGV4 = {
    "type": "apiKey",
    "name": "Authorization",
    "in": "header",
    "description": "An AWS signature (SigV4), and an IAM policy that allows the operation.",
    "x-amazon-apigateway-authtype": "awsSigv4",
}

# The claims of a token, or the ARN of the principal that signed the request; in mode `none` there is no caller.
Caller = Mapping[str, Any] | str | None


class Authorizer(SecurityBase):
    """The dependency for `Security(authorizer, scopes=[...])`. FastAPI describes it in OpenAPI."""

    scheme_name = "jwt"
    model = HTTPBearer(
        bearerFormat="JWT",
        description="An access token of the issuer that the deployment trusts, with the operation's scopes.",
    )

    async def __call__(self, request: Request, required: SecurityScopes) -> Caller:
        """Return the caller. Raises HTTPException 401 without a caller, 403 where a required scope is missing."""
        return authorize(request, required.scopes)


authorizer = Authorizer()


def requires_scopes(*scopes: str) -> Any:
    """For `dependencies=` of a route or router: require an authorizer context, and a token with all of `scopes`."""
    return Security(authorizer, scopes=list(scopes))


async def _allow_public(request: Request) -> None:
    if not get_settings(request).auth_public:
        authorize(request, ())


# For `dependencies=` of a route that every client may call where AUTH_PUBLIC is true. Its path has no parameters.
PUBLIC = Depends(_allow_public)


def authorize(request: Request, scopes: Collection[str]) -> Caller:
    """Return the caller of `request`. Raises HTTPException 401 or 403."""
    mode = get_settings(request).auth_mode
    caller = _caller(request.scope, mode)
    if caller is None and mode != "none":
        raise HTTPException(401, NO_AUTHORIZER, {"WWW-Authenticate": CHALLENGES[mode]})
    if isinstance(caller, Mapping):
        granted = _granted_scopes(caller)
        if not all(scope in granted for scope in scopes):
            required = " ".join(scopes)
            challenge = f'{CHALLENGES["jwt"]}, error="insufficient_scope", scope="{required}"'
            raise HTTPException(403, f"This requires the scope {required}", {"WWW-Authenticate": challenge})
    return caller


def required_scopes(route: APIRoute) -> list[str] | None:
    """The scopes that a route and its router declare in `dependencies=`; None where they declare none."""
    declared = [one for one in route.dependencies if one.dependency is authorizer]
    return [scope for one in declared for scope in getattr(one, "scopes", None) or ()] if declared else None


def caller_digest(request: Request) -> str:
    """A digest that identifies the caller: equal for all requests of a client, and different for other clients.

    It contains the issuer, subject and client of a token (RFC 9068, 2.2; OpenID Connect Core, "azp"). Of an ARN, it
    contains the user, or the role without its session, whose name differs between processes. Raises HTTPException 400
    where a token names neither subject nor client.
    """
    caller = _caller(request.scope, get_settings(request).auth_mode)
    if isinstance(caller, Mapping):
        client = caller.get("azp") or caller.get("client_id")
        if not caller.get("sub") and not client:
            raise HTTPException(400, "The token has neither sub nor client_id, so its requests belong to no caller")
        identity: list[Any] = [caller.get("iss"), caller.get("sub"), client]
    else:
        identity = [_without_session(caller or "")]
    return hashlib.sha256(json.dumps(identity).encode()).hexdigest()


def with_authorization(app: FastAPI) -> ASGI:
    """`app` behind a check before routing: without an authorizer context, every path gets 401.

    Raises TypeError when a route of `app` declares no authorization.
    """
    settings: Settings = app.state.settings
    public, mode = _public_paths(app), settings.auth_mode
    if mode == "none":
        return app
    if not settings.auth_public:
        public = frozenset()

    async def authorized(scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"].removeprefix(scope["root_path"])
        if _caller(scope, mode) is None and path not in public:
            members = problem(401, NO_AUTHORIZER, scope["request_id"])
            response = JSONResponse(members, 401, {"WWW-Authenticate": CHALLENGES[mode]}, PROBLEM_JSON)
            await response(scope, receive, send)
        else:
            await app(scope, receive, send)

    return authorized


def describe_authorization(openapi: dict[str, Any], settings: Settings) -> None:
    """Describe in an OpenAPI document the security that this deployment enforces, with its 401 and 403."""
    mode = settings.auth_mode
    operations = [one for path in openapi["paths"].values() for one in path.values()]
    components = openapi["components"]
    if mode != "jwt":
        components.pop("securitySchemes", None)
    if mode == "iam":
        components["securitySchemes"] = {"iam": SIGV4}
    for operation in operations:
        required = operation.pop("security", None)
        if mode == "none" or (required is None and settings.auth_public):
            continue
        operation["security"] = [{"iam": []}] if mode == "iam" else required or [{"jwt": []}]
        describe_responses(operation, 401)
        if any(way.get("jwt") for way in operation["security"]):
            describe_responses(operation, 403)


def _caller(scope: Mapping[str, Any], mode: str) -> Caller:
    found: Caller = scope.get("authorizer", {}).get(mode)
    return found or None


def _granted_scopes(claims: Mapping[str, Any]) -> Collection[Any]:
    """The scopes in a token, from the claims that JWT authorizers read: `scope`, or else `scp`.

    A string has spaces between them (RFC 6749, 3.3). A list is "[a b]" from an HTTP API and a list from a REST API.
    """
    found = claims["scope"] if "scope" in claims else claims.get("scp")
    if isinstance(found, str):
        return (found[1:-1] if found.startswith("[") and found.endswith("]") else found).split(" ")
    return found if isinstance(found, list) else ()


def _without_session(arn: str) -> str:
    """IAM user guide, "IAM ARNs": arn:aws:sts::ACCOUNT:assumed-role/ROLE/SESSION."""
    kind, _, name = arn.partition("/")
    return f"{kind}/{name.partition('/')[0]}" if kind.endswith(":assumed-role") else arn


def _public_paths(app: FastAPI) -> frozenset[str]:
    documentation = {app.openapi_url, app.docs_url, app.redoc_url, app.swagger_ui_oauth2_redirect_url}
    public = set()
    for context in iter_route_contexts(app.routes):
        calls = set(calls_of(context.dependant)) if isinstance(context.original_route, APIRoute) else set()
        is_page = isinstance(context.original_route, Route) and context.path in documentation
        if _allow_public in calls or is_page:
            public.add(context.path)
        elif authorizer not in calls:
            raise TypeError(
                f"{context.path} declares no authorization: add dependencies=[requires_scopes(...)] to its route or"
                " router (handler.api.auth), or PUBLIC where every client may call it"
            )
    return frozenset(path for path in public if path)


def calls_of(dependant: Dependant) -> Iterator[Callable[..., Any]]:
    """Every dependency of a route, direct or indirect."""
    for one in dependant.dependencies:
        if one.call:
            yield one.call
        yield from calls_of(one)
