"""A stand-in for the S3 bucket where CloudFormation waits for the response of a custom resource.

It uses HTTPS with the bucket's own name, so the code under test needs no change: the name leads to this machine, and
the system trusts the authority of its certificate during the test.
"""

import http.server
import json
import socket
import ssl
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import pytest

from handler.database import https
from tests.support.certificates import authority, issue

REGION = "eu-central-1"
HOST = "cloudformation-custom-resource-response-eucentral1.s3.eu-central-1.amazonaws.com"
HANG = 0  # in place of a status: the connection stays open, and no response comes


class Put(NamedTuple):
    target: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Bucket:
    """`statuses` are the statuses of the next responses, 200 after them; `puts` are the requests."""

    port: int
    url: str = f"https://{HOST}/arn%3Aaws%3A1%7CMigration?X-Amz-Signature=SECRET%2F"
    statuses: list[int] = field(default_factory=list)
    puts: list[Put] = field(default_factory=list)

    @property
    def response(self) -> dict[str, Any]:
        """The only request's body, as CloudFormation reads it."""
        (put,) = self.puts
        return json.loads(put.body)  # type: ignore[no-any-return]


class Server(http.server.ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """Print no traceback when a client closes the connection."""


@contextmanager
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """The bucket of REGION, for this process."""
    end = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            status = found.statuses.pop(0) if found.statuses else 200
            found.puts.append(Put(self.path, headers, body))
            if status == HANG:
                end.wait()
                return
            self.send_response(status)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        issue(authority(folder / "ca.pem"), folder, HOST)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "server.crt", folder / "server.key")
        server = Server(("127.0.0.1", 0), Handler)
        # The thread of each connection does the handshake at its first read.
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        found = Bucket(server.server_port)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        # OpenSSL reads the system's authorities from this file, also in child processes.
        monkeypatch.setenv("SSL_CERT_FILE", str(folder / "ca.pem"))
        https.tls_context.cache_clear()
        monkeypatch.setenv("AWS_REGION", REGION)
        try:
            with lead_to(found.port):
                yield found
        finally:
            https.tls_context.cache_clear()
            end.set()
            server.shutdown()
            thread.join()
            server.server_close()


@contextmanager
def lead_to(port: int) -> Iterator[None]:
    """Inside the block, HOST leads to `port` of this machine."""
    getaddrinfo = socket.getaddrinfo

    def lookup(host: Any, number: Any, *args: Any, **options: Any) -> Any:
        return (
            getaddrinfo("127.0.0.1", port, *args, **options)
            if host == HOST
            else getaddrinfo(host, number, *args, **options)
        )

    with patch("socket.getaddrinfo", lookup):
        yield
