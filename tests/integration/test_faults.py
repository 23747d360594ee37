"""A fault of the network or of the server fails at most one request, and often none."""

import os
from collections.abc import Callable
from typing import Any

import pytest
from fastapi import FastAPI
from pg8000 import dbapi
from sqlalchemy import insert

from handler.database.connection import connect as connect_to
from handler.database.engine import connector, engine
from handler.database.session import SessionDep
from handler.settings import read_database_settings
from local.events import Context
from local.postgres import server
from tests.support.client import assert_unavailable, call, create_probe, probe_path
from tests.support.database import socket_path
from tests.support.faults import REQUESTS, SEEN_AFTER_A_REST, SEEN_AT_ONCE
from tests.support.migrated import grant_probes, migrate
from tests.support.pool import lie_idle
from tests.support.probe.models import Probe
from tests.support.proxy import Proxy


@pytest.mark.parametrize("fault", SEEN_AT_ONCE)
@pytest.mark.parametrize("request_", REQUESTS, ids=lambda request: " ".join(request[:2]))
def test_a_connection_that_died_is_replaced_within_the_request(
    fault: str, request_: tuple[str, str, Any, int], proxy: Proxy, database: Any
) -> None:
    method, path, body, status = request_
    create_probe()
    SEEN_AT_ONCE[fault](proxy)
    assert call(method, path, body).status == status
    expected = {"POST": [("Lamp",), ("new",)], "PATCH": [("new",)], "DELETE": []}.get(method, [("Lamp",)])
    assert [tuple(row) for row in database.run("SELECT name FROM probes ORDER BY id")] == expected


@pytest.mark.parametrize("fault", SEEN_AT_ONCE | SEEN_AFTER_A_REST)
@pytest.mark.parametrize("request_", [REQUESTS[0], REQUESTS[2]], ids=["GET", "POST"])
def test_after_an_idle_time_every_dead_connection_is_replaced_within_the_request(
    fault: str, request_: tuple[str, str, Any, int], proxy: Proxy
) -> None:
    create_probe()
    (SEEN_AT_ONCE | SEEN_AFTER_A_REST)[fault](proxy)
    lie_idle()
    method, path, body, status = request_
    assert call(method, path, body).status == status


@pytest.mark.parametrize("fault", SEEN_AFTER_A_REST)
def test_a_peer_that_acknowledges_and_never_replies_fails_one_request_at_its_deadline(fault: str, proxy: Proxy) -> None:
    """The peer's kernel acknowledges packets, as with a slow statement. test_dead_peers.py tests silent kernels."""
    create_probe()
    SEEN_AFTER_A_REST[fault](proxy)
    context = Context(timeout=1.0)
    assert_unavailable(call("GET", probe_path(1), context=context))
    assert context.get_remaining_time_in_millis() > 0
    assert call("GET", probe_path(1)).status == 200


def test_a_backend_that_was_ended_is_replaced_within_the_request(database: Any) -> None:
    create_probe()
    database.run(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE pid <> pg_backend_pid() AND datname = current_database()"
    )
    assert call("POST", "/probes/", {"name": "new"}).status == 201
    assert call("GET", probe_path(2)).status == 200


def test_a_database_that_refuses_connections_is_503_until_it_is_back(proxy: Proxy) -> None:
    create_probe()
    proxy.refuse()
    proxy.reset()
    assert_unavailable(call("GET", probe_path(1)))
    assert_unavailable(call("POST", "/probes/", {"name": "new"}))
    assert_unavailable(call("GET", "/health/ready"))
    assert call("GET", "/health/live").status == 200
    proxy.restore()
    assert call("GET", probe_path(1)).status == 200


def test_a_network_that_drops_everything_is_503_before_the_deadline(proxy: Proxy) -> None:
    create_probe()
    proxy.black_hole()
    for _ in range(2):  # first with a connection, then without one
        context = Context(timeout=1.2)
        assert_unavailable(call("GET", probe_path(1), context=context))
        assert context.get_remaining_time_in_millis() > 0
    proxy.restore()
    assert call("GET", probe_path(1)).status == 200


