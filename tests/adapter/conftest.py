import pytest


@pytest.fixture(autouse=True, scope="session")
def _server(worker_database: object) -> None:
    """Modules of this folder have fixtures that use the database, and come before `_clean`."""


@pytest.fixture(autouse=True)
def _clean(database: object) -> None:
    """Every test of this folder starts with empty tables."""
