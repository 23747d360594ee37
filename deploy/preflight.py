"""Check an AWS account before a deployment: `python -m deploy.preflight ENVIRONMENT "NAME=VALUE …"`.

`make deploy` runs it with the SAM CLI's Python, which has boto3. It refuses deployments that CloudFormation would
fail after minutes. A check that the credentials do not allow is skipped, with a line on standard error.
Standard output has the parameters for `sam deploy --parameter-overrides`: those of samconfig.toml, those given, and a
new Release.
"""

import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from deploy import ca_bundle

Result = TypeVar("Result")
ROOT = Path(__file__).parents[1]
UNRESERVED = (
    100  # what Lambda keeps for functions without a reservation (Lambda developer guide, "Reserved concurrency")
)
# What must be done before a stack in one of these states can be updated.
AFTER_A_FAILURE = 'docs/deployment.md, "After a failure"'
FAILED_FIRST = "its first deployment failed: delete it and deploy again"
STUCK = {
    "ROLLBACK_COMPLETE": FAILED_FIRST,
    "ROLLBACK_FAILED": FAILED_FIRST,
    "UPDATE_ROLLBACK_FAILED": "its rollback failed: continue it, then deploy again",
}
# The largest budget of a created database by its largest capacity: the rule CreatedDatabase of template.yaml.
BUDGETS = {"1": 80, "4": 320, "8": 640, "16": 640, "32": 640}


class PreflightError(Exception):
    """The deployment would fail or cause damage. The message says what to do first."""


def parameters_of(environment: str, given: str) -> dict[str, str]:
    """The parameters of samconfig.toml, replaced by those `given`, and a new Release."""
    config = tomllib.loads((ROOT / "samconfig.toml").read_text())
    configured = config[environment]["deploy"]["parameters"]["parameter_overrides"].split()
    if wrong := [one for one in given.split() if not re.match(r"[A-Za-z]+=", one)]:
        raise PreflightError(f'{wrong[0]!r} is not NAME=VALUE: write PARAMETERS="AuthMode=jwt JwtIssuer=https://…"')
    return {"Release": release()} | dict(one.split("=", 1) for one in [*configured, *given.split()])


