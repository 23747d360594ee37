"""The resources of a test run: those of the service, and the tests' own resource, the probe.

Importing this module registers the probe where every resource is registered, so `handler.main.handler` serves it. It
must be imported before `handler.main`.
"""

from typing import Any

from sqlalchemy import Table

from handler import resources
from handler.database.base import Base

PROBE = "tests.support.probe"

SHIPPED = tuple(name for name in resources.RESOURCES if name != PROBE)
resources.RESOURCES = (*SHIPPED, PROBE)
resources.import_models()


def probe_tables() -> list[Table]:
    """The tables that no migration creates, each after those that it references."""
    models = [mapper for mapper in Base.registry.mappers if mapper.class_.__module__.startswith(PROBE)]
    tables = {mapper.local_table for mapper in models}
    return [table for table in Base.metadata.sorted_tables if table in tables]


def shipped_tables() -> list[str]:
    """The names of the tables that the migrations create, without Alembic's own."""
    return sorted(Base.metadata.tables.keys() - {table.name for table in probe_tables()})


def is_shipped(object_: Any, _name: str | None, type_: str, *_: Any) -> bool:
    """Alembic's `include_object`: exclude the tables of the probe and their parts."""
    table = object_ if type_ == "table" else object_.table
    return table.name not in {one.name for one in probe_tables()}
