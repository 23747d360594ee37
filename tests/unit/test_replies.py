"""With mutated replies, a connection returns the right result or raises. It never returns a wrong result, also later.

The server is a script behind a real socket: it replies to each flush with the chunks of the test. Some mutations of a
valid reply are valid replies with another meaning; `is_legal_too` recognizes them.
"""

import io
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pg8000 import dbapi

from handler.database.driver.connection import Connection
from tests.support.scripted_server import (
    BOUND,
    COPY_DONE,
    COPY_IN,
    COPY_OUT,
    EMPTY,
    INTEGER,
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
)

# What may answer a query, and a statement with parameters: the manual's 54.2.2 and 54.2.3.
QUERY = "(?:(?:TD*)?C|I|Hd*cC)+Z"
STATEMENT = "12(?:TD*|n)(?:C|I|GC|Hd*cC)Z"
KNOWN = zip(b"RKSNAZTDC12nIEtsGHdc3", strict=True)
FOLLOWING = "the answer to the second statement"


BEGUN = (PARSED, BOUND, complete("BEGIN"))
SHOWN = (PARSED, BOUND, data_row("on"), complete("SHOW"))
# `select %s` in autocommit or not: the second statement of each case.
NEXT_REPLY = b"".join((PARSED, BOUND, row_description(), data_row(FOLLOWING), complete("SELECT 1")))
ROLLED_BACK = complete("ROLLBACK") + ready("I")
NEXT_REPLIES = {
    "I": NEXT_REPLY + ready("I"),
    "T": NEXT_REPLY + ready("T"),
    "begin": b"".join((*BEGUN, NEXT_REPLY, ready("T"))),
}


Replies = tuple[bytes, ...]


class Exchange(NamedTuple):
    """A question, and the messages that answer it; `answer` is a result, or an error's SQLSTATE."""

    ask: Callable[[Connection], Any]
    answer: Any
    replies: Replies
    autocommit: bool = True
    begun: bool = False  # a transaction is open before it
    simple: bool = False  # it travels as a query, without parameters
    quiet: bool = False  # it closes the connection without an error
    shows: bool = False  # the connection needs a setting, and asks for the server's own

    @property
    def status(self) -> str:
        return self.replies[-1][5:].decode()


def run(*args: Any, **kwargs: Any) -> Callable[[Connection], Any]:
    """The rows and the row count of a statement."""

    def ask(connection: Connection) -> Any:
        context = connection.run(*args, **kwargs)
        return context.rows, context.row_count

    return ask


def copied(connection: Connection) -> str:
    stream = io.StringIO()
    connection.run("copy t to stdout", stream=stream)
    return stream.getvalue()


def is_alive(connection: Connection) -> bool:
    connection._idle_check = 0.0
    return connection.is_alive()


def selected(value: str) -> Replies:
    return row_description(), data_row(value), complete("SELECT 1")


