"""Run the migration of examples/ after those of the service: `python -m tests.examples.migrate upgrade`.

`compare` fails if the migrated database and the example's models differ. `downgrade` undoes the migration.
"""

import os
import runpy
import sys
from pathlib import Path
from typing import Any

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.operations import Operations

from handler import resources

resources.RESOURCES = ("examples.orders",)
resources.import_models()

from handler.database.base import Base  # noqa: E402 - after the models
from handler.database.connection import make_engine  # noqa: E402
from handler.migrations.upgrade import upgrade  # noqa: E402
from handler.settings import read_database_settings  # noqa: E402

MIGRATION = Path(__file__).parents[2] / "examples" / "migrations" / "0004_orders.py"
TABLES = ("orders", "order_lines")


def is_of_the_example(object_: Any, name: str | None, type_: str, *_: Any) -> bool:
    return (name if type_ == "table" else object_.table.name) in TABLES


def main(command: str) -> None:
    settings = read_database_settings(os.environ)
    if command == "upgrade":
        upgrade(settings)
    options = {"include_object": is_of_the_example, "compare_server_default": True}
    with make_engine(settings).begin() as connection:
        context = MigrationContext.configure(connection, opts=options)
        if command == "compare":
            assert compare_metadata(context, Base.metadata) == []
            return
        if command == "upgrade":  # the service may have a resource `orders` too
            connection.exec_driver_sql("DROP TABLE IF EXISTS order_lines, orders CASCADE")
            connection.exec_driver_sql("DROP TYPE IF EXISTS order_status CASCADE")
        with Operations.context(context):
            runpy.run_path(str(MIGRATION))[command]()


main(sys.argv[1])
