"""The cost table of docs/performance.md has the results of the formula on that page."""

from math import ceil
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "performance.md").read_text()
# Milliseconds, in the order of the page: loopback, 1 ms of network, cold start, the database's processor.
MEASURED = {"this project": (0.77, 2.23, 347, 0.22), "tutorial": (2.25, 12.35, 1259, 0.78)}


@pytest.mark.parametrize("name", MEASURED)
@pytest.mark.parametrize("rate", [10, 100, 1_000, 10_000])
def test_a_row_of_the_cost_table_follows_from_the_formula(name: str, rate: int) -> None:
    loopback, network, cold, database = MEASURED[name]
    duration = loopback * 1.769 + network - loopback
    compute = 0.20 + 0.0133334 * (ceil(duration) + cold / 1000)
    connections = ceil(rate * duration / 1000 * 2)
    acu = max(0.5, ceil(rate * database / 1000 / 0.6 * 4 * 2) / 2)
    storage = acu * 0.12 / (rate * 3600) * 1_000_000
    total = compute + 1 + storage
    cells = [f"{rate:,}", name, f"{connections:,}", f"{acu:g}", *(f"{one:.2f}" for one in (compute, 1, storage, total))]
    assert f"| {' | '.join(cells)} |" in PAGE


def test_the_page_names_the_measured_times() -> None:
    for name, times in MEASURED.items():
        assert f"| {name} | {' | '.join(f'{one:,}' for one in times)} |" in PAGE
