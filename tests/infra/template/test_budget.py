"""The template refuses what would take more connections than there are."""

from itertools import product
from typing import Any

import pytest

from tests.infra.template.cloudformation import broken_rules
from tests.infra.template.conftest import DEPLOYMENTS

# max_connections by the greatest capacity: Aurora user guide, "Maximum connections for Aurora Serverless v2". For 2,
# which that table leaves out, what 1 has. With a least capacity of 0 or 0.5 it is 2000 at most.
MAX_CONNECTIONS = {"1": 189, "2": 189, "4": 823, "8": 1669, "16": 2000, "32": 2000}
GIVEN = {"AuthMode": "none", "DatabaseHost": "database.example", "DatabaseResourceId": "cluster-0ABC"}
ABOVE = "ReservedConcurrency is above ConnectionBudget"
TOO_MUCH = "ConnectionBudget is more than a database of DatabaseMaxCapacity has, twice over"


def allowed(template: Any, parameter: str) -> list[str]:
    return [str(value) for value in template["Parameters"][parameter]["AllowedValues"]]


def test_every_deployment_that_is_tested_fits(template: Any, parameters: dict[str, str]) -> None:
    assert broken_rules(template, parameters) == []


def test_concurrency_times_pool_size_is_within_the_budget(template: Any) -> None:
    pool_size = template["Resources"]["ApiFunction"]["Properties"]["Environment"]["Variables"]["DATABASE_POOL_SIZE"]
    for concurrency, budget in product(allowed(template, "ReservedConcurrency"), allowed(template, "ConnectionBudget")):
        broken = broken_rules(template, GIVEN | {"ReservedConcurrency": concurrency, "ConnectionBudget": budget})
        assert broken == ([] if int(concurrency) * int(pool_size) <= int(budget) else [ABOVE]), (concurrency, budget)


def test_a_created_database_has_the_budget_twice_and_some_more(template: Any) -> None:
    for capacity, budget in product(allowed(template, "DatabaseMaxCapacity"), allowed(template, "ConnectionBudget")):
        given = {"AuthMode": "none", "DatabaseMaxCapacity": capacity, "ConnectionBudget": budget}
        broken = broken_rules(template, given)
        fits = 2 * int(budget) + 10 <= MAX_CONNECTIONS[capacity]
        assert broken == ([] if fits else [TOO_MUCH]), (capacity, budget)


def test_production_is_bounded(template: Any) -> None:
    unbounded = DEPLOYMENTS["jwt"] | {"ReservedConcurrency": "0"}
    assert broken_rules(template, unbounded) == [
        "Without ReservedConcurrency nothing keeps production within its ConnectionBudget"
    ]


def test_reserves_nothing_unless_told(parameters: dict[str, str], resources: dict[str, Any]) -> None:
    # A new account's limit is 10, of which nothing can be reserved.
    assert resources["ApiFunction"]["Properties"].get("ReservedConcurrentExecutions") == parameters.get(
        "ReservedConcurrency"
    )
    assert "ReservedConcurrentExecutions" not in resources["MigrationFunction"]["Properties"]


def test_the_pool_has_the_size_that_the_rule_counts_on(resources: dict[str, Any]) -> None:
    assert resources["ApiFunction"]["Properties"]["Environment"]["Variables"]["DATABASE_POOL_SIZE"] == 1


@pytest.mark.parametrize(
    ("changed", "broken"),
    [
        ({"DatabaseResourceId": ""}, "A given database needs"),
        ({"DatabaseSecretArn": "arn:aws:secretsmanager:eu-west-1:1:secret:s"}, "A given database needs"),
        ({"SubnetIds": "subnet-01"}, "SubnetIds and SecurityGroupIds go together"),
        ({"SecurityGroupIds": "sg-01"}, "SubnetIds and SecurityGroupIds go together"),
        ({"MigrationHost": "database.example"}, "MigrationHost needs"),
        ({"MigrationResourceId": "db-0ABC"}, "MigrationHost needs"),
        ({"DatabaseHost": ""}, "DatabaseHost is missing"),
        ({"DatabaseHost": "", "DatabaseResourceId": "", "MigrationUser": "owner"}, "DatabaseHost is missing"),
    ],
)
def test_half_a_database_is_refused(template: Any, changed: dict[str, str], broken: str) -> None:
    assert not broken_rules(template, GIVEN)
    (found,) = broken_rules(template, GIVEN | changed)
    assert found.startswith(broken)


def test_a_proxy_and_a_database_that_sleeps_are_refused(template: Any) -> None:
    given = {"AuthMode": "none", "DatabaseProxy": "true"}
    (found,) = broken_rules(template, given)
    assert found.startswith("DatabaseProxy keeps the database awake")
    assert not broken_rules(template, given | {"DatabaseMinCapacity": "0.5"})
