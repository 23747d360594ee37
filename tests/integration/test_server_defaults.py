"""Values are sent and read correctly with any defaults of a role, a database or a server.

Every type is written and read by the real engine, and the probe's routes are called with a replay, under each setting
that changes how PostgreSQL writes or reads text. The results are those without the setting.
"""

import datetime as dt
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from pg8000 import PGInterval
from sqlalchemy import (
    ARRAY,
    REAL,
    Column,
    Double,
    Engine,
    Integer,
    Interval,
    LargeBinary,
    MetaData,
    Table,
    Text,
    insert,
    select,
    text,
)

from handler.database.connection import make_engine
from handler.database.engine import engine as handlers_engine
from handler.settings import read_database_settings
from local.postgres import server
from tests.support.client import call, probe_path
from tests.support.column_values import VALUES as FEATURES
from tests.support.database import required_program
from tests.support.pgbouncer import needs_pgbouncer, pgbouncer
from tests.support.ports import reserved_port

VALUES: dict[str, tuple[Any, Any]] = {name: (kind, value) for name, kind, value in FEATURES} | {
    "double": (Double(), 0.1 + 0.2),
    "real": (REAL(), 16777215.0),
    "array-double": (ARRAY(Double), [1 / 3, None, 1e-310]),
    "array-bytea": (ARRAY(LargeBinary), [b"\x00\\x'\xff", None, b"\\x00", b"\\000"]),
    "array-interval": (ARRAY(Interval), [dt.timedelta(seconds=-1), None, dt.timedelta(days=1, hours=-3)]),
    "array-null-text": (ARRAY(Text), ["null", "Null", None, "a,b"]),
    "interval-short": (Interval(), dt.timedelta(minutes=-5)),
    "interval-mixed": (Interval(), dt.timedelta(days=2, hours=-30, microseconds=-1)),
    "text-latin": (Text(), "Ā \u20ac \\ '"),
    "bytea-like-hex": (LargeBinary(), b"\\x41"),
}
TABLE = Table(
    "default_values",
    MetaData(),
    Column("id", Integer, primary_key=True),
    *(Column(name, kind) for name, (kind, _) in VALUES.items()),
)
# Values that only the server writes.
INTERVALS = {
    "-00:05:00": dt.timedelta(minutes=-5),
    "-01:05:00.25": dt.timedelta(hours=-1, minutes=-5, milliseconds=-250),
    "-3 days -04:05:06": dt.timedelta(days=-3, hours=-4, minutes=-5, seconds=-6),
    "3 days -04:05:06.000007": dt.timedelta(days=3, hours=-4, minutes=-5, seconds=-6, microseconds=-7),
    "0": dt.timedelta(),
    "100:00:00": dt.timedelta(hours=100),
    "1 year 2 mons": PGInterval(years=1, months=2),
    "-1 year -2 mons": PGInterval(years=-1, months=-2),
    "-1 year -2 mons +3 days -04:05:06.5": PGInterval(years=-1, months=-2, days=3, hours=-4, minutes=-5, seconds=-6.5),
    "-14 mons -3 days -00:00:07": PGInterval(years=-1, months=-2, days=-3, seconds=-7),
    "1 mon 1 sec": PGInterval(months=1, seconds=1),
}
EXPRESSIONS = [
    *(f"'{interval}'::interval" for interval in INTERVALS),
    "'24:00:00'::text, '2026-02-03 04:05:06.7+05:45'::timestamptz, '2026-02-03 04:05'::timestamp, '2026-02-03'::date",
    "point(0.1, 1 / 3.0::float8), ARRAY['2026-02-03 04:05:06+00'::timestamptz], '04:05+03'::timetz",
    "tstzrange('2026-02-03 04:05+00', NULL), '{1,NULL}'::int[], 1e-7::numeric, 'infinity'::timestamptz",
]
# Expressions in which the server converts values to text.
CASTS = [
    r"'\x00ff5c'::bytea::text, (1 / 3.0::float8)::text, '1 day -1 sec'::interval::text, to_json(1 / 3.0::float4)::text",
    "'2026-02-03 04:05:06+00'::timestamptz::text, '2026-02-03'::date::text, date_trunc('day', '2026-02-03'::date)",
    r"'2026-02-03 04:05 IST'::timestamptz, 'a\b'::text, length('\'), NULL = NULL, pg_get_viewdef('pg_views'::regclass)",
]
HOSTILE = [
    *(("client_encoding", value) for value in ("LATIN1", "SQL_ASCII", "SJIS")),
    *(("DateStyle", value) for value in ("German, DMY", "SQL, DMY", "Postgres, YMD", "ISO, DMY")),
    *(("IntervalStyle", value) for value in ("sql_standard", "postgres_verbose", "iso_8601")),
    *(("TimeZone", value) for value in ("Asia/Kathmandu", "America/St_Johns")),
    *(("extra_float_digits", value) for value in ("-15", "0", "3")),
    *(("timezone_abbreviations", value) for value in ("India", "Australia")),
    *(("bytea_output", "escape"), ("xmlbinary", "hex"), ("xmloption", "document")),
    *(("array_nulls", "off"), ("transform_null_equals", "on"), ("quote_all_identifiers", "on")),
    *(("standard_conforming_strings", "off"), ("backslash_quote", "on"), ("escape_string_warning", "off")),
    *(("default_transaction_isolation", "serializable"), ("default_transaction_deferrable", "on")),
    *(("client_min_messages", "debug1"), ("row_security", "off"), ("synchronize_seqscans", "off")),
    *(("lc_messages", "C.UTF-8"), ("lc_monetary", "C.UTF-8"), ("lc_numeric", "C.UTF-8"), ("lc_time", "C.UTF-8")),
    *(("default_text_search_config", "pg_catalog.simple"), ("icu_validation_level", "disabled")),
    ("lo_compat_privileges", "on"),
]
# All settings at once, as far as they can be combined.
ALL = {name: value for name, value in reversed(HOSTILE) if name != "extra_float_digits"} | {"extra_float_digits": "-15"}
CATEGORIES = (
    "Client Connection Defaults / Locale and Formatting",
    "Version and Platform Compatibility / Previous PostgreSQL Versions",
    "Version and Platform Compatibility / Other Platforms and Clients",
)
# Settings that lose values in text unless SET LOCAL precedes the statement, which AUTOCOMMIT does not allow.
LOSSY = {"extra_float_digits", "array_nulls"}


