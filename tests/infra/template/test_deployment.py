"""The steps of a deployment: name check, migration, version, canary; and what stays when the stack is deleted."""

import re
import tomllib
from typing import Any

import pytest

from tests.infra.template.cloudformation import ROOT, Template, broken_rules, evaluate, expand, load, nested, references
from tests.infra.template.conftest import DEPLOYMENTS

SAMCONFIG = tomllib.loads((ROOT / "samconfig.toml").read_text())
ENVIRONMENTS = ("default", "staging", "production")
# The parameters that a deployer adds to samconfig.toml.
ISSUER = {"JwtIssuer": "https://issuer.example/", "JwtAudience": "api"}


@pytest.fixture
def observed(resources: dict[str, Any]) -> dict[str, Any]:
    """The resources of infra/observability.yaml."""
    found: dict[str, Any] = nested(resources, "Observability")["Resources"]
    return found


def overrides(environment: str) -> dict[str, str]:
    given = SAMCONFIG[environment]["deploy"]["parameters"]["parameter_overrides"].split()
    return dict(pair.split("=", 1) for pair in given)


def needs(resources: dict[str, Any], name: str) -> set[str]:
    """Every resource that CloudFormation finishes before it starts with the resource `name`."""
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
    assert not broken_rules(template, overrides(environment) | auth | ISSUER | {"Release": "r1"})


def test_no_environment_takes_the_name_of_another() -> None:
    names = [SAMCONFIG[environment]["deploy"]["parameters"]["stack_name"] for environment in ENVIRONMENTS]
    assert len(set(names)) == len(ENVIRONMENTS)
    assert set(ENVIRONMENTS) == {name for name, section in SAMCONFIG.items() if isinstance(section, dict)}


def test_shared_environments_require_a_token(template: Template) -> None:
    for environment in ("staging", "production"):
        assert overrides(environment)["AuthMode"] == "jwt"
        assert broken_rules(template, overrides(environment) | {"Release": "r1"}) == [
            "AuthMode jwt needs JwtIssuer and JwtAudience"
        ]


def test_a_stack_of_another_environments_name_is_refused_first(
    parameters: dict[str, str], resources: dict[str, Any]
) -> None:
    parameter = resources["EnvironmentNameCheck"]["Properties"]
    assert parameter["Value"] == "lambda-api-test"
    assert parameter["AllowedPattern"] == f"^.*-{parameters.get('Environment', 'default')}$"
    for name in {"Api", "ApiFunction", "MigrationFunction", "Migration", "Database"} & resources.keys():
        assert "EnvironmentNameCheck" in needs(resources, name), name


def test_every_parameter_and_condition_is_used(template: Template) -> None:
    sections = [template[section] for section in ("Rules", "Conditions", "Globals", "Resources", "Outputs")]
    used = set(references(sections))
    assert template["Parameters"].keys() <= used
    assert template["Conditions"].keys() <= used
    assert template["Mappings"].keys() <= used


NESTED = ("Database", "Permissions", "Observability")


@pytest.mark.parametrize("name", NESTED)
def test_every_parameter_of_a_nested_stack_is_used_and_given(template: Template, name: str) -> None:
    properties = template["Resources"][name]["Properties"]
    nested = load(properties["TemplateURL"])
    used = set(references([nested.get(section) for section in ("Conditions", "Resources", "Outputs")]))
    assert properties["Parameters"].keys() == nested["Parameters"].keys() <= used
    assert nested.get("Conditions", {}).keys() | nested.get("Mappings", {}).keys() <= used


def test_every_parameter_says_what_it_is_and_what_it_may_be(template: Template) -> None:
    for name, parameter in template["Parameters"].items():
        description = parameter["Description"]
        assert description, name
        # `sam deploy --guided` and most consoles show only the description.
        assert not [one for one in map(str, parameter.get("AllowedValues", [])) if one not in description], name


def test_the_template_stays_small(template: Template) -> None:
    assert len((ROOT / "template.yaml").read_text().splitlines()) <= 470
    assert len(template["Parameters"]) <= 18


def test_no_parameter_is_a_secret(template: Template, database_template: Template) -> None:
    for parameters in (template["Parameters"], database_template["Parameters"]):
        assert not [name for name, parameter in parameters.items() if "NoEcho" in parameter or "Password" in name]


