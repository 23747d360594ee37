"""Every read on 10,000 and on 5,000,000 items: one item, pages of the list and of searches. `make bench-pages`.

Each database has a process of its own with the real handler, which is sent API Gateway events and times itself; the two
take turns at every page. The plan of a page is that of the statement that the handler sent, with its parameters.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from itertools import accumulate, product
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple
from urllib.parse import urlencode

import pg8000.native
from sqlalchemy import event

from benchmarks.report import describe_machine, progress, table, write_section
from benchmarks.warm import process
from local.events import Context, http_event, http_response
from local.postgres import server
from tests.items.cursors import items_cursor
from tests.support.database import connect, url_of

TITLE = "Pages"
SIZES = (10_000, 5_000_000)
LIMIT = 50
DONE = (200, 304)
ORDERS = {"newest": "id DESC", "name": "name, id"}
PLACES = ("first", "middle", "last")
# For the loading: nothing of it has to survive. shared_buffers is a quarter of a machine of 4 GB, as RDS sets it.
OPTIONS = (
    *("shared_buffers=1GB", "fsync=off", "wal_level=minimal", "max_wal_senders=0", "autovacuum=off"),
    *("maintenance_work_mem=2GB", "max_parallel_maintenance_workers=2"),
)
AT_ONCE = 5000  # rows made at a time

_random = random.Random(0)  # noqa: S311 - the same items in every run
VOCABULARY = 4000
RARE_ROWS = 10
OLD_PART = 50  # the first of so many rows have OLD


def _word() -> str:
    consonants, endings = "bcdfghjklmnprstvwz", ("", "", "n", "r", "s")
    syllables = range(_random.randint(2, 4))
    return "".join(_random.choice(consonants) + _random.choice("aeiou") + _random.choice(endings) for _ in syllables)


# From the commonest word to the rarest, 3 % to 0.004 % of all; and three that no row is made of.
*WORDS, RARE, OLD, ABSENT = list(dict.fromkeys(_word() for _ in range(VOCABULARY + 500)))[: VOCABULARY + 3]
WEIGHTS = [*accumulate(1 / (rank + 6) for rank in range(VOCABULARY))]
SEARCHES = {
    "none": None,
    "common": WORDS[0][:4],
    "1 %": WORDS[210],
    "0.1 %": WORDS[2000],
    "rare": RARE,
    "2 %, all old": OLD,
    "absent": ABSENT,
    "absent, of common parts": WORDS[0] + WORDS[1],
}
# Words of one item that ANALYZE kept in its histogram: the planner takes them for common.
SAMPLED = "rare, in the planner's sample"


class Measured(NamedTuple):
    seconds: list[float]
    status: int
    items: int
    plan: dict[str, Any]


class Place(NamedTuple):
    """A page: where it is in which list, and its query; or one item, by the method and a header."""

    order: str
    search: str
    place: str
    query: str
    path: str = "/items/"
    method: str = "GET"
    headers: tuple[tuple[str, str], ...] = ()


ONE = "one item"


def reads_of_one(count: int) -> list[Place]:
    """An item in the middle: whole, its headers, and what is answered to somebody who has it."""
    path = f"/items/{count // 2}"
    return [
        Place("by id", ONE, "GET", "", path),
        Place("by id", ONE, "HEAD", "", path, "HEAD"),
        Place("by id", ONE, "GET, 304", "", path, headers=(("if-none-match", '"1"'),)),
    ]


def lines(count: int) -> Iterator[str]:
    """`count` rows of name and description for COPY, some thousand at a time."""
    for start in range(0, count, AT_ONCE):
        words = iter(_random.choices(WORDS, cum_weights=WEIGHTS, k=AT_ONCE * 60))
        rows = []
        for number in range(start, min(start + AT_ONCE, count)):
            name = " ".join(next(words) for _ in range(_random.randint(2, 4)))
            if number % (count // RARE_ROWS) == count // RARE_ROWS // 2:
                name = f"{name} {RARE}"
            if number < count // OLD_PART:
                name = f"{name} {OLD}"
            description = r"\N"
            if _random.random() > 0.15:
                length, description = 50 + int(150 * _random.random() ** 2), next(words)
                while len(description) < length:
                    description += f" {next(words)}"
            rows.append(f"{name}\t{description[:200]}\n")
        yield "".join(rows)


def fill(url: str, count: int) -> None:
    """Migrate the database, and put `count` items in, before its indexes."""
    command = [sys.executable, "-m", "handler.migrate"]
    subprocess.run(command, env=os.environ | {"DATABASE_URL": url}, stdout=subprocess.DEVNULL, check=True)
    with connect(url) as database:
        database.run("SET statement_timeout = 0")
        indexes = database.run(
            "SELECT indexrelid::regclass::text, pg_get_indexdef(indexrelid) FROM pg_index"
            " WHERE indrelid = 'items'::regclass AND NOT indisprimary"
        )
        for name, _ in indexes:
            database.run(f"DROP INDEX {name}")
        # What is written in the transaction that truncates needs no log (PostgreSQL manual, 14.4.7).
        database.run("BEGIN")
        database.run("TRUNCATE items RESTART IDENTITY")
        database.run("COPY items (name, description) FROM STDIN WITH (FREEZE)", stream=lines(count))
        database.run("COMMIT")
        for name, definition in indexes:
            say(f"{count:,} items are in: {name}")
            database.run(definition)
        database.run("VACUUM ANALYZE items")


def places(url: str) -> tuple[dict[str, int], list[Place]]:
    """How many items each search finds, and its pages, as far as there are so many."""
    counts, found = {}, []
    with connect(url) as database:
        database.run("SET statement_timeout = 0")
        statistics = "SELECT histogram_bounds::text::text[] FROM pg_stats WHERE (tablename, attname) = ('items', '{}')"
        ((sample,),) = database.run(statistics.format("description"))
        sampled = " ".join(sample[len(sample) // 2].split()[1:5])
        for search, text in (SEARCHES | {SAMPLED: sampled}).items():
            matches = "items"
            if text:
                matches = "matches"
                database.run("DROP TABLE IF EXISTS matches")
                database.run(
                    "CREATE TEMPORARY TABLE matches AS SELECT id, name FROM items"
                    f" WHERE name ILIKE '%{text}%' OR description ILIKE '%{text}%'"
                )
            counts[search] = count = database.run(f"SELECT count(*) FROM {matches}")[0][0]
            if not text:
                found += reads_of_one(count)
            for order, by in ORDERS.items():
                parameters = {"order": order, "limit": LIMIT} | ({"q": text} if text else {})
                found.append(Place(order, search, PLACES[0], urlencode(parameters)))
                afters = {PLACES[1]: count // 2, PLACES[2]: count - LIMIT}
                for place, after in afters.items():
                    if after < LIMIT:
                        continue
                    statement = f"SELECT id, name FROM {matches} ORDER BY {by} OFFSET {after - 1} LIMIT 1"
                    ((item_id, name),) = database.run(statement)
                    keys = json.dumps([item_id] if order == "newest" else [name, item_id]).encode()
                    query = urlencode(parameters | {"cursor": items_cursor(keys, **parameters)})
                    found.append(Place(order, search, place, query))
    return counts, found


def run_handler(connection: Connection, url: str) -> None:
    """In its own process: answer (place, seconds) with what it took, until the other end closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ |= {"DATABASE_URL": url, "AUTH_MODE": "none", "LOG_LEVEL": "ERROR"}
    handler = import_module("handler.main").handler
    engine = import_module("handler.database.engine").engine
    sent: list[tuple[str, Any]] = []
    event.listen(engine, "before_cursor_execute", lambda *args: sent.append((args[2], args[3])))
    explain = engine.execution_options(isolation_level="AUTOCOMMIT", postgresql_readonly=True)
    try:
        while True:
            place, budget = connection.recv()
            request = http_event(place.method, place.path, place.query, place.headers, b"")
            seconds: list[float] = []
            end = 0.0
            while len(seconds) < 2 or (time.perf_counter() < end and len(seconds) < 100):
                context = Context()
                start = time.perf_counter()
                answer = http_response(handler(request, context))
                seconds.append(time.perf_counter() - start)
                end = end or time.perf_counter() + budget
                if answer.status not in DONE:
                    break
            statement, parameters = sent[-1]
            options = "ANALYZE, BUFFERS, FORMAT JSON" if answer.status in DONE else "FORMAT JSON"
            with explain.connect() as database:
                plan = database.exec_driver_sql(f"EXPLAIN ({options}) {statement}", parameters).scalar_one()[0]
            sent.clear()
            items = len(json.loads(answer.body or "{}").get("items", ()))
            connection.send(Measured(seconds[1:] or seconds, answer.status, items, plan))
    except EOFError:
        pass