READ_SESSION: dict[str, Any] = {"isolation_level": "AUTOCOMMIT", "postgresql_readonly": True}
# PostgreSQL 15 does not have the setting that is left out.
SERVER = [f"{name}={value}" for name, value in ALL.items() if name != "icu_validation_level"]


@contextmanager
def engine_on(url: str) -> Iterator[Engine]:
    """An engine, whose next statement is the first one of a connection."""
    made = make_engine(read_database_settings({"DATABASE_URL": url}), pool_size=1, max_overflow=0)
    try:
        yield made
    finally:
        made.dispose()


def write(url: str, **options: Any) -> int:
    values = {name: value for name, (_, value) in VALUES.items()}
    with engine_on(url) as engine, engine.connect().execution_options(**options) as connection:
        row = int(connection.execute(insert(TABLE).values(values).returning(TABLE.c.id)).scalar_one())
        connection.commit()
        return row


def read(url: str, row: int, *expressions: str, **options: Any) -> list[Any]:
    """The row as SQLAlchemy's types read it, the row as the driver reads it, and the values of expressions."""
    everything = text("SELECT * FROM default_values WHERE id = :id").bindparams(id=row)
    casts = text(f"SELECT {', '.join(expressions)}".replace(":", "\\:"))
    with engine_on(url) as engine, engine.connect().execution_options(**options) as connection:
        results = [connection.execute(one).one() for one in (select(TABLE).where(TABLE.c.id == row), everything, casts)]
        return [*results[0][1:], *results[1][1:], *results[2]]


@pytest.fixture(scope="module")
def expected() -> Iterator[tuple[int, list[Any], list[Any]]]:
    """A row that was written with PostgreSQL's defaults, the values that were read from it, and the server's casts."""
    url = os.environ["DATABASE_URL"]
    with engine_on(url) as engine:
        TABLE.drop(engine, checkfirst=True)
        TABLE.create(engine)
        row = write(url)
        yield row, read(url, row, *EXPRESSIONS), read(url, row, *CASTS)
        TABLE.drop(engine)


@pytest.fixture
def role(database: Any) -> Iterator[tuple[str, Any]]:
    """A superuser that only this test uses, and a connection of another superuser."""
    name = f"defaults_{os.getpid()}"
    database.run(f"CREATE ROLE {name} LOGIN SUPERUSER")
    yield name, database
    database.run(f"DROP ROLE {name}")


@contextmanager
def changed(database: Any, what: str, **settings: str) -> Iterator[None]:
    """Other defaults of a role or a database, for connections that are opened during the block."""
    handlers_engine.dispose()
    try:
        for name, value in settings.items():
            # Not quoted as a whole, because the two words of DateStyle would then be one.
            database.run(f"ALTER {what} SET {name} = " + ", ".join(f"'{word}'" for word in value.split(", ")))
        yield
    finally:
        handlers_engine.dispose()
        for name in settings:  # the limits of the database stay (migration 0002)
            database.run(f"ALTER {what} RESET {name}")


def current(database: Any) -> str:
    return str(database.run("SELECT current_database()")[0][0])


