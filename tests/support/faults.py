"""Faults of a network that a proxy makes, and the requests that they hit."""

from collections.abc import Callable
from typing import Any

from tests.support.client import probe_path
from tests.support.proxy import Proxy

Fault = Callable[[Proxy], object]


def black_hole(proxy: Proxy) -> None:
    proxy.black_hole()
    proxy.restore()


SEEN_AT_ONCE: dict[str, Fault] = {
    "reset": lambda proxy: proxy.reset(),
    "closed": lambda proxy: proxy.cut_after(0),
    "reset on the next write": lambda proxy: proxy.reset_on_next_write(),
}
SEEN_AFTER_A_REST: dict[str, Fault] = {"half-open": lambda proxy: proxy.half_open(), "black hole": black_hole}
REQUESTS: list[tuple[str, str, Any, int]] = [
    ("GET", probe_path(1), None, 200),
    ("GET", "/probes/", None, 200),
    ("POST", "/probes/", {"name": "new"}, 201),
    ("PATCH", probe_path(1), {"name": "new"}, 200),
    ("DELETE", probe_path(1), None, 204),
]
