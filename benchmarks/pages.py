"""Every read on 10,000 and on 5,000,000 items: one item, pages of the list and of searches. `make bench-pages`.

Each database has a process with the real handler, which gets API Gateway events and measures its own times. The two
processes take turns at every page.
"""

import json
import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from importlib import import_module
from itertools import accumulate
from multiprocessing.connection import Connection
from statistics import median
from typing import Any, NamedTuple
from urllib.parse import urlencode

import pg8000.native
from sqlalchemy import event

from benchmarks.handlers import Event, Handler, configure, get, handler
from benchmarks.report import Result, describe_machine, main, say, table
from local.events import Context
from tests.support.environments import connect, migrate, postgres, process, url_of

SMALL = 10_000
LIMIT = 50
ORDERS = {"newest": "id DESC", "name": "name, id"}
PLACES = ("first", "middle", "last")
# The data need not survive a crash. shared_buffers is a quarter of the memory of a machine with 4 GB, as on RDS.
OPTIONS = (
    *("shared_buffers=1GB", "fsync=off", "wal_level=minimal", "max_wal_senders=0", "autovacuum=off"),
    *("maintenance_work_mem=2GB", "max_parallel_maintenance_workers=2"),
)
AT_ONCE = 5000  # rows that are generated at a time

_random = random.Random(0)  # noqa: S311 - the same items in every run
VOCABULARY = 4000
RARE_ROWS = 10
OLD_PART = 50  # this many rows, the first ones, contain OLD


def _word() -> str:
    consonants, endings = "bcdfghjklmnprstvwz", ("", "", "n", "r", "s")
    syllables = range(_random.randint(2, 4))
    return "".join(_random.choice(consonants) + _random.choice("aeiou") + _random.choice(endings) for _ in syllables)


# From the most frequent word (3 % of all) to the rarest (0.004 %), and three words that no row contains.
*WORDS, RARE, OLD, ABSENT = list(dict.fromkeys(_word() for _ in range(VOCABULARY + 500)))[: VOCABULARY + 3]
WEIGHTS = [*accumulate(1 / (rank + 6) for rank in range(VOCABULARY))]
SAMPLED = (
    "rare, in the planner's sample"  # words of an item in ANALYZE's histogram, which the planner assumes to be frequent
)
SEARCHES: dict[str, str | None] = {
    "none": None,
    "common": WORDS[0][:4],
    "1 %": WORDS[210],
    "0.1 %": WORDS[2000],
    "rare": RARE,
    "2 %, all old": OLD,
    "absent": ABSENT,
    "absent, of common parts": WORDS[0] + WORDS[1],
    SAMPLED: "",  # differs by database
}


class Page(NamedTuple):
    """A page of a list: its search, its order and its position. With the search ONE it is a single item."""

    search: str
    order: str
    place: str

    def __str__(self) -> str:
        return f"{self.search}, {self.order}, {self.place}"


ONE = "one item"
# In the large database: a page of the list, both parts of the statement of a search, and the slowest page.
EXPLAINED = (
    Page("none", "newest", "middle"),
    Page("rare", "newest", "first"),
    Page("absent, of common parts", "name", "first"),
)


def lines(count: int) -> Iterator[str]:
    """Yield `count` rows with name and description for COPY, some thousands at a time."""
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
    """Migrate the database, and load `count` items before the indexes are created."""
    migrate(url)
    with connect(url) as database:
        database.run("SET statement_timeout = 0")
        indexes = database.run(
            "SELECT indexrelid::regclass::text, pg_get_indexdef(indexrelid) FROM pg_index"
            " WHERE indrelid = 'items'::regclass AND NOT indisprimary"
        )
        for name, _ in indexes:
            database.run(f"DROP INDEX {name}")
        # Rows that are written in the transaction that truncates need no log (PostgreSQL manual, 14.4.7).
        database.run("BEGIN")
        database.run("TRUNCATE items RESTART IDENTITY")
        database.run("COPY items (name, description) FROM STDIN WITH (FREEZE)", stream=lines(count))
        database.run("COMMIT")
        for name, definition in indexes:
            say(f"pages: {count:,} items are loaded: {name}")
            database.run(definition)
        database.run("VACUUM ANALYZE items")


