"""TCP and unix sockets that connect before the deadline, and that detect a dead peer within seconds."""

import math
import socket
import sys
from typing import Any

from handler.database.deadline import remaining, timeout_after

# A connection is lost if the peer's kernel acknowledges nothing for this long (docs/adr/0022).
PEER_TIMEOUT = 2.2  # seconds
# The arguments of `setsockopt`. TCP_NODELAY: the second packet of a request does not wait until the first is
# acknowledged (Nagle's algorithm, 40 ms). Keepalive: the peer's kernel is probed after each second without a packet.
SOCKET_OPTIONS = [
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 2),
]
if sys.platform == "darwin":
    # 0x80 is TCP_RXT_CONNDROPTIME of <netinet/tcp.h>: for how many seconds unacknowledged data is sent again.
    SOCKET_OPTIONS += [(socket.IPPROTO_TCP, socket.TCP_KEEPALIVE, 1), (socket.IPPROTO_TCP, 0x80, round(PEER_TIMEOUT))]
else:
    # tcp(7): for how many milliseconds sent data may stay unacknowledged. It also replaces TCP_KEEPCNT.
    SOCKET_OPTIONS += [
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 1),
        (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(PEER_TIMEOUT * 1000)),
    ]


def connect(
    host: str, port: int, *, peer: Any = None, socket_class: type[socket.socket] = socket.socket
) -> socket.socket:
    """Return a connected socket of the class `socket_class`.

    `host` is a name, an IP address, or the path of a unix socket. With `peer`, the socket address of one server of
    `host`, no name is resolved. The addresses of a name share the time until the deadline equally. Raises OSError.
    """
    if host.startswith("/"):
        return _connect(socket_class(socket.AF_UNIX, socket.SOCK_STREAM), host)
    if peer:
        addresses = [(socket.AF_INET6 if len(peer) == 4 else socket.AF_INET, peer)]
    else:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        addresses = [(family, address) for family, _, _, _, address in found]
    error: OSError = ConnectionError(f"{host} has no address")
    for number, (family, address) in enumerate(addresses):
        share = remaining() or math.inf
        try:
            with timeout_after(share / (len(addresses) - number)):
                sock = _connect(socket_class(family, socket.SOCK_STREAM), address)
        except OSError as failure:
            error = failure
            continue
        for option in SOCKET_OPTIONS:
            sock.setsockopt(*option)
        return sock
    raise error


def _connect(sock: socket.socket, address: Any) -> socket.socket:
    try:
        sock.settimeout(remaining())
        sock.connect(address)
    except BaseException:
        sock.close()
        raise
    return sock
