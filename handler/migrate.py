"""`python -m handler.migrate`: bring the database at DATABASE_URL to the newest schema."""

import os
import sys
import traceback

from handler.migrations.errors import redacted
from handler.migrations.failures import EXPECTED, describe_failure
from handler.migrations.upgrade import upgrade
from handler.settings import read_database_settings


def main() -> None:
    try:
        revision = upgrade(read_database_settings(os.environ))
    except (Exception, SystemExit) as error:  # noqa: BLE001 - what a migration raises may be anything
        if not isinstance(error, EXPECTED):
            traceback.print_exception(redacted(error))
        sys.exit(f"migrate: {describe_failure(error)}")
    print(f"migrate: the schema is at {revision}")


if __name__ == "__main__":
    main()
