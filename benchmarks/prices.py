"""What AWS asks, and the arithmetic from a request's duration to concurrency, connections and dollars. Pure functions.

The prices are those of us-east-1, on demand, as published in 2026: there is no AWS in reach of this project, and nobody
has checked them here. Left out, because they are the same for everybody: free tiers, data transfer, logs, storage and
its I/O. Dollars throughout; times in seconds; memory in GB.
"""

import math

# Lambda on arm64, the first 7.5 billion GB-seconds of a month; billed by the millisecond, initialization included.
LAMBDA_REQUEST = 0.20e-6
LAMBDA_GB_SECOND = 0.0000133334
# API Gateway's HTTP API: up to so many requests a month, each.
HTTP_API = ((300_000_000, 1.00e-6), (math.inf, 0.90e-6))
# Aurora Serverless v2 (PostgreSQL, standard I/O): an Aurora capacity unit has 2 GiB.
ACU_HOUR = 0.12
ACU_STEP, LARGEST_ACU = 0.5, 256.0
# AWS gives as many vCPUs to memory as the r instances have, 8 GiB to one.
ACU_PER_PROCESSOR = 4.0
# RDS Proxy in front of Aurora Serverless v2, by the database's capacity.
PROXY_ACU_HOUR, PROXY_LEAST_ACU = 0.015, 8.0
# Aurora PostgreSQL's default max_connections by the largest capacity (user guide, "Maximum connections for Aurora
# Serverless v2"); with a smallest capacity below 1 it is at most 2,000.
MAX_CONNECTIONS = {1: 189, 4: 823, 8: 1669, 16: 3360, 32: 5000}

CORE = 1.769  # GB at which a function has a whole core; less memory, less of it
HOURS = 730  # of a month
SECONDS_OF_MONTH = HOURS * 3600
MILLION = 1_000_000


def on_lambda(loopback: float, with_network: float, memory: float) -> float:
    """The duration of a request that took `loopback` here without a network and `with_network` with one.

    What the network adds is waiting, which is as long anywhere. The rest is taken for processor time, of which a
    function has the part that comes with its memory.
    """
    return loopback / min(1.0, memory / CORE) + (with_network - loopback)


def lambda_dollars(seconds: float, memory: float) -> float:
    """What one request of a duration costs; Lambda rounds each up to a millisecond."""
    return LAMBDA_REQUEST + math.ceil(round(seconds * 1000, 6)) / 1000 * memory * LAMBDA_GB_SECOND


def http_api_dollars(requests: float) -> float:
    """What a month's requests cost."""
    dollars, below = 0.0, 0.0
    for limit, price in HTTP_API:
        dollars += max(0.0, min(requests, limit) - below) * price
        below = limit
    return dollars


def concurrency(rate: float, seconds: float) -> float:
    """Requests under way at once: Little's law."""
    return rate * seconds


def connections(rate: float, seconds: float, headroom: float, pool_size: int) -> int:
    """Connections that all environments hold, each its pool.

    An environment serves one request at a time. There are `headroom` times as many as are busy: for bursts, and
    because an idle one lives on for minutes.
    """
    return max(1, math.ceil(round(concurrency(rate, seconds) * headroom, 6))) * pool_size


def rate_at(limit: int, seconds: float, headroom: float, pool_size: int) -> float:
    """The requests a second at which `limit` connections are taken."""
    return limit / pool_size / headroom / seconds


def acu_for_work(rate: float, processor: float, utilisation: float) -> float:
    """The capacity whose processors are busy for a part `utilisation` of the time; a request takes `processor`."""
    units = rate * processor / utilisation * ACU_PER_PROCESSOR
    return max(ACU_STEP, math.ceil(round(units / ACU_STEP, 6)) * ACU_STEP)


def acu_for_connections(number: int) -> int | None:
    """The smallest largest capacity that takes so many connections; None when none does without a pooler."""
    return next((acu for acu, limit in MAX_CONNECTIONS.items() if number <= limit), None)


def per_million(dollars_an_hour: float, rate: float) -> float:
    """What an hourly price is for a million requests, at a constant rate."""
    return dollars_an_hour / (rate * 3600) * MILLION


def proxy_dollars_an_hour(acu: float) -> float:
    return PROXY_ACU_HOUR * max(PROXY_LEAST_ACU, acu)
