"""A server that sends too much or invalid messages causes one error, closes its connection, and takes little memory."""

import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from pg8000 import converters, dbapi

from handler.database.deadline import timeout_after
from handler.database.driver import protocol, results, stream
from tests.support.scripted_server import (
    BOUND,
    COPY_DONE,
    COPY_OUT,
    GREETING,
    NO_DATA,
    NOTICE,
    NOTIFICATION,
    PARSED,
    STATUS,
    complete,
    data_row,
    error,
    message,
    ready,
    row_description,
    scripted,
    select_reply,
)

CHUNK = 32 * 1024
KIB, MIB = 1024, 1024 * 1024
HUGE = (2**31 - 1).to_bytes(4)


class Endless:
    """Chunks of a message that is repeated without end. `taken` is the number of bytes that were read."""

    def __init__(self, *first: bytes, repeated: Callable[[int], bytes]) -> None:
        self.first, self.repeated, self.taken = first, repeated, 0

    def __iter__(self) -> Iterator[bytes]:
        numbers = itertools.count()
        while True:
            chunk = b"".join(self.first)
            self.first = ()
            while len(chunk) < CHUNK:
                chunk += self.repeated(next(numbers))
            self.taken += len(chunk)
            yield chunk


def in_chunks(*replies: bytes) -> Iterator[bytes]:
    data = b"".join(replies)
    return (data[start : start + CHUNK] for start in range(0, len(data), CHUNK))


def ask(reply: Iterable[bytes], statement: str = "select %s", values: tuple[Any, ...] = ("x",), **options: Any) -> Any:
    """Run a statement that gets `reply`, and return its rows. An error of the connection must close it."""
    with scripted(reply) as (connection, _), timeout_after(20):
        connection.autocommit = True
        try:
            return connection.run(statement, values, **options).rows
        except dbapi.Error:
            assert connection.closed
            raise


# Announced lengths


@pytest.mark.parametrize("letter", [bytes((letter,)) for letter in b"SNAZTDC12nIEtsGHdc3RKVWv"])
def test_a_message_that_is_announced_too_long_is_not_read(letter: bytes) -> None:
    for length in (2**31 - 1, 100 * MIB):
        reply = Endless(PARSED, BOUND, letter + length.to_bytes(4), repeated=lambda _: bytes(KIB))
        with pytest.raises(dbapi.DatabaseError):
            ask(reply)
        assert reply.taken <= 2 * CHUNK


def test_a_message_may_be_as_long_as_its_limit() -> None:
    text = "x" * (10 * MIB)
    assert ask(in_chunks(*select_reply(data_row(text)))) == [[text]]
    refusal = message(b"E", b"SERROR\0C42601\0M" + b"x" * (900 * KIB) + b"\0\0")
    with scripted(in_chunks(PARSED, refusal, ready("T"))) as (connection, _), pytest.raises(dbapi.ProgrammingError):
        connection.run("select %s", ("x",))


@pytest.mark.parametrize("letter", [b"E", b"N", b"T"])
def test_errors_notices_and_descriptions_are_shorter_than_rows(letter: bytes) -> None:
    reply = Endless(PARSED, BOUND, letter + (2 * MIB).to_bytes(4), repeated=lambda _: bytes(KIB))
    with pytest.raises(dbapi.InternalError, match="announces a message of"):
        ask(reply)
    assert reply.taken <= 2 * CHUNK


# The size of a reply

SMALL = {
    "rows": data_row("x" * KIB),
    "rows without a value": data_row(),
    "notices": NOTICE,
    "notifications": NOTIFICATION,
    "the same parameter": STATUS,
    "completed statements": complete("SELECT 1"),
    "errors": error("22012"),
}


