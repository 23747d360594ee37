"""The database that the stack creates, and how the functions connect to it or to a given one."""

import re
from typing import Any

import pytest

from handler.settings import read_database_settings
from tests.infra.template.cloudformation import Template, evaluate, load

GIVEN = {"Environment": "default", "Capacity": "0-4", "Proxy": "false"}


@pytest.fixture
def created(database_template: Template) -> Any:
    return evaluate(database_template, GIVEN)


@pytest.fixture
def in_production(database_template: Template) -> Any:
    return evaluate(database_template, GIVEN | {"Environment": "production", "Proxy": "true", "Capacity": "1-8"})


def test_each_function_has_the_url_of_its_database(deployments: dict[str, Any]) -> None:
    urls = {
        name: [
            resources[function]["Properties"]["Environment"]["Variables"]["DATABASE_URL"]
            for function in ("ApiFunction", "MigrationFunction")
        ]
        for name, resources in deployments.items()
    }
    created = [{"Fn::GetAtt": ["Database", f"Outputs.{name}"]} for name in ("ApiUrl", "MigrationUrl")]
    assert urls == {
        "smallest": created,
        "jwt": created,
        "iam, given": ["postgresql://shop_api@proxy.example:6432/shop", "postgresql://shop_owner@database.example:5432/shop"],
        "secret, no network": ["postgresql://database.example/shop"] * 2,
    }  # fmt: skip


def test_the_api_does_not_connect_as_the_owner(
    created: Any, parameters: dict[str, str], resources: dict[str, Any]
) -> None:
    """The migration creates the API's user in a created database, and touches no user of a given one."""
    outputs = {name: output["Value"] for name, output in created["Outputs"].items()}
    cluster = created["Resources"]["Cluster"]["Properties"]
    assert outputs["MigrationUrl"].startswith(f"postgresql://{cluster['MasterUsername']}@")
    assert outputs["ApiUrl"].startswith(f"postgresql://{outputs['ApiUser']}@")
    assert outputs["ApiUser"] != cluster["MasterUsername"]
    assert outputs["ApiUrl"].endswith(f"/{cluster['DatabaseName']}")
    assert outputs["MigrationUrl"].endswith(f"/{cluster['DatabaseName']}")
    variables = {
        name: resources[name]["Properties"]["Environment"]["Variables"] for name in ("ApiFunction", "MigrationFunction")
    }
    assert "DATABASE_API_USER" not in variables["ApiFunction"]
    expected = None if "DatabaseUrl" in parameters else {"Fn::GetAtt": ["Database", "Outputs.ApiUser"]}
    assert variables["MigrationFunction"].get("DATABASE_API_USER") == expected


@pytest.mark.parametrize("name", ["DatabaseName", "MasterUsername"])
def test_no_parameter_replaces_the_cluster(database_template: Template, name: str) -> None:
    """CloudFormation replaces a cluster by an empty one for another value: resource reference, AWS::RDS::DBCluster."""
    assert isinstance(database_template["Resources"]["Cluster"]["Properties"][name], str)


def test_the_code_accepts_the_settings(resources: dict[str, Any]) -> None:
    for function in ("ApiFunction", "MigrationFunction"):
        variables = resources[function]["Properties"]["Environment"]["Variables"]
        environ = {name: str(value) for name, value in variables.items()} | {"AWS_REGION": "eu-west-1"}
        if "Outputs" in environ["DATABASE_URL"]:
            environ["DATABASE_URL"] = "postgresql://app@host:5432/app"
        found = read_database_settings(environ)
        assert found.api_user == environ.get("DATABASE_API_USER")
        assert found.iam_auth != bool(found.secret_arn)
        assert found.sslmode is None  # the strictest


