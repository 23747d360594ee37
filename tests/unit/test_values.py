"""Readers and writers of values as text. tests/integration/test_server_defaults.py tests them with PostgreSQL."""

from datetime import timedelta
from typing import Any

import pytest
from pg8000 import PGInterval, Range

from handler.database.driver.values import read_bytea, read_interval, write_array, write_interval, write_timedelta


@pytest.mark.parametrize("text", [r"\x005c27ff5c78", r"\000\\'\377\\x"])
def test_a_bytea_is_read_in_both_formats(text: str) -> None:
    assert read_bytea(text) == b"\x00\\'\xff\\x"


@pytest.mark.parametrize("text", ["", r"\x"])
def test_an_empty_bytea_is_read_in_both_formats(text: str) -> None:
    assert read_bytea(text) == b""


@pytest.mark.parametrize(
    ("expected", "texts"),
    [
        (timedelta(), ["00:00:00", "0", "@ 0", "PT0S"]),
        (timedelta(seconds=-5.5), ["-00:00:05.5", "-0:00:05.5", "@ 5.5 secs ago", "PT-5.5S"]),
        (timedelta(days=-3, hours=2), ["-3 days +02:00:00", "+0-0 -3 +2:00:00", "@ 3 days -2 hours ago", "P-3DT2H"]),
        (timedelta(days=-3, hours=-2), ["-3 days -02:00:00", "-3 2:00:00", "@ 3 days 2 hours ago", "P-3DT-2H"]),
        (PGInterval(years=-1, months=-2), ["-1 years -2 mons", "-1-2", "@ 1 year 2 mons ago", "P-1Y-2M"]),
        (PGInterval(months=-1, days=2, minutes=3), ["-1 mons +2 days 00:03:00", "-0-1 +2 +0:03:00", "P-1M2DT3M"]),
    ],
)
def test_an_interval_is_read_in_every_style(expected: Any, texts: list[str]) -> None:
    assert [read_interval(text) for text in texts] == [expected] * len(texts)


def test_an_interval_beyond_the_range_of_timedelta_is_read() -> None:
    assert read_interval("1000000000 days") == PGInterval(days=1_000_000_000)
    assert read_interval("-infinity") == "-infinity"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (write_timedelta(timedelta(seconds=-1)), "-1 days +86399 seconds +0 microseconds"),
        (write_interval(PGInterval(months=-1, days=2, seconds=0.5)), "-1 months +2 days +0.5 seconds"),
        (write_interval(PGInterval()), "0"),
    ],
)
def test_each_field_of_an_interval_is_written_with_its_sign(text: str, expected: str) -> None:
    assert text == expected


def test_the_elements_of_an_array_are_quoted_and_the_ranges_of_a_multirange_are_not() -> None:
    assert write_array(["null", None, 'a"\\', [1, b"\x00"]]) == r'{"null",NULL,"a\"\\",{"1","\\x00"}}'
    assert write_array([Range(1, 3), Range(5, None)]) == "{[1,3),[5,)}"
    assert write_array([]) == "{}"
