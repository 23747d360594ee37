"""A request that loses a race is run again, where the rollback of its session undoes all of its effects."""

import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fastapi import APIRouter, BackgroundTasks, FastAPI, Request
from sqlalchemy import text
from sqlalchemy.orm import Session

from handler.adapter.adapter import TIME_TO_RESPOND
from handler.api.routing import ApiRoute, RepeatableRoute
from handler.database.session import SessionDep
from local.events import Context
from tests.support.client import Response, call, create_probe, probe_names
from tests.support.database import connect
from tests.support.probe.models import Probe
from tests.support.proxy import Proxy

KEY = ("idempotency-key", "3f8e2c1a")
ATTEMPTS = 9  # the first attempt and 8 repeats
# Raises where PostgreSQL detects a lost race: at COMMIT, or in a statement. A sequence counts the attempts, because it
# is not rolled back.
LOSE = """
CREATE SEQUENCE races;
CREATE FUNCTION lose() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF nextval('races') <= TG_ARGV[0]::int THEN RAISE EXCEPTION 'lost' USING ERRCODE = TG_ARGV[1]; END IF;
    RETURN NEW;
END $$;
"""
AT_COMMIT = "CREATE CONSTRAINT TRIGGER lose AFTER INSERT ON probes DEFERRABLE INITIALLY DEFERRED FOR EACH ROW"
IN_STATEMENT = "CREATE TRIGGER lose BEFORE INSERT ON probes FOR EACH ROW"

Races = Callable[..., Callable[[], int]]


@pytest.fixture
def races(database: Any) -> Iterator[Races]:
    """A function that makes the first inserts lose a race, and returns a function that counts the attempts."""

    def lose(times: int, sqlstate: str = "40001", when: str = AT_COMMIT) -> Callable[[], int]:
        database.run(f"{LOSE} {when} EXECUTE FUNCTION lose({times}, '{sqlstate}')")
        return lambda: int(database.run("SELECT last_value FROM races")[0][0])

    yield lose
    database.run("DROP TRIGGER lose ON probes; DROP FUNCTION lose; DROP SEQUENCE races")


@pytest.fixture
def warm(configure: Callable[..., None]) -> None:
    """Connect, and disable the idle check, which would add a round trip on a slow machine."""
    configure(idle_check=300)
    assert call("GET", "/health/ready").status == 200


@pytest.fixture
def include(app: FastAPI) -> Callable[[type[ApiRoute], Callable[..., Any]], None]:
    """A function that adds the route POST /test/race of a route class."""

    def add(route_class: type[ApiRoute], endpoint: Callable[..., Any]) -> None:
        router = APIRouter(prefix="/test", route_class=route_class)
        router.post("/race")(endpoint)
        app.include_router(router)

    return add


def post(*headers: tuple[str, str], context: Context | None = None) -> Response:
    return call("POST", "/probes/", {"name": "Lamp"}, headers=headers, context=context)


def assert_busy(response: Response) -> None:
    assert (response.status, response.headers["content-type"]) == (503, "application/problem+json")
    assert int(response.headers["retry-after"]) >= 1


@pytest.mark.parametrize("sqlstate", ["40001", "40P01"], ids=["serialization failure", "deadlock"])
@pytest.mark.parametrize("when", [AT_COMMIT, IN_STATEMENT], ids=["at COMMIT", "in a statement"])
@pytest.mark.parametrize("headers", [(), (KEY,)], ids=["", "with a key"])
def test_a_request_that_loses_a_race_three_times_succeeds_at_the_fourth_attempt(
    headers: tuple[tuple[str, str], ...], when: str, sqlstate: str, races: Races, database: Any
) -> None:
    attempts = races(3, sqlstate, when)
    first = post(*headers)
    assert (first.status, attempts()) == (201, 4)
    assert probe_names(database) == ["Lamp"]
    if headers:
        assert post(*headers).body == first.body
        assert probe_names(database) == ["Lamp"]


@pytest.mark.parametrize("headers", [(), (KEY,)], ids=["", "with a key"])
def test_a_race_that_is_always_lost_is_503_after_eight_repeats_and_stores_nothing(
    headers: tuple[tuple[str, str], ...], races: Races, database: Any, logged_requests: list[dict[str, Any]]
) -> None:
    attempts = races(1000)
    assert_busy(post(*headers))
    assert attempts() == ATTEMPTS
    assert [(line["status"], line["repeats"]) for line in logged_requests] == [(503, ATTEMPTS - 1)]
    assert probe_names(database) == []
    database.run("ALTER TABLE probes DISABLE TRIGGER lose")
    assert post(*headers).status == 201, "a failed request does not keep the key"
    assert probe_names(database) == ["Lamp"]


@pytest.mark.usefixtures("warm")
@pytest.mark.parametrize("times", [0, 1, 2])
def test_the_log_line_has_the_number_of_repeats(
    times: int, races: Races, logged_requests: list[dict[str, Any]]
) -> None:
    races(times)
    assert post().status == 201
    (line,) = logged_requests
    assert (line["repeats"], line["route"], line["RoundTrips"]) == (times, "/probes/", 2 * (times + 1))


