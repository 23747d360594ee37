"""A dead peer is detected within seconds, for any timeout of the invocation, and a slow statement is not interrupted.

The packets are really lost (tests/support/network.py). Slow tests wait until the kernel gives a connection up.
"""

import os
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from sqlalchemy import insert

from handler.database.deadline import timeout_after
from handler.database.driver.connection import Connection
from handler.database.driver.stream import Stream, open_socket
from handler.database.session import SessionDep
from handler.settings import read_database_settings
from local.events import Context
from tests.support.certificates import authority, issue
from tests.support.client import Response, assert_unavailable, call, create_probe, probe_path
from tests.support.database import socket_path
from tests.support.network import Network, network_namespace
from tests.support.pool import lie_idle, pooled, socket_of
from tests.support.probe.models import Probe
from tests.support.proxy import Proxy

PROMPT, SILENT = 6.0, 8.0  # seconds: one dead connection; a dead network
SLOW = 20.0  # seconds


@pytest.fixture(scope="module", autouse=True)
def slow_statement() -> Iterator["Future[Any]"]:
    """A statement of 20 s on a TCP connection, which runs beside the other tests."""
    to = read_database_settings(os.environ)
    login = {"user": to.user, "password": to.password, "database": to.database}
    with Proxy(socket_path(os.environ["DATABASE_URL"])) as proxy, ThreadPoolExecutor(1) as thread:
        connection = Connection(("127.0.0.1", proxy.port, None), login, timeout=5.0, idle_check=1.0)
        connection.run("SET LOCAL statement_timeout = 0")
        yield thread.submit(connection.run, "SELECT pg_sleep(%s)", (SLOW,))
        proxy.reset()
        connection.abandon()


@pytest.fixture
def network() -> Iterator[Network]:
    with network_namespace() as network:
        yield network


@pytest.fixture
def database_port(network: Network, proxy: Proxy) -> int:  # noqa: ARG001 - `proxy` listens in the network of its thread
    """The port of the database in that network, where the handler connects to."""
    return proxy.port


def own_port() -> int:
    """The port of this side of the handler's one connection."""
    return int(socket_of(pooled()).getsockname()[1])


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    started = time.monotonic()
    yield
    assert time.monotonic() - started < seconds


def request(method: str, path: str, body: Any = None) -> Response:
    """Send a request in an invocation that may take as long as API Gateway waits."""
    return call(method, path, body, context=Context(timeout=29.0))


@pytest.mark.usefixtures("database_port")
def test_a_read_on_a_dead_connection_succeeds_on_a_new_one(network: Network) -> None:
    probe = create_probe()
    network.drop(own_port())
    with at_most(PROMPT):
        assert request("GET", probe_path(1)).json == probe


@pytest.mark.usefixtures("database_port")
def test_a_write_on_a_dead_connection_is_stored_once_on_a_new_one(network: Network, database: Any) -> None:
    create_probe()
    network.drop(own_port())
    with at_most(PROMPT):
        assert request("POST", "/probes/", {"name": "new"}).status == 201
    assert database.run("SELECT name FROM probes ORDER BY id") == [["Lamp"], ["new"]]


@pytest.mark.usefixtures("database_port")
def test_a_commit_on_a_dead_connection_is_503_and_stored_at_most_once(
    app: FastAPI, network: Network, database: Any
) -> None:
    @app.post("/test/commit")
    async def _route(session: SessionDep) -> None:
        session.execute(insert(Probe).values(name="new"))
        network.drop(socket_of(session.connection().connection.dbapi_connection).getsockname()[1])

    create_probe()
    with at_most(PROMPT):
        assert_unavailable(request("POST", "/test/commit"))
    assert database.run("SELECT count(*) FROM probes WHERE name = 'new'") in ([[0]], [[1]])
    assert request("GET", probe_path(1)).status == 200


@pytest.mark.usefixtures("database_port")
def test_a_peer_that_dies_before_it_replies_is_detected(network: Network, database: Any) -> None:
    """The peer has acknowledged the statement, so nothing is sent again, and only keepalive probes detect its death."""
    probe = create_probe()
    database.run("BEGIN; LOCK probes")

    def die() -> None:
        network.drop(port)
        database.run("ROLLBACK")

    port = own_port()
    death = threading.Timer(0.2, die)  # its thread is in this network too
    death.start()
    with at_most(PROMPT):
        assert request("GET", probe_path(1)).json == probe
    death.join()


def test_a_dead_network_is_503_within_seconds(network: Network, database_port: int, database: Any) -> None:
    create_probe()
    network.drop(database_port)
    with at_most(SILENT):
        assert_unavailable(request("POST", "/probes/", {"name": "new"}))
    with at_most(SILENT):
        assert_unavailable(request("GET", probe_path(1)))
    assert database.run("SELECT name FROM probes") == [["Lamp"]]


@pytest.mark.usefixtures("database_port")
def test_a_connection_that_died_while_idle_fails_no_request(network: Network) -> None:
    probe = create_probe()
    network.drop(own_port())
    lie_idle()
    with at_most(PROMPT):
        assert request("GET", probe_path(1)).json == probe


def test_a_dead_peer_is_detected_with_tls(network: Network, tmp_path: Path) -> None:
    context, server = ssl.create_default_context(), ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    issue(authority(tmp_path / "ca.pem"), tmp_path, "127.0.0.1")
    context.load_verify_locations(tmp_path / "ca.pem")
    server.load_cert_chain(tmp_path / "server.crt", tmp_path / "server.key")

    def serve(peer: socket.socket) -> ssl.SSLSocket:
        peer.recv(8)
        peer.sendall(b"S")
        return server.wrap_socket(peer, server_side=True)

    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as thread:
        port = listener.getsockname()[1]
        accepted = thread.submit(lambda: serve(listener.accept()[0]))
        with open_socket("127.0.0.1", port, context) as sock, accepted.result():
            stream = Stream(sock)
            network.drop(port)
            stream.write(b"question")
            stream.flush()
            with at_most(PROMPT), timeout_after(29.0), pytest.raises(ConnectionError):
                stream.read(1)


def test_a_statement_of_20_seconds_succeeds(slow_statement: "Future[Any]") -> None:
    assert len(slow_statement.result(timeout=SLOW + 5).rows) == 1
