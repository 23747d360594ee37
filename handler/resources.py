"""The resources of this service. This tuple is the one place where a resource is registered.

A resource is a package with the models of its tables in `models.py` and its router in `routes.py`. The last part of the
package's name is the tag of its operations in OpenAPI, and the package's docstring is the tag's description.
"""

from importlib import import_module
from typing import Any

from fastapi import APIRouter

RESOURCES = ("handler.items",)


def routers() -> list[APIRouter]:
    return [import_module(f"{name}.routes").router for name in RESOURCES]


def tags() -> list[dict[str, Any]]:
    """The tags of the OpenAPI document, one for each resource."""
    return [{"name": name.rpartition(".")[2], "description": import_module(name).__doc__} for name in RESOURCES]


def import_models() -> None:
    """Fill `Base.metadata` with the tables of every resource and of the conventions that they share."""
    import_module("handler.api.models")
    for name in RESOURCES:
        import_module(f"{name}.models")
