"""`make openapi`: write the schema that is committed, docs/openapi.json."""

import json
from pathlib import Path

from handler.app import create_app

PATH = Path(__file__).parents[1] / "docs" / "openapi.json"


def document() -> str:
    return json.dumps(create_app().openapi(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    PATH.write_text(document())
