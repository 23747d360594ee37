"""The authentication requests that the driver accepts, and their order."""

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from pg8000 import dbapi
from scramp import ScramMechanism

from handler.database.driver import authentication
from handler.database.driver.connection import Connection
from handler.database.driver.stream import SSL_REQUEST, TlsSocket
from tests.support.certificates import authority, issue

Address = tuple[str, int, ssl.SSLContext | None]
PASSWORD = "correct horse battery staple"


def message(code: bytes, data: bytes) -> bytes:
    return code + (len(data) + 4).to_bytes(4) + data


def request(code: int, data: bytes = b"") -> bytes:
    """An authentication request: PostgreSQL manual, 54.7."""
    return message(b"R", code.to_bytes(4) + data)


READY = message(b"Z", b"I")
AUTHENTICATED, CLEARTEXT, MD5 = request(0), request(3), request(5, b"salt")
SASL = request(10, b"SCRAM-SHA-256\x00\x00")
SASL_PLUS = request(10, b"SCRAM-SHA-256-PLUS\x00SCRAM-SHA-256\x00\x00")
SASL_CONTINUE, SASL_FINAL = request(11, b"r=x,s=c2FsdHNhbHRzYWx0,i=4096"), request(12, b"v=x")
KEY = message(b"K", bytes(8))


class Server:
    """A server that replies to each message with the next of `replies`, and records the messages.

    A reply may be a function of the client's message. After the last reply, the server waits until the client closes.
    """

    def __init__(self, listener: socket.socket, tls: ssl.SSLContext | None, replies: tuple[Any, ...]) -> None:
        self.listener, self.tls, self.replies = listener, tls, replies
        self.received = b""

    def serve(self) -> None:
        peer, _ = self.listener.accept()
        peer.settimeout(5)
        if self.tls:
            assert peer.recv(8) == SSL_REQUEST
            peer.sendall(b"S")
            peer = self.tls.wrap_socket(peer, server_side=True)
        with peer, suppress(OSError):
            for reply in self.replies:
                data = peer.recv(4096)
                self.received += data
                if data[:1] in (b"", b"X"):  # Terminate
                    return
                peer.sendall(reply(data) if callable(reply) else reply)
            while data := peer.recv(4096):
                self.received += data


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificates")
    issue(authority(folder / "ca.pem"), folder, "127.0.0.1")
    return folder


Serve = Callable[..., Any]


@pytest.fixture(params=["plain", "tls"])
def serve(request: pytest.FixtureRequest, certificates: Path, tmp_path: Path) -> Serve:
    """A function that starts a server on a unix socket, or on TCP with TLS that the client verifies."""
    return tls_server(certificates) if request.param == "tls" else plain_server(tmp_path)


def plain_server(folder: Path) -> Serve:
    @contextmanager
    def serve(*replies: Any) -> Iterator[tuple[Server, Address]]:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(folder / "s"))
            listener.listen()
            with running(Server(listener, None, replies)) as server:
                yield server, (str(folder / "s"), 0, None)
        (folder / "s").unlink()

    return serve


def tls_server(certificates: Path) -> Serve:
    theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    theirs.load_cert_chain(certificates / "server.crt", certificates / "server.key")
    ours = ssl.create_default_context(cafile=certificates / "ca.pem")
    ours.sslsocket_class = TlsSocket

    @contextmanager
    def serve(*replies: Any) -> Iterator[tuple[Server, Address]]:
        with socket.create_server(("127.0.0.1", 0)) as listener, running(Server(listener, theirs, replies)) as server:
            yield server, ("127.0.0.1", listener.getsockname()[1], ours)

    return serve


@contextmanager
def running(server: Server) -> Iterator[Server]:
    thread = threading.Thread(target=server.serve)
    thread.start()
    yield server
    thread.join()


def connect(address: Address, **options: Any) -> Connection:
    return Connection(address, {"user": "ann", "password": PASSWORD}, timeout=5, idle_check=60, **options)


def assert_password_not_sent(password: str, server: Server) -> None:
    assert password.encode() not in server.received
    assert b"md5" not in server.received


OUT_OF_ORDER = {
    "ready without authentication": (READY,),
    "ready after SASL began": (SASL, READY),
    "authenticated after SASL began": (SASL, AUTHENTICATED + READY),
    "authenticated twice": (AUTHENTICATED + AUTHENTICATED + READY,),
    "cleartext after SASL began": (SASL, CLEARTEXT, AUTHENTICATED + READY),
    "MD5 after SASL began": (SASL, MD5, AUTHENTICATED + READY),
    "cleartext after authenticated": (AUTHENTICATED + CLEARTEXT, READY),
    "MD5 after authenticated": (AUTHENTICATED + MD5, READY),
    "SASL twice": (SASL, SASL),
    "SASL's end after its beginning": (SASL, SASL_FINAL),
    "SASL's middle first": (SASL_CONTINUE,),
    "SASL's end first": (SASL_FINAL,),
    "unknown": (request(6),),
    "without a code": (message(b"R", b""),),
    "with half a code": (message(b"R", bytes(2)),),
    "too long": (request(10, b"SCRAM-SHA-256\x00" * 200 + b"\x00"),),
}


@pytest.mark.parametrize("replies", OUT_OF_ORDER.values(), ids=OUT_OF_ORDER)
@pytest.mark.parametrize("channel_binding", [False, True])
def test_an_authentication_request_out_of_order_is_a_protocol_error_and_no_password_is_sent(
    replies: tuple[bytes, ...], channel_binding: bool, serve: Serve
) -> None:
    with serve(*replies) as (server, address), pytest.raises(dbapi.OperationalError) as error:
        connect(address, channel_binding=channel_binding)
    assert channel_binding or error.value.args[0]["C"] == "08P01"
    assert_password_not_sent(PASSWORD, server)


