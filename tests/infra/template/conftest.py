"""The templates as written, and as AWS would have them for the deployments that people make."""

from typing import Any

import pytest

from tests.infra.template.cloudformation import Template, evaluate, expand, load

# Each way to authorize, each way to have a database, each environment.
DEPLOYMENTS = {
    "smallest": {"AuthMode": "none"},
    "jwt": {
        "Environment": "production",
        "AuthMode": "jwt",
        "JwtIssuer": "https://issuer.example/",
        "JwtAudience": "api,shop",
        "AuthPublic": "true",
        "CorsOrigins": "https://app.example,https://admin.example",
        "ReservedConcurrency": "80",
        "ConnectionBudget": "80",
        "DatabaseProxy": "true",
        "DatabaseMinCapacity": "1",
        "DatabaseMaxCapacity": "8",
        "AlarmEmail": "us@example.com",
    },
    "iam, given": {
        "Environment": "staging",
        "AuthMode": "iam",
        "ReservedConcurrency": "20",
        "DatabaseHost": "proxy.example",
        "DatabasePort": "6432",
        "DatabaseName": "shop",
        "DatabaseUser": "shop_api",
        "DatabaseResourceId": "prx-0ABC",
        "MigrationHost": "database.example",
        "MigrationUser": "shop_owner",
        "MigrationResourceId": "cluster-0DEF",
        "SubnetIds": "subnet-01,subnet-02",
        "SecurityGroupIds": "sg-01",
    },
    "secret, no network": {
        "AuthMode": "none",
        "DatabaseHost": "database.example",
        "DatabaseSecretArn": "arn:aws:secretsmanager:eu-west-1:123456789012:secret:shop-AbCdEf",
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
    """What SAM makes of the template, functions and conditions still in it."""
    return dict(zip(DEPLOYMENTS, expand(template, list(DEPLOYMENTS.values())), strict=True))


@pytest.fixture(scope="session")
def deployments(expanded: dict[str, Template]) -> dict[str, dict[str, Any]]:
    """The resources of each of DEPLOYMENTS."""
    return {name: evaluate(expanded[name], DEPLOYMENTS[name])["Resources"] for name in DEPLOYMENTS}


@pytest.fixture(params=list(DEPLOYMENTS))
def parameters(request: pytest.FixtureRequest) -> dict[str, str]:
    return DEPLOYMENTS[request.param]


@pytest.fixture
def resources(parameters: dict[str, str], deployments: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The resources of one deployment after another."""
    return next(deployments[name] for name in DEPLOYMENTS if DEPLOYMENTS[name] is parameters)
