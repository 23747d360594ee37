"""Each role allows what its function does, and nothing else."""

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tests.infra.template.cloudformation import SAM_PYTHON, Template, evaluate, load, nested
from tests.infra.template.conftest import DEPLOYMENTS

# Actions that AWS supports only for all resources: Service Authorization Reference, X-Ray and EC2.
WITHOUT_RESOURCE = {
    "xray:PutTraceSegments",
    "xray:PutTelemetryRecords",
    "ec2:DescribeNetworkInterfaces",
    "ec2:DescribeSubnets",
}
DBUSER = "arn:aws:rds-db:eu-west-1:123456789012:dbuser"


@pytest.fixture
def own(resources: dict[str, Any]) -> dict[str, Any]:
    """The resources of infra/permissions.yaml."""
    found: dict[str, Any] = nested(resources, "Permissions")["Resources"]
    return found


@pytest.fixture
def observed(resources: dict[str, Any]) -> dict[str, Any]:
    """The resources of infra/observability.yaml."""
    found: dict[str, Any] = nested(resources, "Observability")["Resources"]
    return found


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def statements(resources: dict[str, Any], *names: str) -> Iterator[dict[str, Any]]:
    """The statements of these roles and policies, or of all of them."""
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


def test_every_permission_names_its_resource(resources: dict[str, Any], own: dict[str, Any], observed: Any) -> None:
    for stack in (resources, own, observed):
        for statement in statements(stack):
            actions = set(as_list(statement["Action"]))
            assert not [action for action in actions if "*" in action]
            if "*" in as_list(statement["Resource"]) and statement["Effect"] == "Allow":
                assert actions <= WITHOUT_RESOURCE


def test_no_role_is_created_by_sam_and_no_policy_is_managed_by_aws(
    resources: dict[str, Any], own: dict[str, Any], observed: Any
) -> None:
    def roles(stack: dict[str, Any]) -> dict[str, Any]:
        return {name: one["Properties"] for name, one in stack.items() if one["Type"] == "AWS::IAM::Role"}

    assert not roles(resources)
    assert roles(own).keys() == {"ApiRole", "MigrationRole"}
    assert roles(observed).keys() == {"RolloutRole"}
    for role in [*roles(own).values(), *roles(observed).values()]:
        assert "ManagedPolicyArns" not in role
    for function, role in (("ApiFunction", "ApiRole"), ("MigrationFunction", "MigrationRole")):
        assert resources[function]["Properties"]["Role"] == {"Fn::GetAtt": ["Permissions", f"Outputs.{role}"]}
    group = resources["ApiFunctionDeploymentGroup"]["Properties"]
    assert group["ServiceRoleArn"] == {"Fn::GetAtt": ["Observability", "Outputs.RolloutRole"]}


def test_codedeploy_moves_the_alias_of_this_function_only(observed: Any) -> None:
    """The permission has the whole name of the function, in which CloudFormation shortens a long stack name."""
    function = "arn:aws:lambda:eu-west-1:123456789012:function:${ApiFunction}"
    assert resources_of("lambda:UpdateAlias", observed, "RolloutRole") == [function, f"{function}:*"]


def test_a_function_writes_only_its_own_log(resources: dict[str, Any], own: dict[str, Any]) -> None:
    given = resources["Permissions"]["Properties"]["Parameters"]
    for function, role in (("Api", "ApiRole"), ("Migration", "MigrationRole")):
        assert given[f"{function}LogsArn"] == {"Fn::GetAtt": [f"{function}FunctionLogs", "Arn"]}
        assert resources_of("logs:PutLogEvents", own, role) == [f"${{{function}FunctionLogs.Arn}}"]


def test_a_function_connects_only_as_its_own_user(permissions: dict[str, Any]) -> None:
    def users(deployment: str) -> tuple[list[Any], list[Any]]:
        found = permissions[deployment]
        for policy, role in (("ApiAccess", "ApiRole"), ("MigrationAccess", "MigrationRole")):
            assert found[policy]["Properties"]["Roles"] == [{"Ref": role}]
        api, migration = "ApiAccess", "MigrationAccess"
        return resources_of("rds-db:connect", found, api), resources_of("rds-db:connect", found, migration)

    assert users("iam, given") == ([f"{DBUSER}:prx-0ABC/shop_api"], [f"{DBUSER}:cluster-0DEF/shop_owner"])
    assert users("secret, no network") == ([], [])


def test_a_function_connects_as_its_own_user_of_a_created_database(database_template: Template) -> None:
    for proxy in ("false", "true"):
        given = {"Environment": "production", "Capacity": "1-8", "Proxy": proxy}
        outputs = {name: one["Value"] for name, one in evaluate(database_template, given)["Outputs"].items()}
        stack = {
            "ApiLogsArn": "a", "MigrationLogsArn": "m", "InNetwork": "true",
            **{name: outputs[name] for name in ("ApiUrl", "MigrationUrl")},
            "Access": "prx-1,cluster-1" if proxy == "true" else "cluster-1,cluster-1",
        }  # fmt: skip
        found = evaluate(load("infra/permissions.yaml"), stack)["Resources"]
        resource = "prx-1" if proxy == "true" else "cluster-1"
        assert resources_of("rds-db:connect", found, "ApiAccess") == [f"{DBUSER}:{resource}/app"]
        assert resources_of("rds-db:connect", found, "MigrationAccess") == [f"{DBUSER}:cluster-1/postgres"]