# ------------------------------------------------------------------------------------------------------- Migration


def test_the_schema_is_migrated_before_the_code_changes(resources: dict[str, Any]) -> None:
    assert "Migration" in needs(resources, "ApiFunction")
    before = needs(resources, "Migration")
    assert {"MigrationFunction", "MigrationFunctionEventInvokeConfig", "Permissions"} <= before
    assert ("Database" in before) == ("Database" in resources)
    assert not {"ApiFunction", "Api", "Observability"} & before


def test_every_version_of_the_code_migrates(resources: dict[str, Any]) -> None:
    migration = resources["Migration"]
    assert migration["Type"] == "Custom::Migration"
    # A ServiceToken must never change, so it is the alias; the version changes with each deployment.
    assert migration["Properties"]["ServiceToken"] == {"Ref": "MigrationFunctionAliaslive"}
    name, _ = version(resources, "MigrationFunction")
    assert migration["Properties"]["Version"] == {"Ref": name}


def test_a_migration_without_a_response_ends(resources: dict[str, Any]) -> None:
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


def test_a_release_is_a_version_of_its_own(template: Template) -> None:
    """The description of a version cannot be changed, so another description publishes another version.

    Lambda publishes nothing if only the description of the version differs, so the function has Release too.
    """
    given = DEPLOYMENTS["smallest"]
    first, second = (
        evaluate(one, case)["Resources"]
        for case in ({**given, "Release": "r1"}, {**given, "Release": "r2"})
        for one in expand(template, [case])
    )
    for function in ("ApiFunction", "MigrationFunction"):
        assert first[function]["Properties"]["Description"] == "r1"
        assert second[function]["Properties"]["Description"] == "r2"
        descriptions = [version(one, function)[1]["Description"] for one in (first, second)]
        assert [one.split()[0] for one in descriptions] == ["r1", "r2"]


def test_a_setting_of_authorization_is_a_version_of_its_own(
    parameters: dict[str, str], resources: dict[str, Any]
) -> None:
    """Also without another Release, because the gateway and the function must have the same authorization."""
    description = version(resources, "ApiFunction")[1]["Description"]
    given = (parameters.get(name) for name in ("AuthMode", "AuthPublic", "CorsOrigins", "LogLevel"))
    assert not [one for one in given if one and one not in description]


def test_a_versions_description_fits(template: Template) -> None:
    declared = template["Parameters"]
    longest = {
        "Release": "r" * 32,
        "CorsOrigins": "c" * declared["CorsOrigins"]["MaxLength"],
        **{name: max(declared[name]["AllowedValues"], key=len) for name in ("AuthMode", "AuthPublic", "LogLevel")},
    }
    assert re.fullmatch(declared["Release"]["AllowedPattern"], longest["Release"])
    assert not re.fullmatch(declared["Release"]["AllowedPattern"], longest["Release"] + "r")
    text = template["Resources"]["ApiFunction"]["Properties"]["VersionDescription"]["Fn::Sub"]
    assert len(re.sub(r"\$\{(\w+)\}", lambda found: longest[found[1]], text)) <= 256  # Lambda API, PublishVersion


def test_sam_does_not_see_the_values_of_parameters(template: Template) -> None:
    # If this fails, SAM resolves parameters, and VersionDescription no longer needs the settings: docs/adr/0043.
    given = DEPLOYMENTS["smallest"]
    first, second = expand(template, [{**given, "LogLevel": level} for level in ("INFO", "DEBUG")])
    assert version(first["Resources"], "ApiFunction") == version(second["Resources"], "ApiFunction")


def test_a_version_is_deleted_when_no_deployment_needs_it(resources: dict[str, Any]) -> None:
    """A version that stayed after a rollback would block the next deployment of the same artifact."""
    versions = [one for one in resources.values() if one["Type"] == "AWS::Lambda::Version"]
    assert [one["DeletionPolicy"] for one in versions] == ["Delete"] * 2
    assert not [one for one in versions if one.get("UpdateReplacePolicy", "Delete") != "Delete"]


