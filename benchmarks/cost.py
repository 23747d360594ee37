"""What the measured times cost on AWS, from 10 to 100,000 requests a second. `make bench-cost` writes RESULTS.md.

Takes the times that the other benchmarks have written to RESULTS.md; the prices and the arithmetic are in prices.py.
"""

import argparse
import re
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

from benchmarks import prices
from benchmarks.report import RESULTS, table, write_section

TITLE = "Cost"
OURS, TUTORIAL = "ours", "tutorial"
RATES = (10, 100, 1_000, 10_000, 100_000)
MEMORY = 1.0  # GB: template.yaml's MemorySize
POOL_SIZE = 1  # DATABASE_POOL_SIZE
MIX = {"GET": 0.7, "list of 50": 0.1, "POST": 0.1, "PATCH": 0.1}  # benchmarks/scale.py's
HEADROOM = 2.0  # environments that live for each that is busy
UTILISATION = 0.6  # of the database's processors
COLD_SHARE = 0.001  # of the requests
SLOWER = 20  # times as long, on a bad day of the database

Table = dict[str, dict[str, str]]


class Measured(NamedTuple):
    """Seconds of a request of MIX, of one peer, as RESULTS.md has them."""

    loopback: float
    network: float  # with 1 ms of it
    cold: float  # from the start of the process to the first answer
    database: float  # processor time of the server

    @property
    def warm(self) -> float:
        return prices.on_lambda(self.loopback, self.network, MEMORY)

    @property
    def dollars(self) -> float:
        """What Lambda asks for a request, a cold start now and then included."""
        start = prices.lambda_dollars(self.cold + self.warm, MEMORY)
        return (1 - COLD_SHARE) * prices.lambda_dollars(self.warm, MEMORY) + COLD_SHARE * start


class NotMeasured(Exception):
    """RESULTS.md does not have what is needed; the message says which benchmark writes it."""


def tables(text: str, title: str) -> Iterator[Table]:
    """The tables of a section that have columns of ours and of the tutorial, or one for each environments."""
    section = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    for block in re.findall(r"(?:^\|.*\n?)+", section[1] if section else "", re.MULTILINE):
        head, _, *rows = [[cell.strip() for cell in line.strip("| \n").split("|")] for line in block.splitlines()]
        yield {row[0]: dict(zip(head[1:], row[1:], strict=False)) for row in rows}


def number(cell: str) -> float:
    """The first number of a cell: `1,234`, or `0.58 (0.32)`."""
    found = re.match(r"[\d,]*\.?\d+", cell)
    if found is None:
        raise NotMeasured(f"no number: {cell!r}")
    return float(found[0].replace(",", ""))


def read(text: str) -> dict[str, Measured]:
    """Raises NotMeasured."""
    try:
        # The first is of round trips, the next of times on loopback and with 1 ms; milliseconds.
        loopback, network = [found for found in tables(text, "Warm requests") if "GET" in found][1:3]
        (cold,) = [
            found["to the first answer"] for found in tables(text, "Cold starts") if "to the first answer" in found
        ]
        scale = list(tables(text, "Scale"))
        database = {OURS: scale[0], TUTORIAL: scale[2]}
        return {
            peer: Measured(
                loopback=sum(share * number(loopback[kind][peer]) for kind, share in MIX.items()) / 1000,
                network=sum(share * number(network[kind][peer]) for kind, share in MIX.items()) / 1000,
                cold=number(cold[peer]) / 1000,
                database=number(database[peer]["1"]["database's, ms"]) / 1000,
            )
            for peer in (OURS, TUTORIAL)
        }
    except (KeyError, ValueError, IndexError, StopIteration) as error:
        raise NotMeasured(
            f"RESULTS.md has not all times: run make bench-warm bench-cold bench-scale first ({error})"
        ) from error


def row_of(peer: str, measured: Measured, rate: int) -> tuple[Any, ...]:
    needed = prices.connections(rate, measured.warm, HEADROOM, POOL_SIZE)
    on_a_bad_day = prices.connections(rate, measured.warm * SLOWER, HEADROOM, POOL_SIZE)
    work = prices.acu_for_work(rate, measured.database, UTILISATION)
    held = prices.acu_for_connections(needed)
    gateway = prices.http_api_dollars(rate * prices.SECONDS_OF_MONTH) / (rate * prices.SECONDS_OF_MONTH)
    database = prices.per_million(work * prices.ACU_HOUR, rate)
    proxy = prices.per_million(prices.proxy_dollars_an_hour(work), rate)
    compute = measured.dollars * prices.MILLION
    return (
        f"{rate:,}, {peer}",
        f"{prices.concurrency(rate, measured.warm):,.1f}",
        f"{needed:,}",
        f"{on_a_bad_day:,}",
        f"{work:g}" if work <= prices.LARGEST_ACU else f"{work:g}: more than one has",
        "a pooler" if held is None else f"{held}",
        f"{compute:.2f}",
        f"{gateway * prices.MILLION:.2f}",
        f"{database:.2f}",
        f"{compute + gateway * prices.MILLION + database:.2f}",
        f"{proxy:.2f}",
    )


HEAD = (
    *("requests/s", "at once", "connections", "on a bad day", "ACU for the work", "largest ACU for the connections"),
    *("Lambda, $", "HTTP API, $", "database, $", "together, $", "a proxy besides, $"),
)


