"""A Lambda environment in another process, which reaches its database through a proxy."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from local.postgres import over_tcp
from tests.support.database import socket_path
from tests.support.proxy import Proxy

ROOT = Path(__file__).parents[2]


@contextmanager
def proxied_process(
    command: list[str], database_url: str, **variables: str
) -> Iterator[tuple[Proxy, IO[str], IO[str]]]:
    """Run `command` during the block, with DATABASE_URL and `variables` in its environment.

    `database_url` is the URL of a unix socket. Yields the proxy, and the standard input and output of the process.
    """
    with Proxy(socket_path(database_url)) as proxy:
        environ = os.environ | {"DATABASE_URL": over_tcp(database_url, proxy.port)} | variables
        with subprocess.Popen(
            command, cwd=ROOT, env=environ, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as process:
            assert process.stdin
            assert process.stdout
            yield proxy, process.stdin, process.stdout