def test_a_request_that_loses_a_race_of_two_transactions_is_run_again(
    include: Callable[..., None], database: Any, logged_requests: list[dict[str, Any]]
) -> None:
    """Write skew: each transaction counts, then inserts (PostgreSQL manual, 13.2.3 "Serializable Isolation Level")."""
    count = "SELECT count(*) FROM probes"

    async def endpoint(session: SessionDep) -> int:
        session.connection(execution_options={"isolation_level": "SERIALIZABLE"})
        found = session.scalar(text(count))
        if not found:
            with connect(os.environ["DATABASE_URL"]) as other:
                other.run(f"BEGIN ISOLATION LEVEL SERIALIZABLE; {count}")
                other.run("INSERT INTO probes (name) VALUES ('theirs'); COMMIT")
        session.add(Probe(name="ours"))
        return int(found or 0)

    include(RepeatableRoute, endpoint)
    assert call("POST", "/test/race").json == 1
    assert probe_names(database) == ["theirs", "ours"]
    assert [line["repeats"] for line in logged_requests] == [1]


def test_a_constraint_that_refuses_at_commit_is_409_after_one_attempt(
    races: Races, database: Any, logged_requests: list[dict[str, Any]]
) -> None:
    attempts = races(1000, "23505")
    assert post().status == 409
    assert attempts() == 1
    assert [line["repeats"] for line in logged_requests] == [0]
    assert probe_names(database) == []


def test_a_commit_with_an_unknown_result_is_never_repeated(
    include: Callable[..., None], proxy: Proxy, database: Any, logged_requests: list[dict[str, Any]]
) -> None:
    calls = []

    async def endpoint(session: SessionDep) -> None:
        calls.append(1)
        session.add(Probe(name="in doubt"))
        session.flush()
        proxy.reset_on_next_write()

    include(RepeatableRoute, endpoint)
    create_probe("before")
    logged_requests.clear()
    assert_busy(call("POST", "/test/race"))
    assert len(calls) == 1
    assert [line["repeats"] for line in logged_requests] == [0]
    assert probe_names(database) == ["before"]
    assert create_probe("after")["name"] == "after"


@pytest.mark.parametrize("when", [AT_COMMIT, IN_STATEMENT], ids=["at COMMIT", "in a statement"])
def test_a_route_that_is_not_repeatable_is_never_repeated(
    when: str, include: Callable[..., None], races: Races, database: Any
) -> None:
    """The route may have sent a message, or called another service."""
    calls = []

    async def endpoint(session: SessionDep) -> None:
        calls.append(1)
        session.execute(text("SELECT 1"))
        session.add(Probe(name="x"))

    include(ApiRoute, endpoint)
    attempts = races(1, when=when)
    assert_busy(call("POST", "/test/race"))
    assert (len(calls), attempts()) == (1, 1)
    assert probe_names(database) == []
    assert call("POST", "/test/race").status == 200
    assert probe_names(database) == ["x"]


def test_a_plain_route_of_fastapi_is_never_repeated(app: FastAPI, races: Races, database: Any) -> None:
    @app.post("/test/plain")
    async def _route(session: SessionDep) -> None:
        session.execute(text("SELECT 1"))
        session.add(Probe(name="x"))

    attempts = races(1)
    assert_busy(call("POST", "/test/plain"))
    assert attempts() == 1
    assert probe_names(database) == []


@pytest.mark.usefixtures("warm")
def test_a_pause_ends_before_the_deadline(races: Races, database: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """All pauses together take at least half a second, and the database has 0.3 s of this invocation."""
    attempts, context, sleep = races(1000), Context(timeout=0.8), time.sleep
    pauses = []

    def pause(seconds: float) -> None:
        left = context.get_remaining_time_in_millis() / 1000 - TIME_TO_RESPOND
        pauses.append((seconds, left))
        sleep(seconds)

    monkeypatch.setattr(time, "sleep", pause)
    assert_busy(post(context=context))
    assert pauses
    assert all(seconds < left + 0.002 for seconds, left in pauses), "milliseconds are rounded"
    assert context.get_remaining_time_in_millis() > 0
    assert 1 < attempts() < ATTEMPTS
    assert probe_names(database) == []
    database.run("ALTER TABLE probes DISABLE TRIGGER lose")
    assert post().status == 201


def test_background_tasks_of_a_repeated_request_run_once(
    include: Callable[..., None], races: Races, database: Any
) -> None:
    calls: list[int] = []
    ran: list[int] = []

    async def endpoint(session: SessionDep, tasks: BackgroundTasks) -> None:
        calls.append(1)
        tasks.add_task(ran.append, len(calls))
        session.add(Probe(name="x"))

    include(RepeatableRoute, endpoint)
    races(2)
    assert call("POST", "/test/race").status == 200
    assert (len(calls), ran) == (3, [3])
    assert probe_names(database) == ["x"]


def test_each_attempt_has_a_session_and_a_state_of_its_own(include: Callable[..., None], races: Races) -> None:
    sessions: list[Session] = []
    states = []

    async def endpoint(request: Request, session: SessionDep) -> None:
        sessions.append(session)
        states.append(getattr(request.state, "seen", None))
        request.state.seen = True
        session.add(Probe(name="x"))

    include(RepeatableRoute, endpoint)
    races(2)
    assert call("POST", "/test/race").status == 200
    assert len({id(session) for session in sessions}) == 3
    assert states == [None, None, None]


def test_a_body_is_read_again_by_each_attempt(races: Races, database: Any) -> None:
    races(2)
    assert call("POST", "/probes/", {"name": "x" * 200, "note": "\U0001f9e8" * 10_000}).status == 201
    assert database.run("SELECT length(name), length(note) FROM probes") == [[200, 10_000]]
