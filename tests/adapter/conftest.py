import pytest


@pytest.fixture(autouse=True, scope="session")
def _server(worker_database: object) -> None:
    """Start the server first, because fixtures of modules in this folder use the database before `_clean` runs."""


@pytest.fixture(autouse=True)
def _clean(database: object) -> None:
    """Every test of this folder starts with empty tables."""
