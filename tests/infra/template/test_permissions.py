"""Nobody may do more than they do."""

from collections.abc import Iterator
from typing import Any

from tests.infra.template.cloudformation import Template, evaluate
from tests.infra.template.conftest import DEPLOYMENTS

# What AWS gives no narrower resource for: Service Authorization Reference, X-Ray and EC2.
WITHOUT_RESOURCE = {
    "xray:PutTraceSegments",
    "xray:PutTelemetryRecords",
    "ec2:DescribeNetworkInterfaces",
    "ec2:DescribeSubnets",
}
DBUSER = "arn:aws:rds-db:eu-west-1:123456789012:dbuser"


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def statements(resources: dict[str, Any], *names: str) -> Iterator[dict[str, Any]]:
    """What these roles and policies say, or all of them."""
    for name, resource in resources.items():
        if not names or name in names:
            properties = resource.get("Properties", {})
            documents = [policy["PolicyDocument"] for policy in properties.get("Policies", [])]
            documents += [properties["PolicyDocument"]] if "PolicyDocument" in properties else []
            for document in documents:
                yield from document["Statement"]


def resources_of(action: str, resources: dict[str, Any], *names: str) -> list[Any]:
    return [
        one
        for statement in statements(resources, *names)
        if statement["Effect"] == "Allow" and action in as_list(statement["Action"])
        for one in as_list(statement["Resource"])
    ]


def test_every_permission_names_its_resource(resources: dict[str, Any]) -> None:
    allowed = [statement for statement in statements(resources) if statement["Effect"] == "Allow"]
    assert allowed
    for statement in allowed:
        actions = set(as_list(statement["Action"]))
        assert not [action for action in actions if "*" in action]
        if "*" in as_list(statement["Resource"]):
            assert actions <= WITHOUT_RESOURCE


def test_no_role_is_somebody_elses(resources: dict[str, Any]) -> None:
    roles = {name: one["Properties"] for name, one in resources.items() if one["Type"] == "AWS::IAM::Role"}
    # None of those that SAM adds.
    assert roles.keys() == {"ApiFunctionRole", "MigrationFunctionRole", "RolloutRole"}
    for role in roles.values():
        assert role.get("ManagedPolicyArns", []) in ([], [{"Ref": "FunctionPolicy"}])
    for function in ("ApiFunction", "MigrationFunction"):
        assert resources[function]["Properties"]["Role"] == {"Fn::GetAtt": [f"{function}Role", "Arn"]}
    group = resources["ApiFunctionDeploymentGroup"]["Properties"]
    assert group["ServiceRoleArn"] == {"Fn::GetAtt": ["RolloutRole", "Arn"]}


def test_a_function_writes_its_own_log_only(resources: dict[str, Any]) -> None:
    for function in ("ApiFunction", "MigrationFunction"):
        assert resources_of("logs:PutLogEvents", resources, f"{function}Role") == [
            {"Fn::GetAtt": [f"{function}Logs", "Arn"]}
        ]


def test_a_function_connects_as_its_own_user_only(deployments: dict[str, Any]) -> None:
    def users(deployment: str) -> tuple[list[Any], list[Any]]:
        resources = deployments[deployment]
        api, migration = "ApiFunctionRole", "MigrationFunctionRole"
        return tuple(resources_of("rds-db:connect", resources, role) for role in (api, migration))  # type: ignore[return-value]

    assert users("smallest") == (
        [f"{DBUSER}:${{Database.Outputs.ResourceId}}/app"],
        [f"{DBUSER}:${{Database.Outputs.DirectResourceId}}/${{Database.Outputs.Owner}}"],
    )
    assert users("iam, given") == ([f"{DBUSER}:prx-0ABC/shop_api"], [f"{DBUSER}:cluster-0DEF/shop_owner"])
    assert users("secret, no network") == ([], [])


def test_a_secret_is_read_where_there_is_one(parameters: dict[str, str], resources: dict[str, Any]) -> None:
    secret = parameters.get("DatabaseSecretArn")
    assert resources_of("secretsmanager:GetSecretValue", resources) == ([secret] if secret else [])


def test_the_code_may_not_touch_the_network(parameters: dict[str, str], resources: dict[str, Any]) -> None:
    network = [
        one for one in statements(resources) if any(action.startswith("ec2:") for action in as_list(one["Action"]))
    ]
    allowed = {action for one in network if one["Effect"] == "Allow" for action in as_list(one["Action"])}
    denied = [one for one in network if one["Effect"] == "Deny"]
    assert bool(network) == ("SecurityGroupIds" in parameters or "DatabaseHost" not in parameters)
    if network:
        (deny,) = denied
        assert set(deny["Action"]) == allowed
        assert deny["Condition"] == {
            "ArnLike": {"lambda:SourceFunctionArn": "arn:aws:lambda:eu-west-1:123456789012:function:*"}
        }


def test_a_proxy_connects_as_the_apis_user(database_template: Template) -> None:
    given = {
        "Environment": "production", "DatabaseName": "app", "DatabaseUser": "app", "MinCapacity": "1",
        "MaxCapacity": "8", "Proxy": "true", "ConnectionBudget": "80", "AlarmTopicArn": "",
    }  # fmt: skip
    resources = evaluate(database_template, given)["Resources"]
    assert resources_of("rds-db:connect", resources) == [f"{DBUSER}:${{Cluster.DBClusterResourceId}}/app"]
    assert resources_of("s3:PutObject", resources) == ["arn:aws:s3:::cloudformation-custom-resource-response-euwest1/*"]
    assert len(list(statements(resources))) == 2


def test_nothing_has_a_password(deployments: dict[str, Any], database_template: Template) -> None:
    for name, resources in deployments.items():
        for function in ("ApiFunction", "MigrationFunction"):
            told = resources[function]["Properties"]["Environment"]["Variables"]
            secret = DEPLOYMENTS[name].get("DatabaseSecretArn", "")
            assert told["DATABASE_SECRET_ARN"] == secret
            assert told["DATABASE_IAM_AUTH"] == ("false" if secret else "true")
            login = told["DATABASE_URL"].removeprefix("postgresql://").rpartition("@")[0]
            assert ":" not in login
            assert bool(login) == (not secret)
    text = str(database_template)
    assert "MasterUserPassword" not in text
    assert "SecretArn" not in text
