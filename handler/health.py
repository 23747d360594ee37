"""Health checks: whether the process is running, and whether its database responds."""

from typing import Literal

from fastapi import APIRouter, Depends
from pydantic import BaseModel
from sqlalchemy import literal, select

from handler.api.auth import PUBLIC, requires_scopes
from handler.api.problems import problem_responses
from handler.database.session import ReadSessionDep, get_read_session

router = APIRouter(prefix="/health", tags=["health"], responses=problem_responses(500))


class Health(BaseModel):
    status: Literal["ok"] = "ok"


# The session connects at its first statement, so this request uses no database. The adapter sends it during init, to
# import and cache what other requests use.
@router.get("/live", dependencies=[PUBLIC, Depends(get_read_session, scope="function")])
async def live() -> Health:
    """The process is running. No database is used."""
    return Health()


@router.get("/ready", dependencies=[requires_scopes()], responses=problem_responses(503))
async def ready(session: ReadSessionDep) -> Health:
    """The process is running and its database responds."""
    session.execute(select(literal(1)))
    return Health()