def test_the_functions_are_in_a_network_that_reaches_the_database(deployments: dict[str, Any]) -> None:
    for function in ("ApiFunction", "MigrationFunction"):
        networks = {name: resources[function]["Properties"].get("VpcConfig") for name, resources in deployments.items()}
        assert networks["iam, given"] == {"SubnetIds": ["subnet-01", "subnet-02"], "SecurityGroupIds": ["sg-01"]}
        assert networks["secret, no network"] is None
        assert (
            networks["smallest"]
            == networks["jwt"]
            == {
                "SubnetIds": {"Fn::Split": [",", {"Fn::GetAtt": ["Database", "Outputs.SubnetIds"]}]},
                "SecurityGroupIds": {
                    "Fn::Split": [",", {"Fn::GetAtt": ["Database", "Outputs.FunctionSecurityGroupId"]}]
                },
            }
        )


def test_a_database_is_created_unless_one_is_given(parameters: dict[str, str], resources: dict[str, Any]) -> None:
    assert ("Database" in resources) == ("DatabaseUrl" not in parameters)


def test_every_output_of_a_nested_stack_is_used_and_exists(template: Template) -> None:
    nested = {
        name: load(resource["Properties"]["TemplateURL"])["Outputs"].keys()
        for name, resource in template["Resources"].items()
        if resource["Type"] == "AWS::CloudFormation::Stack"
    }
    requested = set(re.findall(r"'(\w+)', 'Outputs\.(\w+)'", str(template)))
    assert requested == {(stack, output) for stack, outputs in nested.items() for output in outputs}


def test_the_database_outlives_the_stack(template: Template, database_template: Template) -> None:
    database = template["Resources"]["Database"]
    assert database["DeletionPolicy"] == "RetainExceptOnCreate"
    assert database["UpdateReplacePolicy"] == "Retain"
    cluster = database_template["Resources"]["Cluster"]
    assert cluster["DeletionPolicy"] == cluster["UpdateReplacePolicy"] == "Snapshot"


def test_the_cluster_pauses_when_no_client_is_connected(created: Any) -> None:
    resources = created["Resources"]
    scaling = resources["Cluster"]["Properties"]["ServerlessV2ScalingConfiguration"]
    assert scaling == {"MinCapacity": 0, "MaxCapacity": 4}
    # Milliseconds, above DATABASE_RECYCLE. The connection of a removed environment would keep the cluster awake.
    idle = int(resources["DatabaseParameters"]["Properties"]["Parameters"]["idle_session_timeout"])
    assert idle > 1000 * read_database_settings({"DATABASE_URL": "postgresql://u@h"}).recycle


def test_a_proxy_keeps_its_idle_connections(in_production: Any) -> None:
    parameters = in_production["Resources"]["DatabaseParameters"]["Properties"]["Parameters"]
    assert parameters["idle_session_timeout"] == "0"


def test_the_cluster_is_encrypted_and_backed_up(created: Any) -> None:
    cluster = created["Resources"]["Cluster"]["Properties"]
    assert cluster["StorageEncrypted"] is True
    assert cluster["BackupRetentionPeriod"] >= 1
    assert created["Resources"]["DatabaseParameters"]["Properties"]["Parameters"]["rds.force_ssl"] == "1"


def test_no_user_of_the_database_has_a_password(created: Any, in_production: Any) -> None:
    for stack in (created, in_production):
        cluster = stack["Resources"]["Cluster"]["Properties"]
        assert cluster["MasterUserAuthenticationType"] == "iam-db-auth"
        assert cluster["EnableIAMDatabaseAuthentication"] is True
        assert not [name for name in cluster if "Password" in name]
    proxy = in_production["Resources"]["DatabaseProxy"]["Properties"]
    assert proxy["DefaultAuthScheme"] == "IAM_AUTH"
    assert proxy["RequireTLS"] is True
    assert "Auth" not in proxy


