"""The template refuses a deployment that could need more connections than the database has."""

from itertools import product
from typing import Any

import pytest

from tests.infra.template.cloudformation import broken_rules
from tests.infra.template.conftest import DEPLOYMENTS

# max_connections by the largest capacity: Aurora user guide, "Maximum connections for Aurora Serverless v2". With a
# smallest capacity of 0 or 0.5 it is 2000 at most.
MAX_CONNECTIONS = {"1": 189, "4": 823, "8": 1669, "16": 2000, "32": 2000}
GIVEN = {
    "Release": "r1", "AuthMode": "none",
    "DatabaseUrl": "postgresql://api@database.example/shop", "DatabaseAccess": "cluster-0ABC",
}  # fmt: skip
ABOVE = "ReservedConcurrency is above ConnectionBudget"
TOO_MUCH = "ConnectionBudget is more than a database of DatabaseCapacity has, twice over"


def allowed(template: Any, parameter: str) -> list[str]:
    return [str(value) for value in template["Parameters"][parameter]["AllowedValues"]]


def test_the_deployments_of_the_tests_are_allowed(template: Any, parameters: dict[str, str]) -> None:
    assert broken_rules(template, parameters) == []


def test_concurrency_times_pool_size_is_within_the_budget(template: Any) -> None:
    pool_size = template["Resources"]["ApiFunction"]["Properties"]["Environment"]["Variables"]["DATABASE_POOL_SIZE"]
    for concurrency, budget in product(allowed(template, "ReservedConcurrency"), allowed(template, "ConnectionBudget")):
        broken = broken_rules(template, GIVEN | {"ReservedConcurrency": concurrency, "ConnectionBudget": budget})
        assert broken == ([] if int(concurrency) * int(pool_size) <= int(budget) else [ABOVE]), (concurrency, budget)


def test_a_created_database_has_more_than_twice_the_budget(template: Any) -> None:
    for capacity, budget in product(allowed(template, "DatabaseCapacity"), allowed(template, "ConnectionBudget")):
        given = {"Release": "r1", "AuthMode": "none", "DatabaseCapacity": capacity, "ConnectionBudget": budget}
        broken = broken_rules(template, given)
        fits = 2 * int(budget) + 10 <= MAX_CONNECTIONS[capacity.partition("-")[2]]
        assert broken == ([] if fits else [TOO_MUCH]), (capacity, budget)


def test_production_requires_reserved_concurrency(template: Any) -> None:
    unbounded = DEPLOYMENTS["jwt"] | {"ReservedConcurrency": "0"}
    assert broken_rules(template, unbounded) == [
        "Without ReservedConcurrency nothing keeps production within its ConnectionBudget"
    ]


def test_no_concurrency_is_reserved_by_default(parameters: dict[str, str], resources: dict[str, Any]) -> None:
    # A new account's limit is 10, of which nothing can be reserved.
    assert resources["ApiFunction"]["Properties"].get("ReservedConcurrentExecutions") == parameters.get(
        "ReservedConcurrency"
    )
    assert "ReservedConcurrentExecutions" not in resources["MigrationFunction"]["Properties"]


def test_the_pool_has_the_size_that_the_rule_assumes(resources: dict[str, Any]) -> None:
    assert resources["ApiFunction"]["Properties"]["Environment"]["Variables"]["DATABASE_POOL_SIZE"] == 1


@pytest.mark.parametrize(
    ("changed", "broken"),
    [
        ({"DatabaseAccess": ""}, "DatabaseUrl needs DatabaseAccess"),
        ({"DatabaseUrl": ""}, "DatabaseAccess, MigrationUrl and Network belong to"),
        (
            {"DatabaseUrl": "", "DatabaseAccess": "", "MigrationUrl": "postgresql://o@h/d"},
            "DatabaseAccess, MigrationUrl",
        ),
        ({"DatabaseUrl": "", "DatabaseAccess": "", "Network": "sg-01;subnet-01"}, "DatabaseAccess, MigrationUrl"),
    ],
)
def test_an_incomplete_description_of_a_database_is_refused(
    template: Any, changed: dict[str, str], broken: str
) -> None:
    assert not broken_rules(template, GIVEN)
    (found,) = broken_rules(template, GIVEN | changed)
    assert found.startswith(broken)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DatabaseUrl", "postgresql://api:password@database.example/shop"),
        ("DatabaseUrl", "postgresql://database.example"),
        ("DatabaseUrl", "https://database.example/shop"),
        ("MigrationUrl", "postgresql://owner:password@database.example/shop"),
        ("DatabaseAccess", "cluster-0ABC,prx-0ABC"),
        ("DatabaseAccess", "my-database"),
        ("Network", "sg-01"),
        ("Network", "subnet-01"),
        ("Network", "subnet-01;sg-01"),
    ],
)
def test_an_invalid_value_is_refused(template: Any, name: str, value: str) -> None:
    with pytest.raises(ValueError, match=name):
        broken_rules(template, GIVEN | {name: value})


def test_a_proxy_and_a_database_that_pauses_are_refused(template: Any) -> None:
    for capacity in allowed(template, "DatabaseCapacity"):
        given = {"Release": "r1", "AuthMode": "none", "DatabaseProxy": "true", "DatabaseCapacity": capacity}
        pauses = capacity.startswith("0-")
        assert [one.partition(",")[0] for one in broken_rules(template, given)] == (
            ["DatabaseProxy keeps the database awake"] if pauses else []
        )


def test_the_smallest_capacity_is_below_the_largest(template: Any, database_template: Any) -> None:
    capacities = database_template["Mappings"]["Capacities"]
    assert list(capacities) == allowed(template, "DatabaseCapacity")
    for name, capacity in capacities.items():
        assert name == f"{capacity['Min']}-{capacity['Max']}"
        assert 0 <= capacity["Min"] < capacity["Max"]
