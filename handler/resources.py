"""The resources of this service. This tuple is the one place where a resource is registered.

A resource is a package with the models of its tables in `models.py` and its router in `routes.py`. The last part of the
package's name is the tag of its operations in OpenAPI, and the package's docstring is the description of the tag.
"""

from importlib import import_module
from typing import Any

from fastapi import APIRouter

RESOURCES: tuple[str, ...] = ("handler.items",)


def routers() -> list[APIRouter]:
    """The router of each resource, in the order of RESOURCES."""
    return [import_module(f"{package}.routes").router for package in RESOURCES]


def tags() -> list[dict[str, Any]]:
    """The tags of the OpenAPI document, one for each resource."""
    return [
        {"name": package.rpartition(".")[2], "description": import_module(package).__doc__} for package in RESOURCES
    ]


def import_models() -> None:
    """Fill `Base.metadata` with the tables of every resource and of the conventions that they share."""
    import_module("handler.api.models")
    for package in RESOURCES:
        import_module(f"{package}.models")