def test_production_is_protected_and_has_a_standby(created: Any, in_production: Any) -> None:
    assert in_production["Resources"]["Cluster"]["Properties"]["DeletionProtection"] is True
    assert in_production["Resources"]["Cluster"]["Properties"]["BackupRetentionPeriod"] == 35
    assert "Standby" in in_production["Resources"]
    assert created["Resources"]["Cluster"]["Properties"]["DeletionProtection"] is False
    assert "Standby" not in created["Resources"]


def test_the_network_has_no_route_to_the_internet(database_template: Template) -> None:
    kinds = {resource["Type"] for resource in database_template["Resources"].values()}
    assert not kinds & {
        "AWS::EC2::InternetGateway", "AWS::EC2::NatGateway", "AWS::EC2::Route", "AWS::EC2::EgressOnlyInternetGateway",
    }  # fmt: skip
    for instance in ("Writer", "Standby"):
        assert database_template["Resources"][instance]["Properties"]["PubliclyAccessible"] is False


def test_a_migration_can_send_its_response_from_the_network(created: Any) -> None:
    resources = created["Resources"]
    endpoint = resources["S3Endpoint"]["Properties"]
    assert endpoint["VpcEndpointType"] == "Gateway"
    assert endpoint["ServiceName"] == "com.amazonaws.eu-west-1.s3"
    assert endpoint["RouteTableIds"] == [{"Ref": "Routes"}]
    for subnet in ("SubnetA", "SubnetB"):
        association = resources[f"{subnet}Routes"]["Properties"]
        assert association == {"SubnetId": {"Ref": subnet}, "RouteTableId": {"Ref": "Routes"}}
    (egress,) = resources["FunctionSecurityGroup"]["Properties"]["SecurityGroupEgress"]
    assert (egress["FromPort"], egress["ToPort"]) == (443, 443)


def test_only_the_functions_reach_the_database(created: Any, in_production: Any) -> None:
    for stack in (created, in_production):
        groups = {
            name: one for name, one in stack["Resources"].items() if one["Type"].startswith("AWS::EC2::SecurityGroup")
        }
        (ingress,) = groups["DatabaseSecurityGroup"]["Properties"]["SecurityGroupIngress"]
        assert ingress["SourceSecurityGroupId"] == {"Ref": "FunctionSecurityGroup"}
        assert "SecurityGroupIngress" not in groups["FunctionSecurityGroup"]["Properties"]
        others = [one["Properties"] for one in groups.values() if one["Type"] == "AWS::EC2::SecurityGroupIngress"]
        # The proxy is in the same group.
        assert [one["SourceSecurityGroupId"] for one in others] == [{"Ref": "DatabaseSecurityGroup"}] * len(others)
        assert len(others) == ("DatabaseProxy" in stack["Resources"])


def test_migrations_do_not_use_the_proxy(created: Any, in_production: Any) -> None:
    def outputs(stack: Any) -> tuple[str, str, str]:
        return tuple(stack["Outputs"][name]["Value"] for name in ("ApiUrl", "MigrationUrl", "Access"))

    direct = "postgresql://postgres@${Cluster.Endpoint.Address}:5432/app"
    assert outputs(created) == (
        "postgresql://app@${Cluster.Endpoint.Address}:5432/app",
        direct,
        "${Cluster.DBClusterResourceId},${Cluster.DBClusterResourceId}",
    )
    url, migration_url, access = outputs(in_production)
    assert (url, migration_url) == ("postgresql://app@${DatabaseProxy.Endpoint}:5432/app", direct)
    proxy, cluster = access.rsplit(",", 1)
    assert cluster == "${Cluster.DBClusterResourceId}"
    assert "DBProxyArn" in proxy


def test_database_insights_show_the_statements_of_production(created: Any, in_production: Any) -> None:
    for stack, enabled in ((created, False), (in_production, True)):
        cluster = stack["Resources"]["Cluster"]["Properties"]
        assert cluster["PerformanceInsightsEnabled"] is enabled
        assert cluster["DatabaseInsightsMode"] == "standard"
