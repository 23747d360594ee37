"""What consumers of the contract do with it: Schemathesis tests the service, and a generated client calls it.

Both reach the service that `make run` starts, over HTTP.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from local.openapi import PATH
from tests.support.database import free_port, temporary_database

ROOT = Path(__file__).parents[2]
PROGRAMS = Path(sys.executable).parent
TIMEOUT = 300  # seconds
MAX_EXAMPLES = 20  # of each operation and phase
PACKAGE = "generated_client"
READY = "Stop with"  # the last line that `make run` prints when it serves


@pytest.fixture(scope="module")
def url(server_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a service that `make run` would start, with a database of its own."""
    port = str(free_port())
    log = tmp_path_factory.mktemp("service") / "output.txt"
    with temporary_database(server_url, f"consumers_{os.getpid()}") as database, log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "local.run"],
            cwd=ROOT,
            env=os.environ | {"PORT": port, "DATABASE_URL": database, "AUTH_MODE": "none"},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            deadline = time.monotonic() + TIMEOUT
            while READY not in log.read_text():
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.05)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(TIMEOUT)


def run(folder: Path, program: str, *arguments: str) -> str:
    """The output of a program of the environment, which may write into `folder`. Fails where the program does."""
    path = os.pathsep.join([str(PROGRAMS), os.environ["PATH"]])
    done = subprocess.run(
        [program, *arguments],
        cwd=folder,
        env=os.environ | {"PATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_schemathesis_reports_nothing_about_the_served_contract(url: str, tmp_path: Path) -> None:
    config = f"--config-file={ROOT / 'schemathesis.toml'}"
    limits = [f"--max-examples={MAX_EXAMPLES}", "--generation-deterministic"]
    output = run(tmp_path, "schemathesis", config, "run", f"{url}/openapi.json", *limits)
    paths = httpx.get(f"{url}/openapi.json").json()["paths"]
    assert f"Tested: {sum(map(len, paths.values()))}\n" in output


@pytest.fixture(scope="module")
def client(url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A client that openapi-python-client generated from the committed contract. Its package can be imported."""
    folder = tmp_path_factory.mktemp("client")
    generate = ["generate", "--path", str(PATH), "--meta", "none", "--output-path", str(folder / PACKAGE)]
    run(folder, "openapi-python-client", *generate, "--fail-on-warning")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        with import_module(PACKAGE).AuthenticatedClient(base_url=url, token="of-no-caller") as client:
            yield client


def operation(name: str) -> Any:
    return import_module(f"{PACKAGE}.api.items.{name}").sync_detailed


def test_a_generated_client_creates_reads_and_changes_an_item(client: Any) -> None:
    models = import_module(f"{PACKAGE}.models")
    body, key = models.ItemCreate(name="Lamp"), str(uuid4())
    created = operation("create_item")(client=client, body=body, idempotency_key=key)
    assert created.status_code == 201
    assert isinstance(created.parsed, models.ItemRead)
    assert (created.parsed.name, created.parsed.description, created.parsed.version) == ("Lamp", None, 1)
    assert created.parsed.created_at.tzinfo is not None
    item_id, etag = created.parsed.id, created.headers["etag"]

    repeated = operation("create_item")(client=client, body=body, idempotency_key=key)
    assert repeated.parsed == created.parsed

    assert operation("read_item")(item_id, client=client).parsed == created.parsed
    unchanged = operation("read_item")(item_id, client=client, if_none_match=etag)
    assert (unchanged.status_code, unchanged.parsed) == (304, None)

    change = models.ItemUpdate(description="A desk lamp")
    changed = operation("update_item")(item_id, client=client, body=change, if_match=etag)
    assert (changed.parsed.name, changed.parsed.description, changed.parsed.version) == ("Lamp", "A desk lamp", 2)
    assert operation("read_item")(item_id, client=client).parsed == changed.parsed

    late = operation("update_item")(item_id, client=client, body=change, if_match=etag)
    assert late.status_code == 412
    assert isinstance(late.parsed, models.Problem)
    assert late.parsed.status == 412

    invalid = operation("replace_item")(item_id, client=client, body=models.ItemCreate(name=" "))
    assert [error.pointer for error in invalid.parsed.errors] == ["#/name"]
    gone = operation("delete_item")(item_id, client=client, if_match=changed.headers["etag"])
    assert (gone.status_code, gone.parsed) == (204, None)
    assert operation("read_item")(item_id, client=client).parsed.title == "Not Found"


def test_a_generated_client_reads_a_list_page_by_page(client: Any) -> None:
    models = import_module(f"{PACKAGE}.models")
    names = ["a page", "b page", "c page"]
    for name in reversed(names):
        operation("create_item")(client=client, body=models.ItemCreate(name=name))
    query: dict[str, Any] = {"limit": 2, "order": models.ListItemsOrder.NAME, "q": " page"}
    first = operation("list_items")(client=client, **query).parsed
    rest = operation("list_items")(client=client, **query, cursor=first.next_cursor).parsed
    assert isinstance(first, models.ItemPage)
    assert [item.name for item in first.items + rest.items] == names
    assert rest.next_cursor is None