def test_a_rollout_is_a_canary_that_alarms_end(
    parameters: dict[str, str], resources: dict[str, Any], observed: dict[str, Any]
) -> None:
    group = resources["ApiFunctionDeploymentGroup"]["Properties"]
    rollout = parameters.get("Rollout", "canary")
    config = "LambdaCanary10Percent5Minutes" if rollout == "canary" else "LambdaAllAtOnce"
    assert group["DeploymentConfigName"] == f"CodeDeployDefault.{config}"
    policy = resources["ApiFunctionAliaslive"]["UpdatePolicy"]["CodeDeployLambdaAliasUpdate"]
    assert policy["DeploymentGroupName"] == {"Ref": "ApiFunctionDeploymentGroup"}
    assert "DEPLOYMENT_STOP_ON_ALARM" in group["AutoRollbackConfiguration"]["Events"]
    if rollout == "without-alarms":  # for the deployment that fixes the cause of an alarm
        assert "AlarmConfiguration" not in group or group["AlarmConfiguration"] == {}
        return
    names = ["ServerErrorsAlarm", "LatencyAlarm", "FunctionErrorsAlarm"]
    assert group["AlarmConfiguration"] == {
        "Enabled": True,
        "Alarms": [{"Name": {"Fn::GetAtt": ["Observability", f"Outputs.{name}"]}} for name in names],
    }
    # Soon enough, because the canary lasts five minutes.
    for name in names:
        properties = observed[name]["Properties"]
        period = properties.get("Period") or properties["Metrics"][0]["MetricStat"]["Period"]
        assert period * properties["EvaluationPeriods"] < 5 * 60


def test_shared_environments_roll_out_as_a_canary(template: Template) -> None:
    assert template["Parameters"]["Rollout"]["Default"] == "canary"
    assert overrides("default")["Rollout"] == "all-at-once"
    for environment in ("staging", "production"):
        # Named in each environment, because a deployment would otherwise keep the value of the previous one.
        assert overrides(environment)["Rollout"] == "canary"


# ---------------------------------------------------------------------------------------------- Logs, traces and alarms


def test_logs_are_json_and_expire(resources: dict[str, Any]) -> None:
    groups = {name: one for name, one in resources.items() if one["Type"] == "AWS::Logs::LogGroup"}
    assert groups.keys() == {"ApiFunctionLogs", "MigrationFunctionLogs", "AccessLogs"}
    for group in groups.values():
        assert group["Properties"]["RetentionInDays"] > 0
        assert "DeletionPolicy" not in group  # CloudFormation deletes it with the stack
    for function in ("ApiFunction", "MigrationFunction"):
        logging = resources[function]["Properties"]["LoggingConfig"]
        assert (logging["LogFormat"], logging["LogGroup"]) == ("JSON", {"Ref": f"{function}Logs"})


def test_lambda_drops_no_line_that_log_level_allows(parameters: dict[str, str], resources: dict[str, Any]) -> None:
    """Lambda's own level is INFO by default. The request lines, which are the metrics, are always at INFO."""
    level = parameters.get("LogLevel", "INFO")
    for function in ("ApiFunction", "MigrationFunction"):
        properties = resources[function]["Properties"]
        assert properties["Environment"]["Variables"]["LOG_LEVEL"] == level
    assert resources["ApiFunction"]["Properties"]["LoggingConfig"]["ApplicationLogLevel"] == "DEBUG"
    assert resources["MigrationFunction"]["Properties"]["LoggingConfig"]["ApplicationLogLevel"] == level


def test_requests_are_traced(resources: dict[str, Any]) -> None:
    assert resources["ApiFunction"]["Properties"]["TracingConfig"] == {"Mode": "Active"}


def test_every_alarm_notifies_the_topic(parameters: dict[str, str], observed: dict[str, Any]) -> None:
    alarms = {name: one["Properties"] for name, one in observed.items() if one["Type"] == "AWS::CloudWatch::Alarm"}
    names = ["ServerErrors", "Latency", "Throttles", "FunctionErrors", "ConnectionBudget", "Migration"]
    names += ["Connections"] if "DatabaseUrl" not in parameters else []
    assert alarms.keys() == {f"{name}Alarm" for name in names}
    for name, alarm in alarms.items():
        assert alarm["AlarmActions"] == alarm["OKActions"] == [{"Ref": "AlarmTopic"}]
        assert alarm["TreatMissingData"] == "notBreaching"
        if name != "ConnectionsAlarm":
            assert f"${{{name}.Arn}}" in observed["Dashboard"]["Properties"]["DashboardBody"]