@pytest.mark.parametrize("name", SMALL)
def test_an_endless_reply_is_an_error_at_the_limit(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = stream.REPLY_LIMIT if name == "rows" else MIB
    monkeypatch.setattr(stream, "REPLY_LIMIT", limit)
    described = (PARSED, BOUND, row_description(count=SMALL[name][6])) if name.startswith("rows") else (PARSED, BOUND)
    block = SMALL[name] * (CHUNK // len(SMALL[name]) + 1)
    reply = Endless(*described, repeated=lambda _: block)
    with pytest.raises(dbapi.InternalError, match=f"longer than {limit} bytes"):
        ask(reply)
    assert reply.taken <= limit + 2 * len(block)


def test_the_limit_applies_to_each_reply() -> None:
    rows = [data_row("x" * CHUNK)] * (stream.REPLY_LIMIT // CHUNK // 2)
    with scripted(*(in_chunks(*select_reply(*rows)) for _ in range(4))) as (connection, _):
        connection.autocommit = True
        for _ in range(4):
            assert len(connection.run("select %s", ("x",)).rows) == len(rows)


def test_data_that_a_stream_takes_is_not_limited() -> None:
    class Sink:
        size = 0

        def write(self, data: bytes) -> None:
            self.size += len(data)

    sink, line = Sink(), message(b"d", b"x" * KIB)
    lines = itertools.repeat(line * 30, (stream.REPLY_LIMIT + 8 * MIB) // (30 * KIB))
    reply = ((PARSED, BOUND, NO_DATA, COPY_OUT), lines, (COPY_DONE, complete("COPY 1"), ready("I")))
    assert ask(itertools.chain(*reply), "copy t to stdout", (), stream=sink) is None
    assert sink.size > stream.REPLY_LIMIT


def test_too_many_replies_are_an_error() -> None:
    reply = in_chunks(complete("SELECT 1") * (protocol.MAX_REPLIES + 1), ready("I"))
    with pytest.raises(dbapi.OperationalError, match="out of order"):
        ask(reply, "select 1; select 2", ())
    ask(in_chunks(complete("SELECT 1") * 10_000, ready("I")), "select 1; select 2", ())


def test_endless_parameters_are_rejected() -> None:
    reply = Endless(PARSED, BOUND, repeated=lambda number: message(b"S", f"p{number}\0x\0".encode()))
    with pytest.raises(dbapi.OperationalError, match="more than 100 parameters"):
        ask(reply)


def test_only_the_beginning_of_a_long_notice_is_kept() -> None:
    notice = message(b"N", b"SNOTICE\0M" + b"x" * (900 * KIB) + b"\0\0")
    with scripted(in_chunks(notice, *select_reply(data_row("a")))) as (connection, _):
        connection.autocommit = True
        assert connection.run("select %s", ("x",)).rows == [["a"]]
        assert 8_000 < sum(map(len, connection.notices[-1].values())) < 9_000


# Login


@pytest.mark.parametrize("first", [message(b"R", bytes(4)) + bytes((letter,)) + HUGE for letter in b"RSNKZEADv"])
def test_a_message_that_is_announced_too_long_at_login_is_not_read(first: bytes) -> None:
    reply = Endless(first, repeated=lambda _: bytes(KIB))
    with pytest.raises(dbapi.OperationalError), scripted(greeting=reply):
        pass
    assert reply.taken <= 2 * CHUNK


@pytest.mark.parametrize("repeated", [NOTICE, NOTIFICATION, STATUS, complete("SELECT 1")])
def test_an_endless_login_is_an_error_at_the_limit(repeated: bytes) -> None:
    reply = Endless(message(b"R", bytes(4)), repeated=lambda _: repeated)
    with pytest.raises(dbapi.OperationalError), scripted(greeting=reply):
        pass
    assert reply.taken <= stream.LOGIN_LIMIT + 2 * CHUNK


def test_endless_parameters_are_rejected_at_login() -> None:
    reply = Endless(message(b"R", bytes(4)), repeated=lambda number: message(b"S", f"p{number}\0x\0".encode()))
    with pytest.raises(dbapi.OperationalError, match="more than 100 parameters"), scripted(greeting=reply):
        pass


# Rows


ROWS = {
    "a value beyond the message": b"\x00\x01" + (9).to_bytes(4) + b"short",
    "a value far beyond": b"\x00\x01" + HUGE + b"short",
    "a value of negative length": b"\x00\x01" + (-2).to_bytes(4, signed=True) + b"x",
    "a value that goes back": b"\x00\x01" + (-4).to_bytes(4, signed=True),
    "no length": b"\x00\x01",
    "half a length": b"\x00\x01\x00\x00",
    "more than the row": b"\x00\x01" + (1).to_bytes(4) + b"xy",
    "another column": b"\x00\x02" + ((1).to_bytes(4) + b"x") * 2,
}


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_a_row_that_does_not_fill_its_message_is_an_error(row: bytes) -> None:
    with pytest.raises(dbapi.OperationalError, match="violated the protocol"):
        ask(select_reply(message(b"D", row)))


COLUMN = b"a\x00" + bytes(6) + converters.TEXT.to_bytes(4) + bytes(8)
DESCRIPTIONS = {
    "too many columns": (1665).to_bytes(2) + COLUMN * 1665,
    "fewer than it says": (3).to_bytes(2) + COLUMN * 2,
    "more than it says": (1).to_bytes(2) + COLUMN * 2,
    "a name without an end": (1).to_bytes(2) + b"a" * 30,
}


@pytest.mark.parametrize("description", DESCRIPTIONS.values(), ids=DESCRIPTIONS)
def test_an_invalid_row_description_is_an_error(description: bytes) -> None:
    rows = data_row(*"x" * int.from_bytes(description[:2]))
    with pytest.raises(dbapi.OperationalError, match="violated the protocol"):
        ask(in_chunks(PARSED, BOUND, message(b"T", description), rows, complete("SELECT 1"), ready("I")))


def test_a_result_may_have_1664_columns_and_a_long_description_is_not_cached() -> None:
    before = results.cached_columns.cache_info().currsize
    values = ["x"] * 1664
    assert ask(in_chunks(*select_reply(data_row(*values), count=1664))) == [values]
    assert results.cached_columns.cache_info().currsize == before


@pytest.mark.parametrize("name", ["KLINGON", "MULE_INTERNAL", "utf_16", "utf_7", "unicode_escape", "idna", "rot13", ""])
def test_an_unknown_client_encoding_is_an_error(name: str) -> None:
    status = message(b"S", f"client_encoding\0{name}\0".encode())
    with pytest.raises(dbapi.OperationalError, match="unknown client_encoding"):
        ask((status, *select_reply(data_row("x"))))
    with pytest.raises(dbapi.OperationalError, match="unknown client_encoding"), scripted(greeting=[status + GREETING]):
        pass


# Values

DIGITS = "2020-01-01 1:" + "1" * 200_000  # not in ISO 8601
SHAPES = {
    "digits": DIGITS,
    "spaces": " " * 200_000,
    "digits in an array": f'{{"{DIGITS}"}}',
    "digits in a range": f'["{DIGITS}",)',
    "digits in an array of ranges": f'{{"[{DIGITS},)"}}',
    "digits in a multirange": f'{{["{DIGITS}",)}}',
}


@pytest.mark.parametrize("shape", SHAPES)
def test_no_type_takes_quadratic_time(shape: str) -> None:
    """With quadratic time, 200 KB took 1.1 s and 1 MB took 36 s; with linear time, they take 0.1 s."""
    slow = {}
    with scripted() as (connection, _):
        for oid in converters.PG_TYPES:
            started = time.process_time()
            with suppress(Exception):
                connection.pg_types[oid](SHAPES[shape])
            slow[oid] = time.process_time() - started
    assert {oid: seconds for oid, seconds in slow.items() if seconds > 0.7} == {}


def test_a_timestamp_that_is_too_long_is_an_error_of_one_statement() -> None:
    for oid in (converters.TIMESTAMP, converters.TIMESTAMPTZ):
        replies = (in_chunks(*select_reply(data_row(DIGITS), oid=oid)), select_reply(data_row("a")))
        with scripted(*replies) as (connection, _):
            connection.autocommit = True
            with pytest.raises(dbapi.InternalError, match="a value of the result cannot be read"):
                connection.run("select %s", ("x",))
            assert connection.run("select %s", ("x",)).rows == [["a"]]


@pytest.mark.parametrize("oid", [converters.INTEGER_ARRAY, converters.TEXT_ARRAY, converters.RECORD])
def test_a_value_that_python_reads_by_characters_is_limited(oid: int) -> None:
    text = "{" + "1," * (3 * MIB) + "1}"
    with pytest.raises(dbapi.OperationalError, match="a value of 6291459 bytes"):
        ask(in_chunks(*select_reply(data_row("a", text), oid=oid, count=2)))
    assert ask(in_chunks(*select_reply(data_row("a", text), count=2))) == [["a", text]]


def test_an_array_of_timestamps_that_only_pg8000_reads_ends_at_the_deadline() -> None:
    """Each timestamp takes 0.1 ms, and an array may have 150,000."""
    odd = ",".join(['"17.12.1997 07:37:16 +01:00"'] * 100_000)
    with scripted(in_chunks(*select_reply(data_row(f"{{{odd}}}"), oid=converters.TIMESTAMPTZ_ARRAY))) as (
        connection,
        _,
    ):
        connection.autocommit = True
        started = time.process_time()
        with timeout_after(0.5), pytest.raises(dbapi.Error):
            connection.run("select %s", ("x",))
        assert time.process_time() - started < 3


@pytest.mark.parametrize(
    ("oid", "text", "value"),
    [
        (converters.TIMESTAMP, "infinity", "infinity"),
        (converters.TIMESTAMP, "294276-12-31 23:59:59.999999", "294276-12-31 23:59:59.999999"),
        (converters.TIMESTAMP, "4713-01-01 00:00:00 BC", "4713-01-01 00:00:00 BC"),
    ],
)
def test_a_timestamp_outside_of_datetime_is_returned_as_text(oid: int, text: str, value: Any) -> None:
    assert ask(select_reply(data_row(text), oid=oid)) == [[value]]
