"""The GitHub workflows use commands, environments and the runtime of the project, and contain no key."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
MAKEFILE = (ROOT / "Makefile").read_text()
TEMPLATE = (ROOT / "template.yaml").read_text()
SAMCONFIG = tomllib.loads((ROOT / "samconfig.toml").read_text())
# Workflows may only read the repository.
READ_ONLY: list[Any] = [{}, {"contents": "read"}]


def load(name: str) -> Any:
    found = yaml.safe_load((ROOT / ".github" / "workflows" / f"{name}.yml").read_text())
    found["on"] = found.pop(True)  # YAML 1.1 reads `on` as true
    return found


@pytest.fixture(scope="module")
def ci() -> Any:
    return load("ci")


@pytest.fixture(scope="module")
def deploy() -> Any:
    return load("deploy")


def steps_of(workflow: Any) -> list[Any]:
    return [step for job in workflow["jobs"].values() for step in job.get("steps", [])]


def all_steps() -> list[Any]:
    return [step for path in WORKFLOWS for step in steps_of(load(path.stem))]


def test_every_command_is_one_of_the_project_s() -> None:
    commands = " ".join(step.get("run", "") for step in all_steps())
    targets = set(re.findall(r"\bmake ([a-z-]+)", commands))
    assert targets == {"check", "openapi-lint", "test", "build", "deploy"}
    assert [target for target in targets if not re.search(rf"^{target}:", MAKEFILE, re.MULTILINE)] == []
    for module in re.findall(r"python3 -m ([\w.]+)", commands):
        assert (ROOT / f"{module.replace('.', '/')}.py").exists()


def test_only_a_deployment_can_assume_a_role_of_aws(ci: Any, deploy: Any) -> None:
    assert ci["permissions"] in READ_ONLY
    assert deploy["permissions"] in READ_ONLY
    for workflow in (ci, deploy):
        for job in workflow["jobs"].values():
            deploys = "environment" in job or "deploy.yml" in job.get("uses", "")
            expected = [{"contents": "read", "id-token": "write"}] if deploys else [*READ_ONLY, None]
            assert job.get("permissions") in expected


def test_the_role_is_assumed_by_oidc_and_no_key_is_kept(deploy: Any) -> None:
    (credentials,) = [step for step in steps_of(deploy) if "configure-aws-credentials" in step.get("uses", "")]
    assert credentials["with"] == {"role-to-assume": "${{ vars.AWS_ROLE_ARN }}", "aws-region": "${{ vars.AWS_REGION }}"}
    secrets = set(re.findall(r"secrets\.(\w+)", "".join(path.read_text() for path in WORKFLOWS)))
    assert secrets == {"SMOKE_TOKEN"}


def test_no_expression_is_part_of_a_command() -> None:
    assert [step["run"] for step in all_steps() if "${{" in step.get("run", "")] == []


def test_actions_are_pinned_by_commit_and_keep_no_credentials() -> None:
    text = "".join(path.read_text() for path in WORKFLOWS)
    uses = re.findall(r"uses: (\S+@.*)", text)
    assert uses
    for one in uses:
        assert re.fullmatch(r"(actions|aws-actions)/[a-z-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", one), one
    for step in all_steps():
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False


def test_dependabot_keeps_actions_and_python_up_to_date() -> None:
    found = yaml.safe_load((ROOT / ".github" / "dependabot.yml").read_text())
    assert {one["package-ecosystem"] for one in found["updates"]} == {"github-actions", "pip"}


def test_a_deployment_that_waits_for_approval_holds_no_other_run(ci: Any, deploy: Any) -> None:
    assert "concurrency" not in ci
    for name in ("check", "test", "build"):
        group = ci["jobs"][name]["concurrency"]
        assert group["cancel-in-progress"] == "${{ github.event_name == 'pull_request' }}"
        assert name in group["group"]
    assert deploy["concurrency"] == {"group": "deploy-${{ inputs.environment }}", "cancel-in-progress": False}


def test_production_comes_after_staging_and_staging_after_the_tests(ci: Any) -> None:
    jobs = ci["jobs"]
    assert set(jobs["staging"]["needs"]) == {"check", "test", "build"}
    assert "refs/heads/main" in jobs["staging"]["if"]
    assert jobs["production"]["needs"] == "staging"
    assert "if" not in jobs["production"]  # it would run after a staging that was skipped


def test_the_environments_are_those_of_the_template(ci: Any, deploy: Any) -> None:
    environments = deploy["on"]["workflow_dispatch"]["inputs"]["environment"]["options"]
    assert [job["with"]["environment"] for job in ci["jobs"].values() if "with" in job] == environments
    for environment in environments:
        assert SAMCONFIG[environment]["deploy"]["parameters"]["stack_name"] == f"lambda-api-{environment}"
    assert '"lambda-api-$ENVIRONMENT"' in steps_of(deploy)[-1]["run"]


def test_the_smoke_test_comes_last_and_reads_an_output_that_exists(deploy: Any) -> None:
    names = [step.get("run", step.get("uses", "")) for step in steps_of(deploy)]
    assert "make deploy" in names[-2]
    assert "deploy.smoke" in names[-1]
    (output,) = re.findall(r"OutputKey=='(\w+)'", names[-1])
    assert re.search(rf"^  {output}:", TEMPLATE.partition("\nOutputs:")[2], re.MULTILINE)


def test_the_artifact_is_built_with_the_function_s_python(ci: Any, deploy: Any) -> None:
    runtime = re.search(r"Runtime: python(\S+)", TEMPLATE)
    assert runtime
    for job in (ci["jobs"]["build"], deploy["jobs"]["deploy"]):
        (setup,) = [step for step in job["steps"] if step.get("uses", "").startswith("actions/setup-python@")]
        assert setup["with"]["python-version"] == runtime[1]
    oldest = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"].removeprefix(">=")
    assert ci["jobs"]["test"]["strategy"]["matrix"]["python"] == [oldest, runtime[1]]
