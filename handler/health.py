"""For whoever watches: whether the process is alive, and whether it can serve."""

from fastapi import APIRouter
from pydantic import BaseModel
from sqlalchemy import literal, select

from handler.database.session import ReadSessionDep
from handler.errors import problems
from handler.query import NO_QUERY

router = APIRouter(prefix="/health", tags=["health"], responses=problems(422), dependencies=NO_QUERY)


class Health(BaseModel):
    status: str = "ok"


@router.get("/live")
async def live() -> Health:
    """The process answers. Touches no database."""
    return Health()


@router.get("/ready", responses=problems(503))
async def ready(session: ReadSessionDep) -> Health:
    """The database answers too."""
    session.execute(select(literal(1)))
    return Health()
