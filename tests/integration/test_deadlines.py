"""Every request gets a response before its invocation ends, for every kind of wait."""

import os
import time
from typing import Any

import pytest
from fastapi import FastAPI
from sqlalchemy import text
from sqlalchemy.orm import Session

from handler.database.engine import engine
from handler.database.session import SessionDep
from handler.migrations.upgrade import upgrade
from handler.settings import read_database_settings
from local.events import Context
from tests.support.client import assert_unavailable, call, create_probe, probe_path
from tests.support.database import connect, temporary_database
from tests.support.proxy import Proxy

BUSY = (
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
    " AND pid <> pg_backend_pid() AND state = 'active' AND backend_type = 'client backend'"
)


def no_backend_is_busy() -> bool:
    """Wait until no backend is busy, because a backend stops some time after a cancel request.

    Uses a separate connection, because pg_stat_activity does not change within a transaction.
    """
    deadline = time.monotonic() + 10
    with connect(os.environ["DATABASE_URL"]) as observer:
        while observer.run(BUSY) != [[0]]:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.01)
    return True


def test_a_lock_that_is_not_granted_is_503_and_its_backend_stops_waiting(database: Any) -> None:
    create_probe()
    database.run("BEGIN")
    database.run("SELECT * FROM probes FOR UPDATE")
    context = Context(timeout=1.0)
    assert_unavailable(call("PATCH", probe_path(1), {"name": "new"}, context=context))
    assert context.get_remaining_time_in_millis() > 0
    assert no_backend_is_busy(), "the statement was not cancelled on the server"
    database.run("ROLLBACK")
    assert call("PATCH", probe_path(1), {"name": "new"}).json["version"] == 2


def test_a_statement_that_takes_too_long_is_503_and_is_cancelled_on_the_server(app: FastAPI) -> None:
    @app.get("/test/slow")
    async def _route(session: SessionDep) -> None:
        session.execute(text("SELECT pg_sleep(60)"))

    context = Context(timeout=1.0)
    assert_unavailable(call("GET", "/test/slow", context=context))
    assert context.get_remaining_time_in_millis() > 0
    assert no_backend_is_busy()
    assert call("GET", "/probes/").status == 200


def test_too_little_time_is_503_at_once_and_sends_nothing(proxy: Proxy) -> None:
    create_probe()
    with proxy.counting() as count:
        for method, path, body in [("GET", probe_path(1), None), ("POST", "/probes/", {"name": "x"})]:
            assert_unavailable(call(method, path, body, context=Context(timeout=0.4)))
        assert call("GET", "/health/live", context=Context(timeout=0.4)).status == 200
    assert count.bytes_sent == 0
    assert call("GET", probe_path(1)).status == 200


def test_no_time_for_the_commit_is_503_and_nothing_is_stored(app: FastAPI, database: Any) -> None:
    @app.post("/test/late")
    async def _route(session: SessionDep) -> None:
        session.execute(text("INSERT INTO probes (name) VALUES ('late')"))
        time.sleep(0.3)  # noqa: ASYNC251 - as a route that computes

    assert_unavailable(call("POST", "/test/late", context=Context(timeout=0.7)))
    assert database.run("SELECT * FROM probes") == []
    assert create_probe("after")["name"] == "after"
    assert database.run("SELECT name FROM probes") == [["after"]], (
        "the next request has committed the statement of this one"
    )


def test_no_time_for_the_commit_of_a_separate_session_leaves_no_open_transaction(app: FastAPI, database: Any) -> None:
    @app.post("/test/late")
    async def _route() -> None:
        with Session(engine) as session:
            session.execute(text("INSERT INTO probes (name) VALUES ('late')"))
            time.sleep(0.3)  # noqa: ASYNC251 - as a route that computes
            session.commit()

    assert_unavailable(call("POST", "/test/late", context=Context(timeout=0.7)))
    assert create_probe("after")["name"] == "after"
    assert database.run("SELECT name FROM probes") == [["after"]]


def test_a_pool_that_stays_empty_is_503_before_the_deadline() -> None:
    create_probe()
    with engine.connect():
        context = Context(timeout=1.0)
        assert_unavailable(call("GET", probe_path(1), context=context))
        assert context.get_remaining_time_in_millis() > 0
    assert call("GET", probe_path(1)).status == 200


def test_a_network_that_is_too_slow_is_503_before_the_deadline(proxy: Proxy) -> None:
    create_probe()
    context = Context(timeout=1.0)
    proxy.latency = 2.0
    assert_unavailable(call("GET", probe_path(1), context=context))
    assert context.get_remaining_time_in_millis() > 0
    proxy.latency = 0.0
    assert call("GET", probe_path(1)).status == 200


@pytest.mark.parametrize(
    ("name", "value"),
    [("statement_timeout", "9s"), ("lock_timeout", "3s"), ("idle_in_transaction_session_timeout", "15s")],
)
def test_sessions_have_the_server_s_limits(app: FastAPI, name: str, value: str) -> None:
    @app.get("/test/limit")
    async def _route(session: SessionDep) -> str:
        return str(session.execute(text(f"SHOW {name}")).scalar_one())

    assert call("GET", "/test/limit").json == value


def test_a_migration_is_not_limited_like_a_request(server_url: str) -> None:
    with temporary_database(server_url, f"unlimited_{os.getpid()}") as url:
        with connect(url) as database:
            database.run(f"ALTER DATABASE unlimited_{os.getpid()} SET statement_timeout = '200ms'")
            database.run(
                "CREATE FUNCTION nap() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.25); END'"
            )
            database.run(
                "CREATE EVENT TRIGGER slow ON ddl_command_start WHEN TAG IN ('CREATE INDEX') EXECUTE FUNCTION nap()"
            )
        assert upgrade(read_database_settings({"DATABASE_URL": url}))
