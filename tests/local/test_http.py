"""The bytes of HTTP that `make run` sends, as clients of API Gateway expect them."""

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.make_run import TIMEOUT, copy_template, running

MEGABYTE = 1024 * 1024


class Response(NamedTuple):
    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def all(self, name: str) -> list[str]:
        return [text for one, text in self.headers if one == name]


class Client:
    """One connection. It reads responses only by their Content-Length (RFC 9112, 6.3)."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.file = sock.makefile("rb")

    def send(self, *parts: bytes) -> None:
        host = f"localhost:{self._sock.getpeername()[1]}".encode()
        for part in parts:
            self._sock.sendall(part.replace(b"localhost:PORT", host))

    def receive(self, method: str = "GET") -> Response:
        status = int(self.file.readline().split()[1])
        headers = []
        while line := self.file.readline().rstrip(b"\r\n"):
            name, _, text = line.decode("latin-1").partition(":")
            headers.append((name.lower(), text.strip()))
        if method == "HEAD" or status in (204, 304):
            return Response(status, headers, b"")
        length = int(dict(headers)["content-length"])
        return Response(status, headers, self.file.read(length))

    def ask(self, method: str, path: str, body: bytes = b"", **headers: str) -> Response:
        self.send(request(method, path, body, **headers))
        return self.receive(method)


@pytest.fixture(scope="module")
def port(project_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of one `make run` for all tests of this file."""
    with running(copy_template(project_template, tmp_path_factory.mktemp("http"), with_database=True)) as run:
        assert run.client.base_url.port
        yield run.client.base_url.port


@pytest.fixture
def client(port: int) -> Iterator[Client]:
    with connected(port) as found:
        yield found


@contextmanager
def connected(port: int) -> Iterator[Client]:
    with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT) as sock:
        yield Client(sock)


def request(method: str, path: str, body: bytes = b"", **headers: str) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost:PORT"]
    lines += [f"{name.replace('_', '-')}: {text}" for name, text in headers.items()]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


JSON = "application/json"


@pytest.mark.parametrize(
    "path", ["/probes/", "/docs", "/openapi.json", "/nowhere", "/docs-files/swagger/swagger-ui.css"]
)
def test_head_has_the_headers_of_get_and_one_content_length(client: Client, path: str) -> None:
    get, head = client.ask("GET", path), client.ask("HEAD", path)
    names = [name for name, _ in get.headers]
    assert [name for name, _ in head.headers] == names
    assert head.status == get.status
    assert head.all("content-length") == get.all("content-length") == [str(len(get.body))]
    assert client.ask("GET", "/health/live").status == 200  # the connection is still synchronized


def test_a_response_without_content_has_no_content_length(client: Client) -> None:
    created = client.ask("POST", "/probes/", json.dumps({"name": "Lamp"}).encode(), Content_Type=JSON)
    (location,), (etag,) = created.all("location"), created.all("etag")
    unchanged = client.ask("GET", location, If_None_Match=etag)
    assert (unchanged.status, unchanged.all("content-length")) == (304, [])
    for method in ("OPTIONS", "DELETE"):
        response = client.ask(method, location)
        assert (response.status, response.all("content-length"), response.all("transfer-encoding")) == (204, [], [])
    assert client.ask("GET", "/health/live").status == 200


def test_a_connection_is_kept_and_serves_pipelined_requests_in_their_order(client: Client) -> None:
    paths = ["/health/live", "/probes/?limit=1", "/nowhere", "/health/live"]
    client.send(b"".join(request("GET", path) for path in paths))
    assert [client.receive().status for _ in paths] == [200, 200, 404, 200]
    last = client.ask("GET", "/health/live", Connection="close")
    assert (last.status, last.all("connection")) == (200, ["close"])


def test_a_chunked_body_is_read_completely(client: Client) -> None:
    body = json.dumps({"name": "Lamp", "note": "x" * 5000}).encode()
    head = request("POST", "/probes/", Content_Type=JSON, Transfer_Encoding="chunked")
    chunks = [body[start : start + 1000] for start in range(0, len(body), 1000)]
    client.send(head, *(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks), b"0\r\n\r\n")
    created = client.receive()
    assert (created.status, json.loads(created.body)["note"]) == (201, "x" * 5000)


@pytest.mark.parametrize(
    ("size", "content_type", "origin"),
    [
        (MEGABYTE, JSON, "application"),  # the application's own limit
        (5 * MEGABYTE, JSON, "application"),
        (5 * MEGABYTE, "application/octet-stream", "gateway"),  # 6.7 MB as base64, and Lambda accepts 6 MB
        (7 * MEGABYTE, JSON, "gateway"),
        (11 * MEGABYTE, JSON, "gateway"),
        (30 * MEGABYTE, JSON, "gateway"),
    ],
)
def test_a_body_that_is_too_large_is_413_and_the_client_reads_it(
    client: Client, size: int, content_type: str, origin: str
) -> None:
    """The connection is still usable: the response came after the whole request was read."""
    response = client.ask("POST", "/probes/", b"x" * size, Content_Type=content_type)
    assert response.status == 413
    assert response.all("content-type") == [f"application/{'problem+json' if origin == 'application' else 'json'}"]
    if origin == "gateway":
        assert json.loads(response.body) == {"message": "Request Entity Too Large"}
    assert client.ask("GET", "/health/live").status == 200


def test_a_client_that_waits_for_100_continue_gets_it(client: Client) -> None:
    body = json.dumps({"name": "Lamp"}).encode()
    head = request("POST", "/probes/", Content_Type=JSON, Content_Length=str(len(body)), Expect="100-continue")
    client.send(head)
    assert client.receive("HEAD").status == 100
    client.send(body)
    assert client.receive().status == 201


@pytest.mark.parametrize("sent", [b"\0\0\0\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n"])
def test_bytes_that_are_not_http_get_400_and_the_next_connection_is_served(port: int, sent: bytes) -> None:
    with connected(port) as client:
        client.send(sent)
        assert client.file.readline().split()[1] == b"400"
    with connected(port) as client:
        assert client.ask("GET", "/health/live").status == 200


def test_a_client_that_disconnects_during_its_request_does_not_affect_the_server(port: int) -> None:
    with connected(port) as client:
        client.send(request("POST", "/probes/", Content_Type=JSON, Content_Length="1000"), b'{"name":')
    with connected(port) as client:
        assert client.ask("GET", "/health/live").status == 200


def test_the_copy_has_no_documentation_of_a_network(port: int) -> None:
    with connected(port) as client:
        for page in ("/docs", "/redoc"):
            response = client.ask("GET", page)
            (policy,) = response.all("content-security-policy")
            assert b"://" not in response.body.replace(b"http://www.w3.org", b"")
            assert "://" not in policy
            assert "script-src 'self'" in policy


def test_other_methods_at_the_path_of_a_file_are_handled_by_the_application(client: Client) -> None:
    assert client.ask("POST", "/docs-files/swagger/swagger-ui.css").status == 404


def test_a_redirect_keeps_http(client: Client) -> None:
    response = client.ask("GET", "/health/live/", x_forwarded_proto="https")
    assert response.status == 307
    assert response.all("location")[0].startswith("http://localhost:")