def test_a_second_request_for_the_cleartext_password_is_a_protocol_error(certificates: Path) -> None:
    for again in (CLEARTEXT, MD5, SASL):
        with (
            tls_server(certificates)(CLEARTEXT, again, AUTHENTICATED + READY) as (server, address),
            pytest.raises(dbapi.OperationalError, match="out of order"),
        ):
            connect(address)
        assert server.received.count(PASSWORD.encode()) == 1
        assert b"md5" not in server.received


@pytest.mark.parametrize("asked", [CLEARTEXT, MD5, SASL])
def test_no_password_is_sent_during_a_query(asked: bytes, serve: Serve) -> None:
    with serve(AUTHENTICATED + KEY + READY, asked) as (server, address):
        connection = connect(address)
        with pytest.raises(dbapi.OperationalError) as error:
            connection.run("select %s", ("x",))
        assert connection.closed
    assert error.value.args[0]["C"] == "08P01"
    assert_password_not_sent(PASSWORD, server)


@pytest.mark.parametrize("asked", [CLEARTEXT, MD5], ids=["cleartext", "MD5"])
def test_cleartext_and_md5_passwords_are_sent_only_in_tls(asked: bytes, certificates: Path, tmp_path: Path) -> None:
    with (
        plain_server(tmp_path)(asked) as (server, address),
        pytest.raises(dbapi.OperationalError, match="no verified TLS"),
    ):
        connect(address)
    assert_password_not_sent(PASSWORD, server)
    with tls_server(certificates)(asked, AUTHENTICATED + KEY + READY) as (server, address):
        connect(address).close()
    assert (PASSWORD.encode() in server.received) == (asked == CLEARTEXT)
    assert (b"md5" in server.received) == (asked == MD5)


def test_no_cleartext_password_is_sent_without_a_verified_certificate(certificates: Path) -> None:
    for asked in (CLEARTEXT, MD5):
        with tls_server(certificates)(asked) as (server, (host, port, context)):
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            with pytest.raises(dbapi.OperationalError, match="no verified TLS"):
                connect((host, port, context))
        assert_password_not_sent(PASSWORD, server)


@pytest.mark.parametrize(
    "names", [b"SCRAM-SHA-1", b"SCRAM-SHA-512\x00SCRAM-SHA3-512-PLUS", b"PLAIN", b"OAUTHBEARER", b""]
)
def test_a_server_without_scram_sha_256_is_rejected(names: bytes, serve: Serve) -> None:
    with (
        serve(request(10, names + b"\x00\x00")) as (_, address),
        pytest.raises(dbapi.OperationalError, match="neither SCRAM-SHA-256 nor SCRAM-SHA-256-PLUS"),
    ):
        connect(address)


def scram(iterations: int = 4096, offered: bytes = SASL) -> tuple[Any, ...]:
    """The replies of a server that knows the password, computed by scramp."""
    mechanism = ScramMechanism("SCRAM-SHA-256")
    server = mechanism.make_server(lambda _: mechanism.make_auth_info(PASSWORD, iteration_count=iterations))

    def first(data: bytes) -> bytes:
        name, _, rest = data[5:].partition(b"\x00")
        assert name == b"SCRAM-SHA-256"
        server.set_client_first(rest[4:].decode())
        return request(11, server.get_server_first().encode())

    def final(data: bytes) -> bytes:
        server.set_client_final(data[5:].decode())
        return request(12, server.get_server_final().encode()) + AUTHENTICATED + KEY + READY

    return offered, first, final


@pytest.mark.parametrize("offered", [SASL, request(10, b"OAUTHBEARER\x00SCRAM-SHA-256\x00SCRAM-SHA-512\x00\x00")])
def test_scram_sha_256_is_chosen_among_the_offered_mechanisms(offered: bytes, serve: Serve) -> None:
    with serve(*scram(offered=offered)) as (server, address):
        connect(address).close()
    assert_password_not_sent(PASSWORD, server)


def test_too_many_iterations_are_rejected_before_hashing(serve: Serve) -> None:
    with (
        serve(*scram(authentication.MAX_ITERATIONS + 1)) as (server, address),
        pytest.raises(dbapi.OperationalError, match="more than 600000 iterations"),
    ):
        connect(address)
    assert b"p=" not in server.received.partition(b"r=")[2]
    with serve(*scram(authentication.MAX_ITERATIONS)) as (_, address):
        connect(address).close()


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (AUTHENTICATED + READY, "does not use SCRAM"),
        (CLEARTEXT, "does not use SCRAM"),
        (SASL, "does not offer channel binding"),
    ],
)
def test_required_channel_binding_cannot_be_skipped(reply: bytes, reason: str, serve: Serve) -> None:
    with serve(reply) as (server, address), pytest.raises(dbapi.OperationalError, match=reason):
        connect(address, channel_binding=True)
    assert_password_not_sent(PASSWORD, server)


def test_channel_binding_needs_tls(tmp_path: Path) -> None:
    with (
        plain_server(tmp_path)(SASL_PLUS) as (_, address),
        pytest.raises(dbapi.OperationalError, match="does not offer channel binding"),
    ):
        connect(address, channel_binding=True)


def test_a_server_without_authentication_is_accepted_and_gets_no_password(serve: Serve) -> None:
    with serve(AUTHENTICATED + KEY + READY) as (server, address):
        connection = connect(address)
        assert not connection.closed
        connection.close()
    assert_password_not_sent(PASSWORD, server)
