"""For whoever watches: whether the process is alive, and whether it can serve."""

from fastapi import APIRouter, Request
from pydantic import BaseModel
from sqlalchemy import literal, select

from handler.auth import PUBLIC, GuardedRoute, needs
from handler.database.session import ReadSessionDep
from handler.errors import problems
from handler.query import refuse_query

router = APIRouter(prefix="/health", tags=["health"], responses=problems(401, 422, 500), route_class=GuardedRoute)


class Health(BaseModel):
    status: str = "ok"


@router.get("/live", openapi_extra=PUBLIC)
async def live(request: Request) -> Health:
    """The process answers. Touches no database."""
    refuse_query(request)
    return Health()


@router.get("/ready", responses=problems(503), openapi_extra=needs())
async def ready(request: Request, session: ReadSessionDep) -> Health:
    """The database answers too."""
    refuse_query(request)
    session.execute(select(literal(1)))
    return Health()
