"""`python -m handler.migrate`: migrate the database of DATABASE_URL to the newest schema."""

import os
import sys
import traceback

from handler.migrations.errors import redacted
from handler.migrations.failures import EXPECTED_ERRORS, describe_failure
from handler.migrations.upgrade import upgrade
from handler.settings import read_database_settings


def main() -> None:
    try:
        revision = upgrade(read_database_settings(os.environ))
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a migration may raise anything
        if not isinstance(error, EXPECTED_ERRORS):
            traceback.print_exception(redacted(error))
        sys.exit(f"migrate: {describe_failure(error)}")
    print(f"migrate: the schema is at {revision}")


if __name__ == "__main__":
    main()