def test_a_connection_lost_during_commit_is_an_error_response(app: FastAPI, proxy: Proxy, database: Any) -> None:
    @app.post("/test/commit")
    async def _route(session: SessionDep) -> None:
        session.execute(insert(Probe).values(name="lost"))
        proxy.reset_on_next_write()

    create_probe()
    assert_unavailable(call("POST", "/test/commit"))
    assert [row[0] for row in database.run("SELECT name FROM probes")] == ["Lamp"]
    assert create_probe("after")["name"] == "after"


def test_a_connection_lost_during_a_transaction_is_not_replaced(app: FastAPI, proxy: Proxy, database: Any) -> None:
    """The second statement must not run in a transaction that has lost the first."""

    @app.post("/test/second")
    async def _route(session: SessionDep) -> None:
        session.execute(insert(Probe).values(name="first"))
        proxy.reset()
        session.execute(insert(Probe).values(name="second"))

    create_probe()
    assert_unavailable(call("POST", "/test/second"))
    assert [row[0] for row in database.run("SELECT name FROM probes")] == ["Lamp"]
    assert create_probe("after")["name"] == "after"


def test_requests_succeed_after_the_server_has_restarted(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, configure: Callable[..., None]
) -> None:
    from handler.database import connection

    folder = tmp_path_factory.mktemp("server")
    engine.dispose()
    try:
        with server(folder, "-c", "fsync=off") as url:
            database = read_database_settings({"DATABASE_URL": url})
            monkeypatch.setattr(connection, "address_of", lambda *_: (socket_path(url), 0, None))
            configure(database="postgres", password=database.password)
            migrate(url)
            probe = create_probe()
        assert_unavailable(call("GET", probe_path(1)))
        assert_unavailable(call("POST", "/probes/", {"name": "new"}))
        with server(folder, "-c", "fsync=off") as url:
            assert call("GET", probe_path(1)).json == probe
            assert call("POST", "/probes/", {"name": "new"}).status == 201
    finally:
        engine.dispose()


def test_a_server_without_a_free_connection_is_503(database: Any, configure: Callable[..., None]) -> None:
    role = f"limited_{os.getpid()}"
    database.run(f"CREATE ROLE {role} LOGIN CONNECTION LIMIT 0")
    grant_probes(database, role)
    engine.dispose()
    try:
        configure(user=role)
        assert_unavailable(call("GET", probe_path(1)))
        database.run(f"ALTER ROLE {role} CONNECTION LIMIT 1")
        assert call("GET", probe_path(1)).status == 404
    finally:
        engine.dispose()
        database.run(f"DROP OWNED BY {role}")
        database.run(f"DROP ROLE {role}")


def test_a_connection_to_a_former_primary_is_closed(database: Any) -> None:
    """After a failover the old primary accepts reads and rejects writes; a new connection reaches the new primary."""
    create_probe()
    name = database.run("SELECT current_database()")[0][0]
    engine.dispose()
    database.run(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    try:
        assert_unavailable(call("POST", "/probes/", {"name": "new"}))
    finally:
        database.run(f"ALTER DATABASE {name} RESET default_transaction_read_only")
    assert call("POST", "/probes/", {"name": "new"}).status == 201


def test_a_read_that_always_loses_its_race_leaves_no_open_transaction(database: Any) -> None:
    """The COMMIT is in the batch of the read, and the server skips it after each error."""
    database.run(
        "CREATE FUNCTION loses() RETURNS int LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE EXCEPTION 'lost' USING ERRCODE = '40001'; END $$"
    )
    connection = connect_to(connector.settings)
    try:
        connection.autocommit = connection.read_only = True
        with pytest.raises(dbapi.OperationalError):
            connection.run("SELECT loses()")
        assert connection.run("SELECT 1").rows == [[1]]
    finally:
        connection.close()
        database.run("DROP FUNCTION loses")