# Results of one row at most: that rows have changed places cannot be seen.
EXCHANGES = {
    "select": Exchange(
        run("select %s", ("x",)), ([["x1"]], 1), (PARSED, BOUND, *selected("x1"), ready("I"))
    ),
    "select in a new transaction": Exchange(
        run("select %s", ("x",)),
        ([["x2"]], 1),
        (*BEGUN, PARSED, BOUND, *selected("x2"), ready("T")),
        autocommit=False,
    ),
    "select in an open transaction": Exchange(
        run("select %s", ("x",)),
        ([["x3"]], 1),
        (PARSED, BOUND, *selected("x3"), ready("T")),
        autocommit=False,
        begun=True,
    ),
    "two columns": Exchange(
        run("select %s, %s", (1, 2)),
        ([[1, 2]], 1),
        (PARSED, BOUND, row_description(INTEGER, 2), data_row("1", "2"), complete("SELECT 1"), ready("I")),
    ),
    "no rows": Exchange(
        run("select %s", ("x",)),
        ([], 0),
        (PARSED, BOUND, row_description(), complete("SELECT 0"), ready("I")),
    ),
    "insert": Exchange(
        run("insert into t values (%s)", ("x",)),
        (None, 1),
        (PARSED, BOUND, NO_DATA, complete("INSERT 0 1"), ready("I")),
    ),
    "insert in a new transaction": Exchange(
        run("insert into t values (%s)", ("x",)),
        (None, 1),
        (*BEGUN, PARSED, BOUND, NO_DATA, complete("INSERT 0 1"), ready("T")),
        autocommit=False,
    ),
    "with asynchronous messages": Exchange(
        run("select %s", ("x",)),
        ([["x4"]], 1),
        (
            *(NOTICE, PARSED, BOUND, row_description(), NOTICE, data_row("x4"), STATUS, complete("SELECT 1")),
            *(NOTIFICATION, ready("I")),
        ),
    ),
    "select without parameters": Exchange(
        run("select 'x'"), ([["x5"]], 1), (*selected("x5"), ready("I")), simple=True
    ),
    "select without parameters in a new transaction": Exchange(
        run("select 'x'"),
        ([["x6"]], 1),
        (*BEGUN, PARSED, BOUND, *selected("x6"), ready("T")),
        autocommit=False,
    ),
    "select in the first transaction": Exchange(
        run("select %s", ("x",)),
        ([["x9"]], 1),
        (*BEGUN, *SHOWN, PARSED, BOUND, *selected("x9"), ready("T")),
        autocommit=False,
        shows=True,
    ),
    "insert in the first transaction": Exchange(
        run("insert into t values (%s)", ("x",)),
        (None, 1),
        (*BEGUN, *SHOWN, PARSED, BOUND, NO_DATA, complete("INSERT 0 1"), ready("T")),
        autocommit=False,
        shows=True,
    ),
    "insert without parameters in a new transaction": Exchange(
        run("insert into t values ('x')"),
        (None, 1),
        (*BEGUN, PARSED, BOUND, NO_DATA, complete("INSERT 0 1"), ready("T")),
        autocommit=False,
    ),
    "nothing": Exchange(run(""), (None, -1), (EMPTY, ready("I")), simple=True),
    "refused": Exchange(run("select %s", ("x",)), "22012", (PARSED, error("22012"), ready("I"))),
    "refused in a new transaction": Exchange(
        run("insert into t values (%s)", ("x",)),
        "23505",
        (*BEGUN, PARSED, BOUND, NO_DATA, error("23505"), ready("E")),
        autocommit=False,
    ),
    "refused after a row": Exchange(
        run("select %s", ("x",)),
        "22012",
        (PARSED, BOUND, row_description(), data_row("x7"), error("22012"), ready("I")),
    ),
    "refused without parameters": Exchange(run("select 1/0"), "22012", (error("22012"), ready("I")), simple=True),
    "unreadable": Exchange(
        run("select %s", ("x",)),
        "XX000",
        (PARSED, BOUND, row_description(INTEGER), data_row("x8"), complete("SELECT 1"), ready("I")),
    ),
    "copy out": Exchange(
        copied,
        "1\n",
        (PARSED, BOUND, NO_DATA, COPY_OUT, message(b"d", b"1\n"), COPY_DONE, complete("COPY 1"), ready("I")),
    ),
    "copy in": Exchange(
        run("copy t from stdin", stream=["1\n"]),
        (None, 1),
        (PARSED, BOUND, NO_DATA, COPY_IN, complete("COPY 1"), ready("I")),
    ),
    "commit": Exchange(
        Connection.commit, None, (complete("COMMIT"), ready("I")), autocommit=False, begun=True, simple=True
    ),
    "rollback": Exchange(
        Connection.rollback,
        None,
        (complete("ROLLBACK"), ready("I")),
        autocommit=False,
        begun=True,
        simple=True,
        quiet=True,
    ),
    "ping": Exchange(is_alive, True, (EMPTY, ready("I")), simple=True, quiet=True),
}  # fmt: skip
MESSAGES = sorted(
    {reply for exchange in EXCHANGES.values() for reply in exchange.replies}
    | {message(b"R", bytes(4)), message(b"K", bytes(8)), message(b"s"), message(b"3"), message(b"t", bytes(2))}
)
MUTABLE = pytest.mark.parametrize("exchange", EXCHANGES.values(), ids=EXCHANGES)


def outcome(ask: Callable[[], Any]) -> Any:
    """What `ask` returns, or the error that it raises; whatever PEP 249 does not know fails the test."""
    try:
        return ask()
    except dbapi.Error as error:
        return error


def is_answer(exchange: Exchange, result: Any) -> bool:
    if isinstance(result, dbapi.DatabaseError):
        return bool(result.args[0].get("C") == exchange.answer)
    return bool(result == exchange.answer)


def converse(exchange: Exchange, *chunks: bytes, exact: bool = True) -> tuple[Any, bool]:
    """Ask, be answered with `chunks`, then ask something else. Returns the result, and whether it closed.

    Holds for whatever is in `chunks`: what returns has the answer, unless not `exact`; what is in doubt is closed,
    and said to be; the next statement has its own answer, or none.
    """
    before = [(NEXT_REPLIES["begin"],)] if exchange.begun else []
    after = [(ROLLED_BACK,)] if exchange.status == "E" else []
    after.append((NEXT_REPLIES["T" if exchange.status == "T" else "I" if exchange.autocommit else "begin"],))
    with scripted(*before, chunks, *after, shows=exchange.shows) as (connection, _):
        connection.autocommit = exchange.autocommit
        if exchange.begun:
            connection.run("select %s", ("x",))
        result = outcome(lambda: exchange.ask(connection))
        closed = connection.closed
        refused = isinstance(result, dbapi.Error)
        assert refused or not exact or exchange.quiet or is_answer(exchange, result)
        assert refused or not closed or exchange.quiet
        if exchange.status == "E":
            connection.rollback()
        following = outcome(lambda: connection.run("select %s", ("x",)).rows)
        if closed:
            assert isinstance(following, dbapi.InterfaceError)
        else:
            assert following == [[FOLLOWING]] or connection.closed or following.args[0]["C"] == "25P02"
        return result, closed


