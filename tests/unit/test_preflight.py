"""`make deploy` refuses, before the build, deployments that CloudFormation would fail after minutes."""

import re
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.stub import Stubber

from deploy import ca_bundle, preflight
from deploy.preflight import PreflightError, check_account, check_concurrency, check_stack, ensure_ca_bundle
from tests.infra.template.cloudformation import broken_rules, load
from tests.support.certificates import authority

LIMITS = {"ConcurrentExecutions": 1000, "UnreservedConcurrentExecutions": 1000}


def stack(status: str = "UPDATE_COMPLETE", **parameters: str) -> dict[str, Any]:
    pairs = [{"ParameterKey": name, "ParameterValue": value} for name, value in parameters.items()]
    return {"StackName": "lambda-api-staging", "StackStatus": status, "Parameters": pairs}


def test_a_deployment_has_the_parameters_of_samconfig_and_of_the_command_line() -> None:
    found = preflight.parameters_of("staging", "Rollout=without-alarms JwtIssuer=https://issuer.example/?a=b")
    assert found["Environment"] == "staging"
    assert found["Rollout"] == "without-alarms"
    assert found["JwtIssuer"] == "https://issuer.example/?a=b"


def test_a_release_is_named_as_the_template_allows() -> None:
    parameters = preflight.parameters_of("default", "")
    pattern = load("template.yaml")["Parameters"]["Release"]["AllowedPattern"]
    assert re.search(pattern, parameters["Release"])
    assert not broken_rules(load("template.yaml"), parameters | {"AuthMode": "none"})


def test_a_parameter_without_a_value_is_refused() -> None:
    with pytest.raises(PreflightError, match="'AuthMode' is not NAME=VALUE"):
        preflight.parameters_of("default", "AuthMode")


@pytest.mark.parametrize("status", ["ROLLBACK_COMPLETE", "ROLLBACK_FAILED", "UPDATE_ROLLBACK_FAILED"])
def test_a_stack_that_cannot_be_updated_is_refused(status: str) -> None:
    with pytest.raises(PreflightError, match=f"lambda-api-staging is in {status}"):
        check_stack(stack(status), {})


def test_a_new_stack_and_a_stack_that_can_be_updated_are_accepted() -> None:
    check_stack(None, {})
    check_stack(stack(DatabaseCapacity="0-4", DatabaseUrl="", ConnectionBudget="40"), {"DatabaseCapacity": "0-4"})


def test_capacity_and_budget_are_not_raised_in_one_deployment() -> None:
    """The running database has the max_connections of its new capacity only after a reboot."""
    running = stack(DatabaseCapacity="0-4", DatabaseUrl="", ConnectionBudget="320")
    check_stack(running, {"DatabaseCapacity": "1-8"})
    with pytest.raises(PreflightError, match="ConnectionBudget of at most 320, reboot"):
        check_stack(running, {"DatabaseCapacity": "1-8", "ConnectionBudget": "640"})
    check_stack(running, {"DatabaseCapacity": "1-8", "ConnectionBudget": "640", "DatabaseUrl": "postgresql://h/d"})


def test_the_budgets_are_those_that_the_template_accepts() -> None:
    template = load("template.yaml")
    for capacity in template["Parameters"]["DatabaseCapacity"]["AllowedValues"]:
        accepted = [
            budget
            for budget in template["Parameters"]["ConnectionBudget"]["AllowedValues"]
            if not broken_rules(
                template,
                {"Release": "r1", "AuthMode": "none", "DatabaseCapacity": capacity, "ConnectionBudget": str(budget)},
            )
        ]
        assert preflight.BUDGETS[capacity.partition("-")[2]] == max(accepted)


