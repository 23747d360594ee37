"""One HTTP request under the deadline, on the standard library."""

import http.client
import io
import socket
import ssl
from collections.abc import Mapping
from urllib.parse import urlsplit

from handler.database.deadline import remaining
from handler.database.wire import open_socket

MAX_ANSWER = 256 * 1024  # bytes; a secret has at most 64 KiB


def request(method: str, address: str, headers: Mapping[str, str], body: bytes) -> tuple[int, bytes]:
    """Status and body of the answer. Raises OSError, http.client.HTTPException or ValueError.

    The whole of it is under the deadline: http.client would wait anew for every packet.
    """
    url = urlsplit(address)
    host, port = url.hostname or "", url.port or (443 if url.scheme == "https" else 80)
    sent = {"host": url.netloc, "connection": "close", "content-length": str(len(body)), **headers}
    lines = "".join(f"{name}: {value}\r\n" for name, value in sent.items())
    target = f"{url.path or '/'}{'?' + url.query if url.query else ''}"
    with open_socket(host, port, None) as plain:
        plain.settimeout(remaining())
        # Another context than the database's: this one trusts only the system's authorities.
        secure = url.scheme == "https"
        with ssl.create_default_context().wrap_socket(plain, server_hostname=host) if secure else plain as sock:
            sock.settimeout(remaining())
            sock.sendall(f"{method} {target} HTTP/1.1\r\n{lines}\r\n".encode() + body)
            response = http.client.HTTPResponse(_Received(_all_of(sock)), method=method)  # type: ignore[arg-type]
            response.begin()
            return response.status, response.read()


def _all_of(sock: socket.socket) -> bytes:
    received = bytearray()
    while len(received) <= MAX_ANSWER:
        sock.settimeout(remaining())
        chunk = sock.recv(MAX_ANSWER)
        if not chunk:
            return bytes(received)
        received += chunk
    raise ValueError("the answer is too large")


class _Received:
    """What http.client takes for a socket, once all of it is here."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, _mode: str) -> io.BytesIO:
        return io.BytesIO(self._data)