def letters_of(replies: Iterable[bytes]) -> str:
    """Up to ReadyForQuery, without what may come at any moment."""
    letters, ready, _ = "".join(reply[:1].decode() for reply in replies if reply[:1] not in b"NAS").partition("Z")
    return letters + ready


def is_legal_too(exchange: Exchange, replies: Iterable[bytes]) -> bool:
    """Whether the server could have said just this, and meant another answer, which no order of messages betrays.

    A result may have any number of rows, and a query may be any number of statements.
    """
    letters = letters_of(replies)
    if exchange.simple:
        return bool(re.fullmatch("C" * (not exchange.autocommit and not exchange.begun) + QUERY, letters))
    return same_but_for_rows(letters) == same_but_for_rows(letters_of(exchange.replies))


def same_but_for_rows(letters: str) -> str:
    return re.sub("(?<=H)d+", "", re.sub("(?<=T)D+", "", letters))


def is_well_formed(exchange: Exchange, replies: Iterable[bytes]) -> bool:
    """Whether it could answer some statement of the same kind."""
    begun = not exchange.autocommit and not exchange.begun
    form = "C" * begun + QUERY if exchange.simple else "12C" * begun + "12DC" * exchange.shows + STATEMENT
    return bool(re.fullmatch(form, letters_of(replies)))


def shortened(replies: Replies) -> Iterator[Replies]:
    for index in range(len(replies)):
        yield replies[:index] + replies[index + 1 :]


def doubled(replies: Replies) -> Iterator[Replies]:
    for index, reply in enumerate(replies):
        yield (*replies[:index], reply, *replies[index:])


def swapped(replies: Replies) -> Iterator[Replies]:
    for index in range(len(replies) - 1):
        yield (*replies[:index], replies[index + 1], replies[index], *replies[index + 2 :])


def interspersed(replies: Replies) -> Iterator[Replies]:
    for foreign in MESSAGES:
        for index in range(len(replies) + 1):
            yield (*replies[:index], foreign, *replies[index:])


def missized(replies: Replies) -> Iterator[Replies]:
    """Lengths that are invalid, too short or too long."""
    for index, reply in enumerate(replies):
        right = len(reply) - 1
        for length in {-(2**31), -1, 0, 3, 4, right - 1, right + 1, right + 5, 2**31 - 1} - {right}:
            yield (*replies[:index], reply[:1] + length.to_bytes(4, signed=True) + reply[5:], *replies[index + 1 :])


@MUTABLE
def test_a_complete_reply_is_the_result_and_leaves_the_connection_synchronized(exchange: Exchange) -> None:
    result, closed = converse(exchange, b"".join(exchange.replies))

    assert is_answer(exchange, result)
    assert not closed


@MUTABLE
def test_a_reply_split_at_any_byte_is_the_result(exchange: Exchange) -> None:
    data = b"".join(exchange.replies)
    for place in range(1, len(data)):
        result, closed = converse(exchange, data[:place], data[place:])
        assert is_answer(exchange, result), place
        assert not closed


@MUTABLE
def test_a_reply_in_single_bytes_is_the_result(exchange: Exchange) -> None:
    result, closed = converse(exchange, *(bytes((byte,)) for byte in b"".join(exchange.replies)))

    assert is_answer(exchange, result)
    assert not closed


@MUTABLE
def test_a_reply_truncated_at_any_byte_closes_the_connection(exchange: Exchange) -> None:
    data = b"".join(exchange.replies)
    for place in range(len(data)):
        result, closed = converse(exchange, data[:place])
        assert closed, place
        assert exchange.quiet or isinstance(result, dbapi.Error), place


@MUTABLE
@pytest.mark.parametrize("mutate", [shortened, doubled, swapped, interspersed])
def test_a_mutated_reply_gives_no_wrong_result(
    exchange: Exchange, mutate: Callable[[Replies], Iterator[Replies]]
) -> None:
    for replies in mutate(exchange.replies):
        converse(exchange, b"".join(replies), exact=not is_legal_too(exchange, replies))


@MUTABLE
def test_a_message_of_a_wrong_length_gives_no_wrong_result(exchange: Exchange) -> None:
    for replies in missized(exchange.replies):
        converse(exchange, b"".join(replies))