def pages(url: str) -> tuple[dict[str, int], dict[Page, Event]]:
    """Return the number of items of each search, and the request for each page that exists."""
    # Imported here, because without the resource `items` this module does not exist, and main() prints a message.
    items_cursor = import_module("tests.items.cursors").items_cursor
    counts, found = {}, {}
    with connect(url) as database:
        database.run("SET statement_timeout = 0")
        statistics = (
            "histogram_bounds::text::text[] FROM pg_stats WHERE (tablename, attname) = ('items', 'description')"
        )
        ((sample,),) = database.run(f"SELECT {statistics}")
        sampled = " ".join(sample[len(sample) // 2].split()[1:5])
        for search, known in SEARCHES.items():
            text, matches = sampled if search == SAMPLED else known, "items"
            if text:
                matches = "matches"
                database.run("DROP TABLE IF EXISTS matches")
                database.run(
                    "CREATE TEMPORARY TABLE matches AS SELECT id, name FROM items"
                    f" WHERE name ILIKE '%{text}%' OR description ILIKE '%{text}%'"
                )
            ((count,),) = database.run(f"SELECT count(*) FROM {matches}")
            counts[search] = count
            if not text:
                path = f"/items/{count // 2}"
                found[Page(ONE, "by id", "GET")] = get(path)
                found[Page(ONE, "by id", "HEAD")] = get(path, method="HEAD")
                found[Page(ONE, "by id", "GET, 304")] = get(path, headers=(("if-none-match", '"1"'),))
            for order, by in ORDERS.items():
                parameters = {"order": order, "limit": LIMIT} | ({"q": text} if text else {})
                found[Page(search, order, "first")] = get("/items/", urlencode(parameters))
                for place, after in {"middle": count // 2, "last": count - LIMIT}.items():
                    if after < LIMIT:
                        continue
                    statement = f"SELECT id, name FROM {matches} ORDER BY {by} OFFSET {after - 1} LIMIT 1"
                    ((item_id, name),) = database.run(statement)
                    keys = json.dumps([item_id] if order == "newest" else [name, item_id]).encode()
                    query = urlencode(parameters | {"cursor": items_cursor(keys, **parameters)})
                    found[Page(search, order, place)] = get("/items/", query)
    return counts, found


def explain(connection: Connection, url: str) -> None:
    """Send the plan of the last statement of each event, in a process of its own, until the connection closes."""
    configure(url)
    handle = import_module("handler.main").handler
    engine = import_module("handler.database.engine").engine
    sent: list[tuple[str, Any]] = []
    event.listen(engine, "before_cursor_execute", lambda *args: sent.append((args[2], args[3])))
    with suppress(EOFError):
        while True:
            handle(connection.recv(), Context())
            statement, parameters = sent[-1]
            with engine.connect() as database:
                rows = database.exec_driver_sql(f"EXPLAIN (ANALYZE, BUFFERS, COSTS OFF) {statement}", parameters)
                connection.send("\n".join(row[0] for row in rows))


@contextmanager
def databases(large: int) -> Iterator[tuple[dict[int, str], pg8000.native.Connection]]:
    """A filled database of each size; and a connection to their server."""
    options = [text for option in OPTIONS for text in ("-c", option)]
    with postgres(*options) as server, connect(server) as admin:
        urls = {}
        for size in (SMALL, large):
            say(f"pages: {size:,} items")
            admin.run(f"CREATE DATABASE items_{size}")
            urls[size] = url_of(server, f"items_{size}")
            fill(urls[size], size)
        admin.run("CHECKPOINT")
        yield urls, admin


def milliseconds(one: Handler, request: Event, budget: float) -> float:
    """Return the median of up to 100 requests that take `budget` seconds, after the first."""
    (first,) = one.run(request)
    (second,) = one.run(request)
    times = [second, *one.run(*[request] * min(99, int(budget / first.seconds)))]
    return median(response.seconds for response in times) * 1000


def run(seconds: float, large: int) -> Result:
    with databases(large) as (urls, admin), ExitStack() as stack:
        machine = describe_machine(admin)
        counts, found = {}, {}
        for size, url in urls.items():
            say(f"pages: {size:,} items: counting matches")
            counts[size], found[size] = pages(url)
        handlers = {size: stack.enter_context(handler("handler.main", url)) for size, url in urls.items()}
        rows: list[tuple[Any, ...]] = [("q, order, page", *(f"{size:,}, ms" for size in urls), "ratio")]
        for page in found[large]:
            say(f"pages: {page}")
            times = [
                milliseconds(handlers[size], found[size][page], seconds) if page in found[size] else None
                for size in urls
            ]
            ratio = f"{times[1] / times[0]:.1f}" if times[0] and times[1] else ""
            rows.append((page, *("" if one is None else f"{one:,.2f}" for one in times), ratio))
        explainer = stack.enter_context(process(explain, urls[large]))
        plans = []
        for page in EXPLAINED:
            explainer.send(found[large][page])
            plans.append(f"{page}:\n\n```text\n{explainer.recv()}\n```")
    searches = [("q", "text", *(f"of {size:,}" for size in urls))]
    for search, text in SEARCHES.items():
        said = "four of its words" if search == SAMPLED else f"`{text}`" if text else ""
        searches.append((search, said, *(f"{of_size[search]:,}" for of_size in counts.values())))
    shown = "\n\n".join(plans)
    section = f"""{machine} with
{", ".join(OPTIONS)}.

One item or a page of {LIMIT}, from the event to the response, through `handler.main` in one process for each database:
the median of the requests after the first. All data is in memory; a cold disk is not measured. A time is missing if the
search finds too few items for the page.

{table(*rows)}

How many items each `q` finds:

{table(*searches)}

Three plans, of the statements that the handler sent, on {large:,} items.

{shown}"""
    return Result(section, table(*rows))


if __name__ == "__main__":
    main("pages", "Pages", run, seconds=0.7, large=5_000_000)
