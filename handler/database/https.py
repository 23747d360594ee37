"""One HTTP request that ends by the deadline, with the standard library (docs/adr/0009)."""

import http.client
import io
import socket
import ssl
from collections.abc import Mapping
from functools import cache
from urllib.parse import urlsplit

from handler.database.deadline import remaining
from handler.database.sockets import connect

MAX_RESPONSE = 256 * 1024  # bytes; a secret has at most 64 KiB


@cache
def tls_context() -> ssl.SSLContext:
    """Return the process's TLS context for HTTPS, which trusts the system's authorities. Reading them takes 16 ms.

    Database connections have another context, which may trust only the authorities in a file.
    """
    return ssl.create_default_context()


def request(method: str, address: str, headers: Mapping[str, str], body: bytes) -> tuple[int, bytes]:
    """Return the status and the body of the response. Raises OSError, http.client.HTTPException or ValueError.

    The deadline limits the whole request. A timeout of http.client would start again with each packet.
    """
    url = urlsplit(address)
    host, port = url.hostname or "", url.port or (443 if url.scheme == "https" else 80)
    sent = {"host": url.netloc, "connection": "close", "content-length": str(len(body)), **headers}
    lines = "".join(f"{name}: {value}\r\n" for name, value in sent.items())
    target = f"{url.path or '/'}{'?' + url.query if url.query else ''}"
    with connect(host, port) as plain:
        plain.settimeout(remaining())
        secure = url.scheme == "https"
        with tls_context().wrap_socket(plain, server_hostname=host) if secure else plain as sock:
            sock.settimeout(remaining())
            sock.sendall(f"{method} {target} HTTP/1.1\r\n{lines}\r\n".encode() + body)
            response = http.client.HTTPResponse(_Received(_receive_all(sock)), method=method)  # type: ignore[arg-type]
            response.begin()
            return response.status, response.read()


def _receive_all(sock: socket.socket) -> bytes:
    received = bytearray()
    while len(received) <= MAX_RESPONSE:
        sock.settimeout(remaining())
        chunk = sock.recv(MAX_RESPONSE)
        if not chunk:
            return bytes(received)
        received += chunk
    raise ValueError("the response is too large")


class _Received:
    """Received bytes as an object that has the methods of a socket that HTTPResponse uses."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, _mode: str) -> io.BytesIO:
        return io.BytesIO(self._data)
