"""The templates as written, and as AWS evaluates them for typical deployments."""

from typing import Any

import pytest

from tests.infra.template.cloudformation import Template, evaluate, expand, load, nested

# Each authorization mode, each kind of database, each environment.
DEPLOYMENTS = {
    "smallest": {"Release": "r1", "AuthMode": "none"},
    "jwt": {
        "Environment": "production",
        "Release": "r2",
        "AuthMode": "jwt",
        "JwtIssuer": "https://issuer.example/",
        "JwtAudience": "api,shop",
        "AuthPublic": "true",
        "CorsOrigins": "https://app.example,https://admin.example",
        "ReservedConcurrency": "80",
        "ConnectionBudget": "80",
        "DatabaseCapacity": "1-8",
        "DatabaseProxy": "true",
    },
    "iam, given": {
        "Environment": "staging",
        "Release": "r3",
        "Rollout": "without-alarms",
        "LogLevel": "DEBUG",
        "AuthMode": "iam",
        "ReservedConcurrency": "20",
        "DatabaseUrl": "postgresql://shop_api@proxy.example:6432/shop",
        "MigrationUrl": "postgresql://shop_owner@database.example:5432/shop",
        "DatabaseAccess": "prx-0ABC,cluster-0DEF",
        "Network": "sg-01;subnet-01,subnet-02",
    },
    "secret, no network": {
        "Release": "r4",
        "Rollout": "all-at-once",
        "LogLevel": "WARN",
        "AuthMode": "none",
        "DatabaseUrl": "postgresql://database.example/shop",
        "DatabaseAccess": "arn:aws:secretsmanager:eu-west-1:123456789012:secret:shop-AbCdEf",
    },
}


@pytest.fixture(scope="session")
def template() -> Template:
    return load("template.yaml")


@pytest.fixture(scope="session")
def database_template() -> Template:
    return load("infra/database.yaml")


@pytest.fixture(scope="session")
def expanded(template: Template) -> dict[str, Template]:
    """The template after SAM has expanded it, with its functions and conditions."""
    return dict(zip(DEPLOYMENTS, expand(template, list(DEPLOYMENTS.values())), strict=True))


@pytest.fixture(scope="session")
def deployments(expanded: dict[str, Template]) -> dict[str, dict[str, Any]]:
    """The resources of each of DEPLOYMENTS."""
    return {name: evaluate(expanded[name], DEPLOYMENTS[name])["Resources"] for name in DEPLOYMENTS}


@pytest.fixture(scope="session")
def permissions(deployments: dict[str, Any]) -> dict[str, Any]:
    """The resources of infra/permissions.yaml for each of DEPLOYMENTS."""
    return {name: nested(resources, "Permissions")["Resources"] for name, resources in deployments.items()}


@pytest.fixture(params=list(DEPLOYMENTS))
def parameters(request: pytest.FixtureRequest) -> dict[str, str]:
    return DEPLOYMENTS[request.param]


@pytest.fixture
def resources(parameters: dict[str, str], deployments: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The resources of one deployment after another."""
    return next(deployments[name] for name in DEPLOYMENTS if DEPLOYMENTS[name] is parameters)