@contextmanager
def databases() -> Iterator[tuple[dict[int, str], pg8000.native.Connection]]:
    """A filled database of each size; and a connection to their server."""
    with tempfile.TemporaryDirectory(prefix="items-", ignore_cleanup_errors=True) as folder:
        options = [text for option in OPTIONS for text in ("-c", option)]
        with server(Path(folder), *options) as admin_url, connect(admin_url) as admin:
            urls = {}
            for size in SIZES:
                say(f"{size:,} items")
                admin.run(f"CREATE DATABASE items_{size}")
                urls[size] = url_of(admin_url, f"items_{size}")
                fill(urls[size], size)
            admin.run("CHECKPOINT")
            yield urls, admin


def nodes(plan: dict[str, Any]) -> Iterator[str]:
    """A line for each node of a plan, the outermost first, each with what it read beyond what it returned."""
    name = plan["Node Type"]
    if plan.get("Scan Direction") == "Backward":
        name += " Backward"
    if index := plan.get("Index Name"):
        name += f" {index}"
    said = [f"expected={plan['Plan Rows']:,}"]
    if "Actual Rows" in plan:
        said.insert(0, f"rows={plan['Actual Rows'] * plan['Actual Loops']:,.0f}")
    said += [
        f"{text}={plan[key]:,}"
        for key, text in {
            "Rows Removed by Filter": "filtered out",
            "Rows Removed by Index Recheck": "recheck removed",
            "Lossy Heap Blocks": "lossy blocks",
        }.items()
        if plan.get(key)
    ]
    yield f"{name} {', '.join(said)}"
    for child in plan.get("Plans", ()):
        yield from (f"  {line}" for line in nodes(child))


