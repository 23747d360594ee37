"""Databases for tests, reached past the code under test, by pg8000 itself."""

from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import pg8000.native

from handler.settings import read_database_settings


@contextmanager
def connect(url: str) -> Iterator[pg8000.native.Connection]:
    """A connection without transactions: every statement is committed."""
    settings = read_database_settings({"DATABASE_URL": url})
    connection = pg8000.native.Connection(settings.user, database=settings.database, unix_sock=socket_path(url))
    try:
        yield connection
    finally:
        connection.close()


@contextmanager
def temporary_database(server_url: str, name: str) -> Iterator[str]:
    """The URL of an empty database, as long as the block."""
    with connect(server_url) as admin:
        admin.run(f"CREATE DATABASE {name}")
        try:
            yield url_of(server_url, name)
        finally:
            admin.run(f"DROP DATABASE {name} WITH (FORCE)")


def socket_path(url: str) -> str:
    """The unix socket that a URL leads to."""
    settings = read_database_settings({"DATABASE_URL": url})
    return f"{settings.host}/.s.PGSQL.{settings.port}"


def url_of(server_url: str, name: str) -> str:
    """The same server's database `name`."""
    return urlsplit(server_url)._replace(path=f"/{name}").geturl()