@MUTABLE
def test_the_reply_to_another_statement_gives_no_wrong_result(exchange: Exchange) -> None:
    """Unless it has the same form, because a reply does not name its statement."""
    for other in EXCHANGES.values():
        converse(exchange, b"".join(other.replies), exact=not is_well_formed(exchange, other.replies))


@MUTABLE
def test_an_extra_reply_is_not_the_result_of_the_next_statement(exchange: Exchange) -> None:
    converse(exchange, b"".join(exchange.replies * 2))
    converse(exchange, b"".join((*exchange.replies, *EXCHANGES["select"].replies)))


@MUTABLE
def test_a_fatal_error_after_a_reply_changes_neither_that_result_nor_the_next(exchange: Exchange) -> None:
    """A server process that is ended between two statements."""
    replies = (*exchange.replies, error("57P01", "FATAL"))
    before = [(NEXT_REPLIES["begin"],)] if exchange.begun else []
    with scripted(*before, (b"".join(replies),), shows=exchange.shows) as (connection, _):
        connection.autocommit = exchange.autocommit
        if exchange.begun:
            connection.run("select %s", ("x",))
        assert is_answer(exchange, outcome(lambda: exchange.ask(connection)))
        following = outcome(lambda: connection.run("select %s", ("y",)))
        assert isinstance(following, dbapi.Error)
        assert connection.closed


@MUTABLE
@settings(max_examples=50, deadline=None, derandomize=True, database=None)
@given(data=st.data())
def test_garbage_in_a_reply_gives_no_wrong_result(exchange: Exchange, data: st.DataObject) -> None:
    """Between messages. Inside a message it could change a value, which only the transport can detect."""
    index = data.draw(st.integers(0, len(exchange.replies) - 1), label="where")
    lost = data.draw(st.integers(0, 2), label="messages that it replaces")
    garbage = data.draw(st.binary(min_size=1, max_size=12), label="garbage")
    converse(exchange, b"".join((*exchange.replies[:index], garbage, *exchange.replies[index + lost :])))


@MUTABLE
@settings(max_examples=50, deadline=None, derandomize=True, database=None)
@given(replies=st.lists(st.sampled_from(MESSAGES), max_size=8))
def test_messages_in_any_order_give_no_wrong_result(exchange: Exchange, replies: list[bytes]) -> None:
    replies = [*replies, ready(exchange.status)]
    converse(exchange, b"".join(replies), exact=not is_well_formed(exchange, replies))


@pytest.mark.parametrize("mutate", [shortened, doubled, swapped, interspersed, missized])
@pytest.mark.parametrize("name", [name for name, exchange in EXCHANGES.items() if exchange.status == "T"])
def test_commit_after_a_mutated_reply_succeeds_only_if_it_was_sent(
    name: str, mutate: Callable[[Replies], Iterator[Replies]]
) -> None:
    exchange = EXCHANGES[name]
    before = [(NEXT_REPLIES["begin"],)] if exchange.begun else []
    for replies in mutate(exchange.replies):
        after = (complete("COMMIT") + ready("I"),)
        with scripted(*before, (b"".join(replies),), after, shows=exchange.shows) as (connection, script):
            if exchange.begun:
                connection.run("select %s", ("x",))
            if not isinstance(outcome(lambda: exchange.ask(connection)), dbapi.Error):
                committed = outcome(connection.commit)
                assert isinstance(committed, dbapi.Error) or script.sent.endswith(b"commit\0")


@pytest.mark.parametrize("last", ["", "E", "E without fields", "C"])
def test_the_end_of_the_stream_is_an_operational_error_with_its_fields(last: str) -> None:
    """The API maps errors by their SQLSTATE (`exc.args[0]["C"]`)."""
    words = {
        "": b"",
        "E": error("57P01", "FATAL"),
        "E without fields": message(b"E", b"\0"),
        "C": complete("ROLLBACK"),
    }
    failed = b"".join(EXCHANGES["refused in a new transaction"].replies)
    with scripted((failed,), (words[last],)) as (connection, _):
        with pytest.raises(dbapi.IntegrityError):
            connection.run("insert into t values (%s)", ("x",))
        with pytest.raises(dbapi.OperationalError) as lost:
            connection.run("commit")
        assert connection.closed
        assert lost.value.args[0]["C"] == ("57P01" if last == "E" else "08006")


@pytest.mark.parametrize("code", sorted({bytes((byte,)) for byte in range(256)} - set(map(bytes, KNOWN))))
def test_an_unknown_message_closes_the_connection(code: bytes) -> None:
    result, closed = converse(EXCHANGES["select"], message(code), *EXCHANGES["select"].replies)

    assert isinstance(result, dbapi.OperationalError)
    assert closed
