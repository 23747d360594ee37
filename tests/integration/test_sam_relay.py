"""The relay through which containers reach a database of this machine. The tests of `sam local` itself need Docker."""

import os
from pathlib import Path

import pytest
from pg8000.dbapi import OperationalError

from deploy.sam import SamError, reachable
from handler.database.connection import connect
from handler.settings import read_database_settings
from local.postgres import over_tcp

# The output of `docker network inspect bridge --format '{{json .IPAM.Config}}'`, with an address that every machine
# has.
DOCKER = """#!/bin/sh
echo '[{"Subnet": "127.0.0.0/8", "Gateway": "127.0.0.1"}]'
"""


@pytest.fixture(autouse=True)
def _docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "docker").write_text(DOCKER)
    (tmp_path / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)


def test_the_relay_leads_to_the_embedded_database_and_asks_for_its_password() -> None:
    with reachable(os.environ["DATABASE_URL"]) as url:
        database = read_database_settings({"DATABASE_URL": url})
        assert database.host == "host.docker.internal"
        assert database.port
        here = database.model_copy(update={"host": "127.0.0.1"})  # a container has another name for this machine
        connect(here).close()
        for password in ("guess", f"{here.password}x"):
            with pytest.raises(OperationalError, match="28P01"):
                connect(here.model_copy(update={"password": password}))
        with pytest.raises(OperationalError, match="the server asks for a password"):
            connect(here.model_copy(update={"password": None}))


@pytest.mark.parametrize("url", ["postgresql://postgres@/postgres?host=/tmp", "postgresql://ann@localhost/shop"])
def test_a_database_of_this_machine_without_a_password_is_not_opened_to_containers(url: str) -> None:
    with pytest.raises(SamError, match="must have a password"), reachable(url):
        pass


def test_the_url_of_a_database_on_another_host_is_unchanged() -> None:
    with reachable("postgresql://ann@db.example/shop") as url:
        assert url == "postgresql://ann@db.example/shop"


def test_the_url_by_tcp_is_that_of_the_same_database() -> None:
    url = "postgresql://postgres:secret@/shop?host=/tmp/s&port=5433"
    assert over_tcp(url) == "postgresql://postgres:secret@127.0.0.1:5433/shop"
    assert over_tcp(url, 1) == "postgresql://postgres:secret@127.0.0.1:1/shop"
