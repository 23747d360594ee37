from typing import Any

from fastapi import Request, Response
from sqlalchemy import select
from sqlalchemy.orm import Session, joinedload

from handler.api.pagination import Keyset, paginate
from tests.support.probe.models import Probe
from tests.support.probe.schemas import ProbeListQuery


def list_probes(session: Session, query: ProbeListQuery, request: Request, response: Response) -> dict[str, Any]:
    """A page of probes with their readings, newest first, in one statement."""
    statement = select(Probe).options(joinedload(Probe.readings))
    if query.name is not None:
        statement = statement.where(Probe.name == query.name)
    if query.state is not None:
        statement = statement.where(Probe.state == query.state)
    keyset = Keyset(query, request, Probe.id, descending=True)
    return paginate(session, statement, keyset, response, unique=True)