def release() -> str:
    """The commit, if there is one, and the time in UTC."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty=-changed", "--abbrev=7", "--exclude=*"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    commit = done.stdout.strip() if done.returncode == 0 else ""
    return "-".join(one for one in (commit, datetime.now(UTC).strftime("%Y%m%dT%H%M%S")) if one)


def check_stack(stack: Mapping[str, Any] | None, parameters: Mapping[str, str]) -> None:
    """Refuse a stack that cannot be updated, and a budget that the running database does not support yet."""
    if stack is None:
        return
    if reason := STUCK.get(stack["StackStatus"]):
        raise PreflightError(
            f"the stack {stack['StackName']} is in {stack['StackStatus']}, {reason} ({AFTER_A_FAILURE})"
        )
    before = {one["ParameterKey"]: one.get("ParameterValue", "") for one in stack.get("Parameters", [])}
    after = before | dict(parameters)
    if before.get("DatabaseUrl") or after.get("DatabaseUrl") or "DatabaseCapacity" not in before:
        return
    was, now = (one["DatabaseCapacity"].partition("-")[2] for one in (before, after))
    budget = int(after.get("ConnectionBudget", "40"))
    if was != now and budget > BUDGETS.get(was, 0):
        raise PreflightError(
            "max_connections grows with DatabaseCapacity only after a reboot: deploy DatabaseCapacity with a"
            f" ConnectionBudget of at most {BUDGETS.get(was, 0)}, reboot the instances, then deploy"
            f" ConnectionBudget={budget}"
        )


def check_concurrency(limits: Mapping[str, Any], reserved_before: int, parameters: Mapping[str, str]) -> None:
    """Refuse a reservation that Lambda would not grant. Raises PreflightError."""
    wanted = int(parameters.get("ReservedConcurrency", "0"))
    free = limits["UnreservedConcurrentExecutions"] + reserved_before
    if wanted and free - wanted < UNRESERVED:
        raise PreflightError(
            f"ReservedConcurrency={wanted} is more than this account can reserve: {free} of"
            f" {limits['ConcurrentExecutions']} are unreserved, and {UNRESERVED} must stay unreserved. Ask for more in"
            " Service Quotas (Lambda, Concurrent executions)"
        )


def ensure_ca_bundle(region: str | None) -> None:
    """Fetch the authorities of RDS if the file is missing, and check it in every case. Raises PreflightError."""
    if not region:
        raise PreflightError("no region: set AWS_DEFAULT_REGION, or run `aws configure`")
    path = ROOT / ca_bundle.FILE
    try:
        with redirect_stdout(sys.stderr):
            if not path.exists():
                print(f"deploy: {ca_bundle.FILE} is missing: fetching it for {region}")
                ca_bundle.write(region, path)
            ca_bundle.authorities(str(ca_bundle.FILE), path.read_text())
    except (ca_bundle.BundleError, OSError) as error:
        raise PreflightError(
            f"{error}. Without the CA bundle no connection to RDS is trusted: make ca-bundle REGION={region}"
        ) from error


def check_account(session: Any, stack_name: str, parameters: Mapping[str, str]) -> None:
    """Check the account with requests to AWS. Raises PreflightError."""
    stack = allowed("the stack", lambda: describe(session, stack_name))
    check_stack(stack, parameters)
    before = {one["ParameterKey"]: one.get("ParameterValue", "") for one in (stack or {}).get("Parameters", [])}
    limits = allowed("the concurrency", lambda: session.client("lambda").get_account_settings()["AccountLimit"])
    if limits:
        check_concurrency(limits, int(before.get("ReservedConcurrency", "0")), parameters)
    if not parameters.get("DatabaseUrl"):
        allowed("the role of RDS", lambda: check_rds_role(session.client("iam")))


def check_rds_role(iam: Any) -> None:
    """Refuse the first database of an account whose service-linked role does not exist. Raises PreflightError."""
    try:
        iam.get_role(RoleName="AWSServiceRoleForRDS")
    except iam.exceptions.NoSuchEntityException:
        command = "aws iam create-service-linked-role --aws-service-name rds.amazonaws.com"
        raise PreflightError(
            f"this account has no service-linked role for RDS yet. Create it once: {command}"
        ) from None


def describe(session: Any, name: str) -> Any:
    """The stack, or None."""
    client = session.client("cloudformation")
    try:
        return client.describe_stacks(StackName=name)["Stacks"][0]
    except client.exceptions.ClientError as error:
        if "does not exist" in str(error):
            return None
        raise


def allowed(what: str, call: Callable[[], Result]) -> Result | None:
    """The result of `call`, or None after a line on standard error if the credentials do not allow the call."""
    try:
        return call()
    except PreflightError:
        raise
    except Exception as error:
        code = getattr(error, "response", {}).get("Error", {}).get("Code", "")
        if not code.startswith(("AccessDenied", "UnauthorizedOperation")):
            raise
        print(f"preflight: SKIPPED: {what} cannot be checked with these credentials", file=sys.stderr)
        return None


def main() -> None:
    import boto3  # noqa: PLC0415 - only the SAM CLI's environment has it
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415

    environment, given = sys.argv[1:]
    try:
        parameters = parameters_of(environment, given)
        session = boto3.Session()
        ensure_ca_bundle(session.region_name)
        config = tomllib.loads((ROOT / "samconfig.toml").read_text())
        check_account(session, config[environment]["deploy"]["parameters"]["stack_name"], parameters)
    except (PreflightError, BotoCoreError, ClientError) as error:
        sys.exit(f"deploy: {error}")
    print(" ".join(f"{name}={value}" for name, value in parameters.items()))


if __name__ == "__main__":
    main()
