"""How a deployment goes: guard, migration, version, canary; and what stays when the stack goes."""

import tomllib
from typing import Any

import pytest

from tests.infra.template.cloudformation import ROOT, Template, broken_rules, expand, references, values
from tests.infra.template.conftest import DEPLOYMENTS

SAMCONFIG = tomllib.loads((ROOT / "samconfig.toml").read_text())
ENVIRONMENTS = ("default", "staging", "production")
# What a deployer adds to samconfig.toml.
ISSUER = {"JwtIssuer": "https://issuer.example/", "JwtAudience": "api"}


def overrides(environment: str) -> dict[str, str]:
    given = SAMCONFIG[environment]["deploy"]["parameters"]["parameter_overrides"].split()
    return dict(pair.split("=", 1) for pair in given)


def needs(resources: dict[str, Any], name: str) -> set[str]:
    """Every resource that CloudFormation finishes before it begins with this one."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        for other in set(references(resources[waiting.pop()])) & resources.keys() - found:
            found.add(other)
            waiting.append(other)
    return found


def version(resources: dict[str, Any], function: str) -> tuple[str, Any]:
    ((name, found),) = [
        (name, one)
        for name, one in resources.items()
        if one["Type"] == "AWS::Lambda::Version" and one["Properties"]["FunctionName"] == {"Ref": function}
    ]
    return name, found["Properties"]


# ---------------------------------------------------------------------------------------------------- Environments


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_an_environment_is_a_stack_of_its_own(template: Template, environment: str) -> None:
    deploy = SAMCONFIG[environment]["deploy"]["parameters"]
    assert deploy["stack_name"].endswith(f"-{environment}")
    assert SAMCONFIG[environment]["remote_invoke"]["parameters"]["stack_name"] == deploy["stack_name"]
    assert overrides(environment)["Environment"] == environment
    assert f"environment={environment}" in deploy["tags"].split()
    assert deploy["confirm_changeset"] is True
    auth = {} if "AuthMode" in overrides(environment) else {"AuthMode": "none"}
    assert not broken_rules(template, overrides(environment) | auth | ISSUER)


def test_no_environment_takes_the_name_of_another() -> None:
    names = [SAMCONFIG[environment]["deploy"]["parameters"]["stack_name"] for environment in ENVIRONMENTS]
    assert len(set(names)) == len(ENVIRONMENTS)
    assert set(ENVIRONMENTS) == {name for name, section in SAMCONFIG.items() if isinstance(section, dict)}


def test_what_is_shared_needs_a_token(template: Template) -> None:
    for environment in ("staging", "production"):
        assert overrides(environment)["AuthMode"] == "jwt"
        assert broken_rules(template, overrides(environment)) == ["AuthMode jwt needs JwtIssuer and JwtAudience"]


def test_a_stack_of_another_environments_name_is_refused_first(
    parameters: dict[str, str], resources: dict[str, Any]
) -> None:
    guard = resources["EnvironmentGuard"]["Properties"]
    assert guard["Value"] == "lambda-api-test"
    assert guard["AllowedPattern"] == f"^.*-{parameters.get('Environment', 'default')}$"
    for name in {"Api", "ApiFunction", "MigrationFunction", "Migration", "Database"} & resources.keys():
        assert "EnvironmentGuard" in needs(resources, name), name


def test_every_parameter_and_condition_is_used(template: Template) -> None:
    sections = [template[section] for section in ("Rules", "Conditions", "Globals", "Resources", "Outputs")]
    used = set(references(sections))
    assert template["Parameters"].keys() <= used
    assert template["Conditions"].keys() <= used
    assert template["Mappings"].keys() <= used


def test_every_parameter_of_the_database_is_used_and_given(template: Template, database_template: Template) -> None:
    used = set(references([database_template[section] for section in ("Conditions", "Resources", "Outputs")]))
    given = template["Resources"]["Database"]["Properties"]["Parameters"]
    assert given.keys() == database_template["Parameters"].keys() <= used
    assert database_template["Conditions"].keys() | database_template["Mappings"].keys() <= used


def test_every_parameter_says_what_it_is(template: Template) -> None:
    assert all(parameter["Description"] for parameter in template["Parameters"].values())


def test_no_parameter_is_a_secret(template: Template, database_template: Template) -> None:
    for parameters in (template["Parameters"], database_template["Parameters"]):
        assert not [name for name, parameter in parameters.items() if "NoEcho" in parameter or "Password" in name]


def test_tags_say_the_environment(parameters: dict[str, str], resources: dict[str, Any]) -> None:
    tag = {"Key": "environment", "Value": parameters.get("Environment", "default")}
    assert all(tag in resources[name]["Properties"]["Tags"] for name in ("ApiFunction", "MigrationFunction"))
    assert all(resources[name]["Properties"]["Tags"] == {tag["Key"]: tag["Value"]} for name in ("Api", "ApiStage"))
    assert "Database" not in resources or tag in resources["Database"]["Properties"]["Tags"]


# ------------------------------------------------------------------------------------------------------- Migration


def test_the_schema_is_migrated_before_the_code_changes(resources: dict[str, Any]) -> None:
    assert "Migration" in needs(resources, "ApiFunction")
    before = needs(resources, "Migration")
    assert {"MigrationFunction", "MigrationFunctionEventInvokeConfig", "MigrationFunctionRole"} <= before
    assert ("Database" in before) == ("Database" in resources)
    assert not [name for name in before if name.startswith("Api")]


def test_every_version_of_the_code_migrates(resources: dict[str, Any]) -> None:
    migration = resources["Migration"]
    assert migration["Type"] == "Custom::Migration"
    # The alias is the same for ever, which CloudFormation asks of a ServiceToken, and the version another each time.
    assert migration["Properties"]["ServiceToken"] == {"Ref": "MigrationFunctionAliaslive"}
    name, _ = version(resources, "MigrationFunction")
    assert migration["Properties"]["Version"] == {"Ref": name}


def test_a_migration_that_says_nothing_ends(resources: dict[str, Any]) -> None:
    timeout = resources["MigrationFunction"]["Properties"]["Timeout"]
    assert timeout < resources["Migration"]["Properties"]["ServiceTimeout"] < 3600
    again = resources["MigrationFunctionEventInvokeConfig"]["Properties"]
    assert again["MaximumRetryAttempts"] <= 1
    assert again["MaximumEventAgeInSeconds"] < timeout
    assert again["Qualifier"] == resources["MigrationFunctionAliaslive"]["Properties"]["Name"]


# --------------------------------------------------------------------------------------------------------- Version


def test_the_api_runs_a_published_version_from_a_snapshot(resources: dict[str, Any]) -> None:
    assert resources["ApiFunction"]["Properties"]["SnapStart"] == {"ApplyOn": "PublishedVersions"}
    name, _ = version(resources, "ApiFunction")
    alias = resources["ApiFunctionAliaslive"]["Properties"]
    assert alias["FunctionVersion"] == {"Fn::GetAtt": [name, "Version"]}


def test_another_setting_is_another_version(template: Template, expanded: dict[str, Template]) -> None:
    """SAM's versions do not see a parameter's value; the policy's name, which is another for another value, they do."""
    unseen = {"ReservedConcurrency", "Environment"}  # no part of a version, and only a tag
    resources = expanded["smallest"]["Resources"]
    conditions = template["Conditions"]
    told: set[str] = set()
    for function in ("ApiFunction", "MigrationFunction"):
        properties = resources[function]["Properties"]
        told |= set(references(properties))
        assert properties["Description"] == version(resources, function)[1]["Description"] == {"Ref": "FunctionPolicy"}
    told |= {name for condition in told & conditions.keys() for name in references(conditions[condition])}
    described = set(references(template["Resources"]["FunctionPolicy"]["Properties"]["Description"]))
    assert (told & template["Parameters"].keys()) - unseen <= described
    assert {"Database", "CreatesDatabase"} <= described