def describe_plan(found: Measured) -> list[str]:
    plan = found.plan["Plan"]
    if found.status not in DONE:
        return [*nodes(plan), f"{found.status} after {found.seconds[0]:.1f} s"]
    hit, read = plan["Shared Hit Blocks"], plan["Shared Read Blocks"]
    spilled = plan.get("Temp Written Blocks", 0)
    buffers = f"buffers: {hit:,} hit, {read:,} read{f', {spilled:,} spilled' if spilled else ''}"
    times = f"planning {found.plan['Planning Time']:.2f} ms, execution {found.plan['Execution Time']:.2f} ms"
    return [*nodes(plan), f"{buffers}; {times}"]


def milliseconds(found: Measured | None) -> str:
    if found is None:
        return ""
    return f"{median(found.seconds) * 1000:,.2f}" if found.status in DONE else f"{found.status}"


def run(budget: float) -> str:
    """Fills, measures each page for `budget` seconds, and returns the section's text."""
    with databases() as (urls, admin), ExitStack() as stack:
        machine = describe_machine(admin)
        counts: dict[int, dict[str, int]] = {}
        pages: dict[tuple[str, str, str], dict[int, Place]] = {}
        for size, url in urls.items():
            say(f"{size:,} items: counting matches")
            counts[size], found = places(url)
            for page in found:
                pages.setdefault((page.search, page.order, page.place), {})[size] = page
        handlers = {size: stack.enter_context(process(run_handler, url)) for size, url in urls.items()}
        measured: dict[tuple[str, str, str], dict[int, Measured]] = {}
        in_order = [key for key in pages if key[0] == ONE]
        in_order += [key for key in product([*SEARCHES, SAMPLED], ORDERS, PLACES) if key in pages]
        say("")
        bar = stack.enter_context(progress("pages", len(pages)))
        for key in in_order:
            for size, page in pages[key].items():
                handlers[size].send((page, budget))
                measured.setdefault(key, {})[size] = handlers[size].recv()
            bar.update()
    return describe(machine, budget, counts, measured)


def describe(
    machine: str,
    budget: float,
    counts: dict[int, dict[str, int]],
    measured: dict[tuple[str, str, str], dict[int, Measured]],
) -> str:
    small, large = SIZES
    rows: list[tuple[Any, ...]] = [("q, order, page", *(f"{size:,}, ms" for size in SIZES), "ratio")]
    plans: dict[str, list[str]] = {}
    for (search, order, place), by_size in measured.items():
        both = [median(by_size[size].seconds) for size in SIZES if size in by_size and by_size[size].status in DONE]
        ratio = f"{both[1] / both[0]:.1f}" if len(both) == len(SIZES) else ""
        times = [milliseconds(by_size.get(size)) for size in SIZES]
        rows.append((f"{search}, {order}, {place}", *times, ratio))
        for size, found in by_size.items():
            title = f"q: {search}; order: {order}; page: {place}; {size:,} items"
            plans[title] = describe_plan(found)
    searches = [("q", "text", *(f"of {size:,}" for size in SIZES))]
    searches += [
        (search, f"`{text}`" if text else "", f"{counts[small][search]:,}", f"{counts[large][search]:,}")
        for search, text in SEARCHES.items()
    ]
    searches.append((SAMPLED, "four of its words", f"{counts[small][SAMPLED]:,}", f"{counts[large][SAMPLED]:,}"))
    shown = "\n".join("\n".join([title, *(f"  {line}" for line in lines)]) for title, lines in plans.items())
    return f"""`make bench-pages` (`python -m benchmarks.pages --seconds {budget:g}`) on {machine} with
{", ".join(OPTIONS)}.

One item, or a page of {LIMIT}, from the event to the answer, through `handler.main` in a process of its own for each
database, over a unix socket: the median of the requests after the first. Everything is in memory; a cold disk is not
measured. Where the time is missing, the search finds too little for such a page; 503 is the answer after the 9 s of
statement_timeout.

{table(*rows)}

How many items each `q` finds:

{table(*searches)}

<details><summary>The plans: EXPLAIN (ANALYZE, BUFFERS) of the handler's statements with their parameters</summary>

```
{shown}
```

</details>"""


def say(text: str) -> None:
    """Where we are; on the same line of a terminal."""
    print(f"\r\033[Kbench: {text}" if sys.stderr.isatty() else f"bench: {text}", end="", file=sys.stderr)
    print(end="" if sys.stderr.isatty() else "\n", file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pages", description=__doc__)
    parser.add_argument("--seconds", type=float, default=0.7, help="for each page and size, at most (%(default)s)")
    text = run(parser.parse_args().seconds)
    write_section(TITLE, text)
    print(f"## {TITLE}\n\n{text}")


if __name__ == "__main__":
    main()
