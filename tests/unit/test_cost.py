"""The arithmetic behind benchmarks/cost.py, by hand."""

import math

import pytest

from benchmarks.prices import (
    MAX_CONNECTIONS,
    acu_for_connections,
    acu_for_work,
    concurrency,
    connections,
    http_api_dollars,
    lambda_dollars,
    on_lambda,
    per_million,
    proxy_dollars_an_hour,
    rate_at,
)


def test_a_function_with_half_a_core_computes_twice_as_long_and_waits_the_same() -> None:
    assert on_lambda(0.001, 0.003, memory=1.769 / 2) == pytest.approx(0.002 + 0.002)
    assert on_lambda(0.001, 0.003, memory=4) == pytest.approx(0.003)


def test_a_duration_is_billed_by_the_millisecond_rounded_up() -> None:
    a_millisecond = 0.001 * 0.0000133334
    assert lambda_dollars(0.0001, memory=1) == pytest.approx(0.2e-6 + a_millisecond)
    assert lambda_dollars(0.001, memory=1) == pytest.approx(0.2e-6 + a_millisecond)
    assert lambda_dollars(0.0011, memory=2) == pytest.approx(0.2e-6 + 2 * 2 * a_millisecond)
    assert lambda_dollars(0.007, memory=1) == pytest.approx(0.2e-6 + 7 * a_millisecond)  # 0.007 * 1000 is above 7


def test_the_gateway_is_cheaper_beyond_300_million_requests_a_month() -> None:
    assert http_api_dollars(1_000_000) == pytest.approx(1)
    assert http_api_dollars(300_000_000) == pytest.approx(300)
    assert http_api_dollars(400_000_000) == pytest.approx(300 + 90)


def test_concurrency_is_rate_times_duration() -> None:
    assert concurrency(1000, 0.005) == 5


@pytest.mark.parametrize(
    ("rate", "seconds", "headroom", "pool_size", "expected"),
    [(1000, 0.005, 2, 1, 10), (1000, 0.0051, 2, 1, 11), (1, 0.005, 2, 1, 1), (1000, 0.005, 2, 3, 30)],
)
def test_each_environment_holds_its_pool(
    rate: float, seconds: float, headroom: float, pool_size: int, expected: int
) -> None:
    assert connections(rate, seconds, headroom, pool_size) == expected


def test_the_rate_at_a_limit_takes_just_as_many_connections() -> None:
    for limit in MAX_CONNECTIONS.values():
        assert connections(rate_at(limit, 0.004, 2, 1), 0.004, 2, 1) == limit


def test_capacity_follows_the_work_in_half_units() -> None:
    assert acu_for_work(1, 0.0001, 0.5) == 0.5
    assert acu_for_work(1000, 0.0005, 0.5) == 4  # half a processor busy, of one: four units
    assert acu_for_work(1001, 0.0005, 0.5) == 4.5


def test_capacity_follows_the_connections_up_to_what_no_database_takes() -> None:
    assert [acu_for_connections(number) for number in (1, 189, 190, 5000)] == [1, 1, 4, 32]
    assert acu_for_connections(5001) is None


def test_an_hourly_price_is_shared_by_the_hour_s_requests() -> None:
    assert per_million(0.12, rate=1000) == pytest.approx(0.12 / 3.6)
    assert math.isclose(per_million(3.6, rate=1000), 1)


def test_the_proxy_costs_at_least_eight_units() -> None:
    assert proxy_dollars_an_hour(0.5) == proxy_dollars_an_hour(8) == pytest.approx(0.12)
    assert proxy_dollars_an_hour(100) == pytest.approx(1.5)