@pytest.mark.parametrize(
    ("policy", "changed"),
    [
        ("ApiAccess", {"Access": "cluster-0DEF"}),  # the proxy is turned off, or the database was restored
        ("ApiAccess", {"ApiUrl": "postgresql://another@proxy.example/shop"}),
        ("ApiAccess", {"Access": "arn:aws:secretsmanager:eu-west-1:1:secret:s"}),
        ("MigrationAccess", {"Access": "prx-0ABC,cluster-0NEW"}),
        ("MigrationAccess", {"MigrationUrl": "postgresql://another@database.example/shop"}),
    ],
)
def test_both_versions_of_the_code_have_access_during_a_change(policy: str, changed: dict[str, str]) -> None:
    """Another description creates another policy, and CloudFormation deletes the old one after the rollout."""
    given = {
        "ApiLogsArn": "a", "MigrationLogsArn": "m", "InNetwork": "true", "Access": "prx-0ABC,cluster-0DEF",
        "ApiUrl": "postgresql://api@proxy.example/shop", "MigrationUrl": "postgresql://owner@database.example/shop",
    }  # fmt: skip
    before, after = (
        evaluate(load("infra/permissions.yaml"), one)["Resources"][policy]["Properties"]
        for one in (given, given | changed)
    )
    assert before["PolicyDocument"] != after["PolicyDocument"]
    assert before["Description"] != after["Description"]
    assert "ManagedPolicyName" not in before  # a name would have to be free


def test_cloudformation_cannot_change_a_policys_description() -> None:
    """The test above relies on this property of the resource schema of AWS::IAM::ManagedPolicy (from cfn-lint)."""
    code = (
        "import json; from cfnlint.schema import PROVIDER_SCHEMA_MANAGER as manager; "
        "schema = manager.get_resource_schema('eu-west-1', 'AWS::IAM::ManagedPolicy').schema; "
        "print(json.dumps(schema['createOnlyProperties']))"
    )
    done = subprocess.run([SAM_PYTHON, "-c", code], capture_output=True, text=True, check=True)
    assert "/properties/Description" in json.loads(done.stdout)


def test_no_policy_of_access_is_part_of_a_role(permissions: dict[str, Any]) -> None:
    """CloudFormation changes a role's inline policies at once, while the previous version still serves."""
    for found in permissions.values():
        for role in ("ApiRole", "MigrationRole"):
            actions = {action for one in statements(found, role) for action in as_list(one["Action"])}
            assert not [action for action in actions if action.startswith(("rds-db:", "secretsmanager:", "ec2:"))]


def test_a_function_may_read_the_secret_only_if_there_is_one(permissions: dict[str, Any]) -> None:
    for name, found in permissions.items():
        access = DEPLOYMENTS[name].get("DatabaseAccess", "")
        expected = [access] * 2 if access.startswith("arn:") else []
        assert resources_of("secretsmanager:GetSecretValue", found) == expected


def test_the_code_may_not_touch_the_network(permissions: dict[str, Any]) -> None:
    for name, found in permissions.items():
        network = [
            one for one in statements(found) if any(action.startswith("ec2:") for action in as_list(one["Action"]))
        ]
        assert bool(network) == (name != "secret, no network")
        if network:
            allowed = {action for one in network if one["Effect"] == "Allow" for action in as_list(one["Action"])}
            (deny,) = [one for one in network if one["Effect"] == "Deny"]
            assert set(deny["Action"]) == allowed
            assert deny["Condition"] == {
                "ArnLike": {"lambda:SourceFunctionArn": "arn:aws:lambda:eu-west-1:123456789012:function:*"}
            }


def test_a_proxy_connects_as_the_apis_user(database_template: Template) -> None:
    given = {"Environment": "production", "Capacity": "1-8", "Proxy": "true"}
    resources = evaluate(database_template, given)["Resources"]
    assert resources_of("rds-db:connect", resources) == [f"{DBUSER}:${{Cluster.DBClusterResourceId}}/app"]
    assert resources_of("s3:PutObject", resources) == ["arn:aws:s3:::cloudformation-custom-resource-response-euwest1/*"]
    assert len(list(statements(resources))) == 2


def test_no_resource_has_a_password(deployments: dict[str, Any], database_template: Template) -> None:
    for name, resources in deployments.items():
        for function in ("ApiFunction", "MigrationFunction"):
            variables = resources[function]["Properties"]["Environment"]["Variables"]
            access = DEPLOYMENTS[name].get("DatabaseAccess", "")
            secret = access if access.startswith("arn:") else ""
            assert variables["DATABASE_SECRET_ARN"] == secret
            assert variables["DATABASE_IAM_AUTH"] == ("false" if secret else "true")
    text = str(database_template)
    assert "MasterUserPassword" not in text
    assert "SecretArn" not in text
    assert "Password" not in str(database_template["Outputs"])
