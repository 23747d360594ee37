"""Query parameters that nobody declared are refused: a client that misspells one is told."""

from fastapi import Depends, Request
from fastapi.exceptions import RequestValidationError


async def _refuse_query(request: Request) -> None:
    if request.query_params:
        unknown = {"type": "extra_forbidden", "loc": ("query", ""), "msg": "Extra inputs are not permitted"}
        raise RequestValidationError([unknown])


# For `dependencies=` of a route that takes none.
NO_QUERY = [Depends(_refuse_query)]