def test_sam_sees_no_parameters_value(template: Template) -> None:
    # When this fails, SAM has mended it, and FunctionPolicy's description may go: docs/adr/0014.
    first, second = expand(template, [{"AuthMode": "none", "LogLevel": level} for level in ("INFO", "DEBUG")])
    assert version(first["Resources"], "ApiFunction") == version(second["Resources"], "ApiFunction")


def test_a_policys_description_fits(template: Template, parameters: dict[str, str], resources: dict[str, Any]) -> None:
    given = values(template, parameters)
    description = resources["FunctionPolicy"]["Properties"]["Description"]
    assert given["AuthMode"] in description
    assert given["CorsOrigins"] in description
    assert len(description) < 1000


def test_a_rollout_is_a_canary_that_alarms_end(parameters: dict[str, str], expanded: dict[str, Any]) -> None:
    resources = next(expanded[name]["Resources"] for name in DEPLOYMENTS if DEPLOYMENTS[name] is parameters)
    group = resources["ApiFunctionDeploymentGroup"]["Properties"]
    environment = parameters.get("Environment", "default")
    rollout = "LambdaAllAtOnce" if environment == "default" else "LambdaCanary10Percent5Minutes"
    assert group["DeploymentConfigName"] == f"CodeDeployDefault.{rollout}"
    alarms = [alarm["Name"]["Ref"] for alarm in group["AlarmConfiguration"]["Alarms"]]
    assert group["AlarmConfiguration"]["Enabled"] is True
    assert alarms == ["ServerErrorsAlarm", "LatencyAlarm", "FunctionErrorsAlarm"]
    assert "DEPLOYMENT_STOP_ON_ALARM" in group["AutoRollbackConfiguration"]["Events"]
    policy = resources["ApiFunctionAliaslive"]["UpdatePolicy"]["CodeDeployLambdaAliasUpdate"]
    assert policy["DeploymentGroupName"] == {"Ref": "ApiFunctionDeploymentGroup"}
    # In time: the canary lasts five minutes.
    for alarm in alarms:
        properties = resources[alarm]["Properties"]
        period = properties.get("Period") or properties["Metrics"][0]["MetricStat"]["Period"]
        assert period * properties["EvaluationPeriods"] < 5 * 60


