"""The contract of items."""

import json
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_ids_are_64_bit_integers() -> None:
    openapi = json.loads((ROOT / "docs" / "openapi.json").read_text())
    assert openapi["components"]["schemas"]["ItemRead"]["properties"]["id"]["format"] == "int64"
    for operation in openapi["paths"]["/items/{item_id}"].values():
        assert operation["parameters"][0]["schema"]["format"] == "int64"
