"""Who gets through the gateway, and to what."""

import json
import re
from typing import Any

from handler.settings import AUTH_MODES
from tests.infra.template.cloudformation import ROOT, broken_rules
from tests.infra.template.conftest import DEPLOYMENTS

READ, WRITE = "items:read", "items:write"
SCOPES = {
    "GET /{proxy+}": [READ],
    "HEAD /{proxy+}": [READ],
    "POST /{proxy+}": [WRITE],
    "PUT /{proxy+}": [WRITE],
    "PATCH /{proxy+}": [WRITE],
    "DELETE /{proxy+}": [WRITE],
    "$default": [READ, WRITE],
}
SCOPELESS = {"GET /health/ready", "HEAD /health/ready"}
PUBLIC = {"GET /docs", "GET /openapi.json", "GET /health/live", "HEAD /health/live"}
PREFLIGHT = {"OPTIONS /{proxy+}"}


def routes(resources: dict[str, Any]) -> dict[str, Any]:
    found = [one["Properties"] for one in resources.values() if one["Type"] == "AWS::ApiGatewayV2::Route"]
    assert len({route["RouteKey"] for route in found}) == len(found)
    return {route["RouteKey"]: route for route in found}


def test_every_route_has_the_authorizer_but_the_public_ones(
    parameters: dict[str, str], resources: dict[str, Any]
) -> None:
    kind = {"jwt": "JWT", "iam": "AWS_IAM", "none": "NONE"}[parameters["AuthMode"]]
    is_public = parameters.get("AuthPublic") == "true"
    open_to_all = (PUBLIC if is_public else set()) | (PREFLIGHT if "CorsOrigins" in parameters else set())
    found = routes(resources)
    scopeless = SCOPELESS if kind == "JWT" else set()
    assert found.keys() == SCOPES.keys() | scopeless | open_to_all
    for key, route in found.items():
        assert route["AuthorizationType"] == ("NONE" if key in open_to_all else kind), key


def test_a_token_needs_the_scope_of_the_method(deployments: dict[str, Any]) -> None:
    found = routes(deployments["jwt"])
    for key, scopes in SCOPES.items():
        assert found[key]["AuthorizationScopes"] == scopes
        assert found[key]["AuthorizerId"] == {"Ref": "JwtAuthorizer"}


def test_readiness_needs_a_token_and_no_scope(deployments: dict[str, Any]) -> None:
    found = routes(deployments["jwt"])
    for key in SCOPELESS:
        assert found[key]["AuthorizerId"] == {"Ref": "JwtAuthorizer"}
        assert "AuthorizationScopes" not in found[key]


def test_the_gateway_lets_in_each_token_that_the_function_lets_in(deployments: dict[str, Any]) -> None:
    found = routes(deployments["jwt"])
    anywhere = found["$default"]["AuthorizationScopes"]
    for path, operations in json.loads((ROOT / "docs" / "openapi.json").read_text())["paths"].items():
        for named, operation in operations.items():
            needed = {scope for one in operation["security"] for scope in one.get("jwt", [])}
            assert needed <= set(anywhere), (named, path)
            # What answers GET answers HEAD.
            for method in ("GET", "HEAD") if named == "get" else (named.upper(),):
                route = found.get(f"{method} {path}", found[f"{method} /{{proxy+}}"])
                asked = set(route.get("AuthorizationScopes", []))
                assert needed <= asked if needed else not asked, (method, path)


def test_scopes_are_asked_of_tokens_only(parameters: dict[str, str], resources: dict[str, Any]) -> None:
    has_authorizer = any(
        "AuthorizerId" in route or "AuthorizationScopes" in route for route in routes(resources).values()
    )
    assert has_authorizer == ("JwtAuthorizer" in resources) == (parameters["AuthMode"] == "jwt")


def test_the_authorizer_takes_the_issuers_tokens_for_the_audience(deployments: dict[str, Any]) -> None:
    authorizer = deployments["jwt"]["JwtAuthorizer"]["Properties"]
    assert authorizer["AuthorizerType"] == "JWT"
    assert authorizer["IdentitySource"] == ["$request.header.Authorization"]
    assert authorizer["JwtConfiguration"] == {"Issuer": "https://issuer.example/", "Audience": ["api", "shop"]}


def test_every_request_reaches_the_application(resources: dict[str, Any]) -> None:
    # /{proxy+} does not match /, and a route for a method leaves out the others: those are the default route's.
    found = routes(resources)
    assert "$default" in found
    assert {route["Target"] for route in found.values()} == {"integrations/${ApiIntegration}"}


def test_the_gateway_calls_the_published_version_and_may(resources: dict[str, Any]) -> None:
    integration = resources["ApiIntegration"]["Properties"]
    alias = resources["ApiFunctionAliaslive"]["Properties"]["Name"]
    assert integration["IntegrationUri"].endswith(f"/functions/${{ApiFunction.Arn}}:{alias}/invocations")
    assert integration["IntegrationType"] == "AWS_PROXY"
    assert integration["PayloadFormatVersion"] == "2.0"
    permission = resources["ApiPermission"]["Properties"]
    assert permission["FunctionName"] == {"Ref": "ApiFunctionAliaslive"}
    assert permission["SourceArn"] == "arn:aws:execute-api:eu-west-1:123456789012:${Api}/*"


def test_a_function_says_what_the_gateway_does(parameters: dict[str, str], resources: dict[str, Any]) -> None:
    told = resources["ApiFunction"]["Properties"]["Environment"]["Variables"]
    assert told["AUTH_MODE"] == parameters["AuthMode"]
    assert told["AUTH_PUBLIC"] == parameters.get("AuthPublic", "false")
    assert told["CORS_ORIGINS"] == parameters.get("CorsOrigins", "")


def test_who_may_call_is_said_at_every_deployment(template: Any) -> None:
    parameter = template["Parameters"]["AuthMode"]
    assert "Default" not in parameter
    assert set(AUTH_MODES) <= set(parameter["AllowedValues"]) == {one["AuthMode"] for one in DEPLOYMENTS.values()}


def test_the_stage_throttles_and_logs(resources: dict[str, Any]) -> None:
    stage = resources["ApiStage"]["Properties"]
    assert stage["StageName"] == "$default"
    assert int(stage["DefaultRouteSettings"]["ThrottlingRateLimit"]) > 0
    assert int(stage["DefaultRouteSettings"]["ThrottlingBurstLimit"]) > 0
    assert stage["AccessLogSettings"]["DestinationArn"] == {"Fn::GetAtt": ["AccessLogs", "Arn"]}


def test_the_access_log_has_no_secret(resources: dict[str, Any]) -> None:
    logged = set(re.findall(r"\$context\.([\w.]+)", resources["ApiStage"]["Properties"]["AccessLogSettings"]["Format"]))
    assert {"requestId", "status", "routeKey", "responseLatency"} <= logged
    # What a client sends is not in it, but the path.
    assert not [name for name in logged if re.search("header|query|body|claims|authorizer(?!.error)", name)]


def test_tokens_without_issuer_or_audience_are_refused(template: Any) -> None:
    whole = {"AuthMode": "jwt", "JwtIssuer": "https://issuer.example/", "JwtAudience": "api"}
    assert not broken_rules(template, whole)
    for missing in ("JwtIssuer", "JwtAudience"):
        assert broken_rules(template, {name: value for name, value in whole.items() if name != missing})
