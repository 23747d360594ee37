"""A network that really loses packets: a network namespace of Linux with rules of nftables.

When a proxy is silent, its kernel still acknowledges packets (tests/support/proxy.py). Here no acknowledgement arrives.
"""

import ctypes
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.support.database import required_program

CLONE_NEWNET = 0x40000000  # sched.h; os.unshare() exists since Python 3.12


class Network:
    """The network of this thread and of threads and processes that it starts. It has only a loopback interface."""

    def __init__(self) -> None:
        self._nft = str(required_program("nft"))
        _require([str(required_program("ip")), "link", "set", "lo", "up"])
        self._change("add table inet lost")
        self._change("add chain inet lost output { type filter hook output priority 0; }")

    def drop(self, port: int) -> None:
        """From now on, drop each packet from and to a TCP port, without an error for either side."""
        self._change(f"add rule inet lost output tcp dport {port} drop")
        self._change(f"add rule inet lost output tcp sport {port} drop")

    def _change(self, command: str) -> None:
        _require([self._nft, command])


@contextmanager
def network_namespace() -> Iterator[Network]:
    """Move this thread into a new network namespace during the block. Skips the test if that is not permitted."""
    if sys.platform != "linux":
        _give_up("network namespaces exist only on Linux")
    libc = ctypes.CDLL(None, use_errno=True)
    with open("/proc/thread-self/ns/net") as home:  # noqa: PTH123 - no path: what it names is another file each time
        if libc.unshare(CLONE_NEWNET):
            _give_up(f"a network namespace is not permitted: {os.strerror(ctypes.get_errno())}")
        try:
            yield Network()
        finally:
            assert libc.setns(home.fileno(), CLONE_NEWNET) == 0


def _require(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        _give_up(f"{command[0]} is not permitted: {done.stderr.strip()}")


def _give_up(reason: str) -> None:
    if "REQUIRE_SYSTEM_PROGRAMS" in os.environ:
        pytest.fail(f"{reason}, and REQUIRE_SYSTEM_PROGRAMS is set")
    pytest.skip(reason)