def assert_values_travel(url: str, row: int, values: list[Any], casts: list[Any], *, is_lossy: bool) -> None:
    """Any first statement reads the row that was written with PostgreSQL's defaults, and the other way round."""
    for options in (READ_SESSION, {}):
        assert read(url, row, *EXPRESSIONS, **options) == values
        assert read(url, row, *CASTS, **options) == casts
    again = write(url)
    assert read(url, again, *EXPRESSIONS) == values
    if not is_lossy:
        again = write(url, isolation_level="AUTOCOMMIT")
        assert read(url, again, *EXPRESSIONS, isolation_level="AUTOCOMMIT") == values


def test_values_are_read_correctly_with_postgresql_s_defaults(expected: Any) -> None:
    _, values, _ = expected
    stored = [value for _, value in VALUES.values()]
    assert values[: len(stored)] == stored
    assert values[2 * len(stored) :][: len(INTERVALS)] == list(INTERVALS.values())


@pytest.mark.parametrize(("name", "value"), HOSTILE)
def test_values_do_not_depend_on_the_database_s_defaults(name: str, value: str, expected: Any, database: Any) -> None:
    with changed(database, f"DATABASE {current(database)}", **{name: value}):
        assert_values_travel(os.environ["DATABASE_URL"], *expected, is_lossy=name in LOSSY)


@pytest.mark.parametrize(("name", "value"), HOSTILE)
def test_values_do_not_depend_on_the_role_s_defaults(
    name: str, value: str, expected: Any, role: tuple[str, Any]
) -> None:
    who, database = role
    with changed(database, f"ROLE {who}", **{name: value}):
        url = os.environ["DATABASE_URL"].replace("//postgres@", f"//{who}@")
        assert_values_travel(url, *expected, is_lossy=name in LOSSY)


@pytest.mark.parametrize("programs", ["embedded", "system"])
def test_values_do_not_depend_on_the_server_s_defaults(
    programs: str, expected: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    _, values, casts = expected
    folder = tmp_path_factory.mktemp("server")
    for parent in (folder, *folder.parents[:2]):
        parent.chmod(0o755)
    where = required_program("postgres").parent if programs == "system" else None
    options = [word for setting in ("fsync=off", *SERVER) for word in ("-c", setting)]
    with server(folder / "data", *options, programs=where) as url, engine_on(url) as engine:
        TABLE.create(engine)
        assert_values_travel(url, write(url), values, casts, is_lossy=True)
        if where:  # the embedded server is built without XML
            with engine.begin() as connection:
                xml = "SELECT CAST(:xml AS xml), xmlelement(name e, CAST(:bytes AS bytea))"
                found = connection.execute(text(xml), {"xml": "a<b/>", "bytes": b"\0"}).one()
            assert list(found) == ["a<b/>", "<e>AA==</e>"]


@needs_pgbouncer
def test_values_do_not_depend_on_the_defaults_behind_a_pooler(expected: Any, database: Any) -> None:
    with (
        changed(database, f"DATABASE {current(database)}", **ALL),
        reserved_port() as port,
        pgbouncer(os.environ["DATABASE_URL"], port) as url,
    ):
        assert_values_travel(url, *expected, is_lossy=True)


PROBE = {"name": "Lamp \u0100 \\ ' 100%", "note": "a \\desk\nlamp \U0001f9e8"}


def response(*request: Any, **details: Any) -> tuple[int, Any]:
    response = call(*request, **details)
    return response.status, response.json


def post(key: str) -> tuple[int, Any]:
    return response("POST", "/probes/", PROBE, headers=[("Idempotency-Key", key)])


def reads() -> list[tuple[int, Any]]:
    requests = [(probe_path(1), ""), ("/probes/", ""), ("/probes/", "state=idle")]
    return [response("GET", path, query=query) for path, query in requests]


def without_times(probe: Any) -> Any:
    return probe | {"id": 0, "version": 0, "created_at": "", "updated_at": ""}


@pytest.mark.parametrize(("name", "value"), [*HOSTILE, ("all", "of them")])
def test_responses_do_not_depend_on_the_defaults(name: str, value: str, database: Any) -> None:
    first, read_before = post("first"), reads()
    assert [status for status, _ in (first, *read_before)] == [201, 200, 200, 200]
    with changed(database, f"DATABASE {current(database)}", **(ALL if name == "all" else {name: value})):
        assert post("first") == first
        assert reads() == read_before
        second = post("second")
        assert post("second") == second
        put = response("PUT", probe_path(1), PROBE, headers=[("If-Match", '"1"')])
    assert [status for status, _ in (second, put)] == [201, 200]
    assert without_times(first[1]) == without_times(second[1]) == without_times(put[1])
    assert post("second") == second
    assert response("GET", probe_path(1)) == (200, put[1])
    assert response("GET", f"/probes/{second[1]['id']}") == (200, second[1])


def test_every_setting_of_text_formats_is_tested(database: Any) -> None:
    found = database.run("SELECT name FROM pg_settings WHERE category = ANY(:these)", these=list(CATEGORIES))
    assert {name for (name,) in found} - {name for name, _ in HOSTILE} == {"allow_alter_system"}