@pytest.mark.parametrize(
    ("unreserved", "before", "wanted", "accepted"),
    [(1000, 0, 640, True), (10, 0, 5, False), (10, 0, 0, True), (120, 80, 80, True), (120, 80, 160, False)],
)
def test_a_reservation_that_lambda_would_refuse_is_refused(
    unreserved: int, before: int, wanted: int, accepted: bool
) -> None:
    limits = {"ConcurrentExecutions": 1000, "UnreservedConcurrentExecutions": unreserved}
    parameters = {"ReservedConcurrency": str(wanted)}
    if accepted:
        check_concurrency(limits, before, parameters)
        return
    with pytest.raises(PreflightError, match="Service Quotas"):
        check_concurrency(limits, before, parameters)


class Session:
    """boto3.Session with a stubbed client for each service."""

    def __init__(self) -> None:
        self.clients = {
            name: boto3.client(name, region_name="eu-west-1", aws_access_key_id="a", aws_secret_access_key="b")
            for name in ("cloudformation", "lambda", "iam")
        }
        self.stubs = {name: Stubber(client) for name, client in self.clients.items()}
        for stub in self.stubs.values():
            stub.activate()

    def client(self, name: str) -> Any:
        return self.clients[name]


@pytest.fixture
def session() -> Session:
    return Session()


def test_an_account_without_the_role_of_rds_is_refused(session: Session) -> None:
    missing = "Stack with id lambda-api-default does not exist"
    session.stubs["cloudformation"].add_client_error("describe_stacks", "ValidationError", missing)
    session.stubs["lambda"].add_response("get_account_settings", {"AccountLimit": LIMITS})
    session.stubs["iam"].add_client_error("get_role", "NoSuchEntity")
    with pytest.raises(PreflightError, match="aws iam create-service-linked-role --aws-service-name rds"):
        check_account(session, "lambda-api-default", {})


def test_a_check_that_the_credentials_do_not_allow_is_skipped_with_a_message(session: Session, capsys: Any) -> None:
    session.stubs["cloudformation"].add_client_error("describe_stacks", "AccessDenied")
    session.stubs["lambda"].add_client_error("get_account_settings", "AccessDeniedException")
    session.stubs["iam"].add_client_error("get_role", "AccessDenied")
    check_account(session, "lambda-api-default", {})
    assert capsys.readouterr().err.count("SKIPPED") == 3


def test_a_given_database_needs_no_role_of_rds(session: Session) -> None:
    session.stubs["cloudformation"].add_client_error("describe_stacks", "ValidationError", "it does not exist")
    session.stubs["lambda"].add_response("get_account_settings", {"AccountLimit": LIMITS})
    check_account(session, "lambda-api-default", {"DatabaseUrl": "postgresql://api@h/d"})


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "handler").mkdir()
    monkeypatch.setattr(preflight, "ROOT", tmp_path)
    return tmp_path


def test_a_missing_ca_bundle_is_fetched(checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    authority(checkout / "root.pem", 30)
    monkeypatch.setattr(ca_bundle, "fetch", lambda _: (checkout / "root.pem").read_text())
    ensure_ca_bundle("eu-west-1")
    assert "BEGIN CERTIFICATE" in (checkout / ca_bundle.FILE).read_text()
    assert capsys.readouterr().out == ""  # standard output has only the parameters


@pytest.mark.parametrize("region", ["eu-west-1", "", None])
def test_a_ca_bundle_that_cannot_be_fetched_ends_the_deployment(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, region: str | None
) -> None:
    def fail(url: str) -> str:
        raise ca_bundle.BundleError(f"{url} cannot be fetched")

    monkeypatch.setattr(ca_bundle, "fetch", fail)
    with pytest.raises(PreflightError, match=r"make ca-bundle|no region"):
        ensure_ca_bundle(region)
    assert not (checkout / ca_bundle.FILE).exists()


def test_a_ca_bundle_without_an_authority_ends_the_deployment(checkout: Path) -> None:
    (checkout / ca_bundle.FILE).write_text("nothing\n")
    with pytest.raises(PreflightError, match="no certificate of an authority"):
        ensure_ca_bundle("eu-west-1")
