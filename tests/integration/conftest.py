from collections.abc import Iterator

import pytest
from fastapi import FastAPI


@pytest.fixture(autouse=True)
def _clean(database: object) -> None:
    """Every test of this folder starts with empty tables."""


@pytest.fixture
def app() -> Iterator[FastAPI]:
    """The handler's own application, for a test to add routes to; they go when the test ends."""
    from handler import main  # this file is read before the environment is set

    before = list(main.app.router.routes)
    yield main.app
    main.app.router.routes[:] = before
