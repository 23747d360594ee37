"""Random faults under load, for SOAK_MINUTES: `make soak`. The normal run deselects these tests (marker `soak`).

Clients send requests to environments, each of which is a process with the real handler behind one network, and record
the responses. There is one fault at a time, of the network, the server or an environment. Requests without a response
are repeated, with their Idempotency-Key or their If-Match, by the next free environment.

A fault is over when the network passes, the server accepts connections, and the lock is released. From then on the
first request of each environment succeeds. Two faults make a connection silent, and may cost each environment one
request, which waits for its deadline and gets 503. The locks of a lost transaction are held until
idle_in_transaction_session_timeout; until then a repetition of the same change gets 503 (docs/adr/0019).

SOAK_SEED determines the faults, their order and their duration. The requests also depend on the time.
"""

import json
import os
import random
import shutil
import threading
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from tests.soak.client import Client
from tests.soak.faults import FAULTS, inject_faults
from tests.soak.ledger import Item, Ledger
from tests.soak.service import ENVIRONMENTS, Service
from tests.support.environments import ITEMS, ITEMS_MISSING, create_role, migrate
from tests.support.ports import reserved_port

pytestmark = [
    pytest.mark.soak,
    # pg8000 leaves its socket open when a login fails, and a restarting server refuses some.
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
]
KINDS = {"GET", "GET, 304", "list", "search", "POST", "POST with a key", "PATCH", "PUT", "shared PATCH", "DELETE"}


class Soak(NamedTuple):
    """A soak that has ended."""

    service: Service
    differences: list[str]  # between the responses and the tables


@pytest.fixture(scope="module")
def soak(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Soak]:
    if not ITEMS.is_dir():
        pytest.exit(f"soak: {ITEMS_MISSING}", returncode=1)
    seconds = 60 * float(os.environ.get("SOAK_MINUTES") or 1)
    seed = int(os.environ.get("SOAK_SEED") or random.randrange(10**6))
    folder = tmp_path_factory.mktemp("soak")
    log = folder / "handler.log"
    print(f"soak: SOAK_SEED={seed}, {seconds:g} s; the handler's log is {log}", flush=True)  # noqa: T201 - to repeat the run
    with reserved_port() as port:
        service = Service(folder, port, str(log))
        try:
            yield run(service, seed, seconds)
        finally:
            service.stop_server()
            shutil.rmtree(folder / "postgres", ignore_errors=True)


def run(service: Service, seed: int, seconds: float) -> Soak:
    create_role(service.url)
    migrate(service.url)
    with service.environments() as environments:
        response = service.request("POST", "POST", "/items/", {"name": "shared"})
        assert response is not None
        assert response.status == 201, response
        ledger = Ledger(Item(json.loads(response.body)["id"], "shared", ""))
        clients = [Client(service, ledger, number, seed) for number in range(ENVIRONMENTS)]
        threads = [threading.Thread(target=client.run) for client in clients]
        for thread in threads:
            thread.start()
        try:
            inject_faults(service, environments, seed, seconds)
        finally:
            service.over.set()
            service.awake.set()
            for thread in threads:
                thread.join()
    rows = service.admin("SELECT id, name, description, version FROM items")
    # A row IS NOT NULL when no column of it is NULL: the response is stored.
    keys = service.admin("SELECT key, idempotency_keys IS NOT NULL FROM idempotency_keys")
    return Soak(service, ledger.compare(rows, keys))


def test_every_2xx_is_stored_exactly_once(soak: Soak) -> None:
    assert soak.differences == []


def test_every_response_is_right_and_each_environment_recovers_at_once(soak: Soak) -> None:
    assert soak.service.violations == []


def test_faults_and_requests_of_all_kinds_occurred(soak: Soak) -> None:
    assert {window.fault for window in soak.service.windows} == set(FAULTS)
    assert set(soak.service.counts) == KINDS
    for kind, statuses in sorted(soak.service.counts.items()):
        print(kind, dict(statuses))  # noqa: T201 - what the run did
