"""The routes of the gateway, and their authorizers."""

import json
import re
from typing import Any

from handler.settings import AUTH_MODES
from tests.infra.template.cloudformation import ROOT, broken_rules
from tests.infra.template.conftest import DEPLOYMENTS

PUBLIC = {"GET /docs", "GET /openapi.json", "ANY /health/live"}
PREFLIGHT = {"OPTIONS /{proxy+}"}


def routes(resources: dict[str, Any]) -> dict[str, Any]:
    found = [one["Properties"] for one in resources.values() if one["Type"] == "AWS::ApiGatewayV2::Route"]
    assert len({route["RouteKey"] for route in found}) == len(found)
    return {route["RouteKey"]: route for route in found}


def test_one_route_is_behind_the_authorizer_and_only_public_ones_beside_it(
    parameters: dict[str, str], resources: dict[str, Any]
) -> None:
    kind = {"jwt": "JWT", "iam": "AWS_IAM", "none": "NONE"}[parameters["AuthMode"]]
    is_public = parameters.get("AuthPublic") == "true"
    public = (PUBLIC if is_public else set()) | (PREFLIGHT if "CorsOrigins" in parameters else set())
    found = routes(resources)
    assert found.keys() == {"$default"} | public
    for key, route in found.items():
        assert route["AuthorizationType"] == ("NONE" if key in public else kind), key


def test_the_gateway_knows_no_path_and_no_scope_of_a_resource(template: Any, resources: dict[str, Any]) -> None:
    """A new resource changes nothing in the template: the function checks the scopes of each route."""
    assert not [route for route in routes(resources).values() if "AuthorizationScopes" in route]
    document = json.loads((ROOT / "docs" / "openapi.json").read_text())
    own = {path.split("/")[1] for path in document["paths"]} - {"health"}
    assert not [name for name in own if name in str(template["Resources"])]


def test_only_jwt_has_an_authorizer_resource(parameters: dict[str, str], resources: dict[str, Any]) -> None:
    default = routes(resources)["$default"]
    uses_jwt = parameters["AuthMode"] == "jwt"
    assert default.get("AuthorizerId") == ({"Ref": "JwtAuthorizer"} if uses_jwt else None)
    assert ("JwtAuthorizer" in resources) == uses_jwt


def test_the_authorizer_accepts_tokens_of_the_issuer_for_the_audience(deployments: dict[str, Any]) -> None:
    authorizer = deployments["jwt"]["JwtAuthorizer"]["Properties"]
    assert authorizer["AuthorizerType"] == "JWT"
    assert authorizer["IdentitySource"] == ["$request.header.Authorization"]
    assert authorizer["JwtConfiguration"] == {"Issuer": "https://issuer.example/", "Audience": ["api", "shop"]}


def test_every_request_reaches_the_application(resources: dict[str, Any]) -> None:
    found = routes(resources)
    assert "$default" in found
    assert {route["Target"] for route in found.values()} == {"integrations/${ApiIntegration}"}


def test_the_gateway_invokes_the_published_version_and_has_the_permission(resources: dict[str, Any]) -> None:
    integration = resources["ApiIntegration"]["Properties"]
    alias = resources["ApiFunctionAliaslive"]["Properties"]["Name"]
    assert integration["IntegrationUri"].endswith(f"/functions/${{ApiFunction.Arn}}:{alias}/invocations")
    assert integration["IntegrationType"] == "AWS_PROXY"
    assert integration["PayloadFormatVersion"] == "2.0"
    permission = resources["ApiPermission"]["Properties"]
    assert permission["FunctionName"] == {"Ref": "ApiFunctionAliaslive"}
    assert permission["SourceArn"] == "arn:aws:execute-api:eu-west-1:123456789012:${Api}/*"


def test_the_function_has_the_authorization_of_the_gateway(
    parameters: dict[str, str], resources: dict[str, Any]
) -> None:
    variables = resources["ApiFunction"]["Properties"]["Environment"]["Variables"]
    assert variables["AUTH_MODE"] == parameters["AuthMode"]
    assert variables["AUTH_PUBLIC"] == parameters.get("AuthPublic", "false")
    assert variables["CORS_ORIGINS"] == parameters.get("CorsOrigins", "")


def test_the_authorization_mode_is_required_at_every_deployment(template: Any) -> None:
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
    # Of the data that a client sends, it has only the path.
    assert not [name for name in logged if re.search("header|query|body|claims|authorizer(?!.error)", name)]


def test_tokens_without_issuer_or_audience_are_refused(template: Any) -> None:
    whole = {"Release": "r1", "AuthMode": "jwt", "JwtIssuer": "https://issuer.example/", "JwtAudience": "api"}
    assert not broken_rules(template, whole)
    for missing in ("JwtIssuer", "JwtAudience"):
        assert broken_rules(template, {name: value for name, value in whole.items() if name != missing})