def describe(found: dict[str, Measured]) -> str:
    ours, tutorial = found[OURS], found[TUTORIAL]
    times: list[tuple[Any, ...]] = [("Milliseconds of a request of the mix", OURS, TUTORIAL, "ratio")]
    for what, field in (
        ("measured on loopback", "loopback"),
        ("measured with 1 ms of network", "network"),
        ("on Lambda, by the model", "warm"),
        ("of the database's processor", "database"),
        ("to the first answer of a cold start", "cold"),
    ):
        mine, theirs = getattr(ours, field), getattr(tutorial, field)
        times.append((what, f"{mine * 1000:,.2f}", f"{theirs * 1000:,.2f}", f"{mine / theirs:.2f}"))
    dollars = [one.dollars * prices.MILLION for one in (ours, tutorial)]
    times.append(("Lambda, $ per million", *(f"{one:.2f}" for one in dollars), f"{dollars[0] / dollars[1]:.2f}"))
    limits: list[tuple[Any, ...]] = [
        ("largest ACU", "max_connections", *(f"requests/s, {name}" for name in found)),
    ]
    for acu, most in prices.MAX_CONNECTIONS.items():
        at = [f"{prices.rate_at(most, one.warm, HEADROOM, POOL_SIZE):,.0f}" for one in found.values()]
        bad = [f"{prices.rate_at(most, one.warm * SLOWER, HEADROOM, POOL_SIZE):,.0f}" for one in found.values()]
        limits.append((acu, f"{most:,}", *(f"{usual} ({slow})" for usual, slow in zip(at, bad, strict=True))))
    most = max(prices.MAX_CONNECTIONS.values())
    of_one = prices.LARGEST_ACU / prices.ACU_PER_PROCESSOR * UTILISATION
    pooler = {name: prices.rate_at(most, one.warm, HEADROOM, POOL_SIZE) for name, one in found.items()}
    slow = {name: prices.rate_at(most, one.warm * SLOWER, HEADROOM, POOL_SIZE) for name, one in found.items()}
    work = {name: of_one / one.database for name, one in found.items()}
    mix = ", ".join(f"{share:.0%} {kind}" for kind, share in MIX.items())
    (_, gateway), (_, gateway_beyond) = prices.HTTP_API
    rows = [row_of(name, one, rate) for rate in RATES for name, one in found.items()]
    return f"""`make bench-cost`: a model, not a measurement. Its times are those of the sections Warm requests, Cold
starts and Scale; its arithmetic is in `benchmarks/prices.py`.

Assumptions: {mix}. {MEMORY:g} GB on arm64 (template.yaml) is {MEMORY / prices.CORE:.0%} of a
core: what a request took here on loopback takes longer by that, and what 1 ms of network added is added.
{COLD_SHARE:.1%} of the requests find no environment and wait for a cold start, which is billed. An environment holds
{POOL_SIZE} connection, and {HEADROOM:g} live for each that is busy (how many are is Little's law). The database's
processors, each as fast as one here, are busy for {UTILISATION:.0%} of the time. "On a bad day" each request lasts
{SLOWER} times as long. The rate is constant.

Prices of us-east-1, on demand, as published in 2026, not checked here (no AWS in reach): Lambda arm64
${prices.LAMBDA_REQUEST * prices.MILLION:.2f} per million requests and ${prices.LAMBDA_GB_SECOND:.10f} per GB-second;
HTTP API ${gateway * prices.MILLION:.2f} per million, ${gateway_beyond * prices.MILLION:.2f} beyond 300 million a month;
Aurora Serverless v2 ${prices.ACU_HOUR:.2f} per ACU-hour (2 GiB, a quarter of a processor);
RDS Proxy ${prices.PROXY_ACU_HOUR:.3f} per ACU-hour, for {prices.PROXY_LEAST_ACU:g} at least.
Not in it: free tiers, transfer, logs, storage and its I/O.

{table(*times)}

Dollars per million requests, and what it takes. "Largest ACU for the connections" is the maximum capacity to set, which
max_connections follows; capacity costs when it is used.

{table(HEAD, *rows)}

Where connections run out: the requests a second at which they are all taken, and in brackets on a bad day.

{table(*limits)}

- A pooler becomes necessary where {most:,} connections, the most that Aurora takes by default, are not enough: at
  {pooler[OURS]:,.0f} requests a second for ours and {pooler[TUTORIAL]:,.0f} for the tutorial; at {slow[OURS]:,.0f} and
  {slow[TUTORIAL]:,.0f} if a bad day must not end in 503s either. Below that, a larger maximum capacity will do.
- A bigger database becomes necessary with the work. The largest, of {prices.LARGEST_ACU:g} ACU, does that of
  {work[OURS]:,.0f} requests a second of ours and of {work[TUTORIAL]:,.0f} of the tutorial. Beyond, reads need replicas.
- At high rates a request costs the same at any; at low ones the database, which is there anyway, costs the most.
- From some 10,000 requests a second, or 1,000 at once, the account's quotas for HTTP API and Lambda must be raised."""


def main() -> None:
    argparse.ArgumentParser(prog="python -m benchmarks.cost", description=__doc__).parse_args()
    try:
        text = describe(read(RESULTS.read_text()))
    except NotMeasured as error:
        sys.exit(f"cost: {error}")
    write_section(TITLE, text)
    print(f"## {TITLE}\n\n{text}")


if __name__ == "__main__":
    main()
