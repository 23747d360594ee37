import pytest


@pytest.fixture(autouse=True)
def _clean(database: object) -> None:
    """Every test of this folder starts with empty tables."""
