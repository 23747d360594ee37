"""`make openapi`: write the schema that is committed, docs/openapi.json."""

import json
from pathlib import Path

from handler.app import create_app
from handler.settings import read_settings

PATH = Path(__file__).parents[1] / "docs" / "openapi.json"


# The contract is that of a deployment with AUTH_MODE=jwt. No connection to the database is opened.
ENVIRON = {"DATABASE_URL": "postgresql://nobody@localhost", "AUTH_MODE": "jwt"}


def document() -> str:
    return json.dumps(create_app(read_settings(ENVIRON)).openapi(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    PATH.write_text(document())
