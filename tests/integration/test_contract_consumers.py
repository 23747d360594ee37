"""Two consumers of the contract: Schemathesis tests the service, and a generated client calls it.

Both reach the service that `make run` starts, over HTTP.
"""

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import httpx
import pytest

from tests.support.service import PACKAGE, ROOT, generated_client, run_program, running_service

MAX_EXAMPLES = 20  # of each operation and phase


@pytest.fixture(scope="module")
def url(server_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_service(server_url, tmp_path_factory.mktemp("service")) as url:
        yield url


def test_schemathesis_reports_nothing_about_the_served_contract(url: str, tmp_path: Path) -> None:
    config = f"--config-file={ROOT / 'schemathesis.toml'}"
    limits = [f"--max-examples={MAX_EXAMPLES}", "--generation-deterministic"]
    output = run_program(tmp_path, "schemathesis", config, "run", f"{url}/openapi.json", *limits)
    paths = httpx.get(f"{url}/openapi.json").json()["paths"]
    assert f"Tested: {sum(map(len, paths.values()))}\n" in output


def test_a_client_generated_from_the_committed_contract_calls_the_service(url: str, tmp_path: Path) -> None:
    with generated_client(url, tmp_path) as client:
        response = import_module(f"{PACKAGE}.api.health.ready").sync_detailed(client=client)
    assert response.status_code == 200