# ---------------------------------------------------------------------------------------------------- What is said


def test_logs_are_json_and_end(resources: dict[str, Any]) -> None:
    groups = {name: one for name, one in resources.items() if one["Type"] == "AWS::Logs::LogGroup"}
    assert groups.keys() == {"ApiFunctionLogs", "MigrationFunctionLogs", "AccessLogs"}
    for group in groups.values():
        assert group["Properties"]["RetentionInDays"] > 0
        assert group["DeletionPolicy"] == group["UpdateReplacePolicy"] == "Delete"
    for function in ("ApiFunction", "MigrationFunction"):
        logging = resources[function]["Properties"]["LoggingConfig"]
        assert logging == {"LogFormat": "JSON", "LogGroup": {"Ref": f"{function}Logs"}}


def test_requests_are_traced(resources: dict[str, Any]) -> None:
    assert resources["ApiFunction"]["Properties"]["TracingConfig"] == {"Mode": "Active"}


def test_every_alarm_tells_whoever_wants_to_know(parameters: dict[str, str], resources: dict[str, Any]) -> None:
    alarms = {name: one["Properties"] for name, one in resources.items() if one["Type"] == "AWS::CloudWatch::Alarm"}
    assert alarms.keys() == {
        f"{of}Alarm"
        for of in ("ServerErrors", "Latency", "Throttles", "FunctionErrors", "ConnectionBudget", "Migration")
    }
    who = [{"Ref": "AlarmTopic"}] if "AlarmEmail" in parameters else None
    for name, alarm in alarms.items():
        assert alarm.get("AlarmActions") == alarm.get("OKActions") == who
        assert alarm["TreatMissingData"] == "notBreaching"
        assert f"${{{name}.Arn}}" in resources["Dashboard"]["Properties"]["DashboardBody"]
    assert ("AlarmTopic" in resources) == bool(who)
