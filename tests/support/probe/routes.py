from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Path, Query, Request, Response, status
from sqlalchemy.orm import joinedload

from handler.api.auth import requires_scopes
from handler.api.conditional import check_preconditions, delete_if_match, etag, update_if_match
from handler.api.fields import CanonicalUUID
from handler.api.idempotency import IDEMPOTENT
from handler.api.problems import problem_responses
from handler.api.routing import RepeatableRoute
from handler.database.session import ReadSessionDep, SessionDep
from tests.support.probe import queries
from tests.support.probe.models import Probe, Reading
from tests.support.probe.schemas import ProbeCreate, ProbeListQuery, ProbePage, ProbeRead, ProbeSummary, ProbeUpdate

router = APIRouter(
    prefix="/probes",
    tags=["probe"],
    route_class=RepeatableRoute,
    responses=problem_responses(400, 422, 500, 503),
)

ProbeId = Annotated[CanonicalUUID, Path(description="The probe's id")]
READ, WRITE = requires_scopes("probes:read"), requires_scopes("probes:write")


@router.get(
    "/{probe_id}",
    response_model=ProbeRead,
    dependencies=[READ],
    responses={304: {"description": "Not Modified"}, **problem_responses(404, 412)},
)
async def read_probe(probe_id: ProbeId, session: ReadSessionDep, request: Request, response: Response) -> Any:
    """Read a probe with its readings, in one statement; 304 where `If-None-Match` has its ETag."""
    probe = session.get(Probe, probe_id, options=[joinedload(Probe.readings)])
    if probe is None:
        raise HTTPException(status.HTTP_404_NOT_FOUND, "Probe not found")
    response.headers["ETag"] = etag(probe.version)
    check_preconditions(request, probe.version)
    return probe


@router.get("/", response_model=ProbePage, dependencies=[READ])
async def list_probes(
    query: Annotated[ProbeListQuery, Query()], session: ReadSessionDep, request: Request, response: Response
) -> Any:
    """List probes with their readings, newest first."""
    return queries.list_probes(session, query, request, response)


@router.post(
    "/",
    response_model=ProbeRead,
    status_code=status.HTTP_201_CREATED,
    dependencies=[WRITE, IDEMPOTENT],
    responses=problem_responses(409, 413, 415),
)
async def create_probe(body: ProbeCreate, session: SessionDep, request: Request, response: Response) -> Any:
    """Create a probe and its readings."""
    readings = [Reading(value=reading.value) for reading in body.readings]
    probe = Probe(**body.model_dump(exclude={"readings"}), readings=readings)
    session.add(probe)
    session.flush()
    response.headers["ETag"] = etag(probe.version)
    response.headers["Location"] = f"{request.scope['path']}{probe.id}"
    return probe


@router.put(
    "/{probe_id}",
    response_model=ProbeRead,
    dependencies=[WRITE],
    responses=problem_responses(404, 409, 412, 413, 415),
)
async def replace_probe(
    probe_id: ProbeId, body: ProbeCreate, session: SessionDep, request: Request, response: Response
) -> Any:
    """Replace a probe and its readings, with entities."""
    probe = session.get(Probe, probe_id, options=[joinedload(Probe.readings)], with_for_update={"of": Probe})
    if probe is None:
        raise HTTPException(status.HTTP_404_NOT_FOUND, "Probe not found")
    check_preconditions(request, probe.version)
    for name, value in body.model_dump(exclude={"readings"}).items():
        setattr(probe, name, value)
    probe.readings = [Reading(value=reading.value) for reading in body.readings]
    probe.version += 1
    session.flush()
    response.headers["ETag"] = etag(probe.version)
    return probe


@router.patch(
    "/{probe_id}",
    response_model=ProbeSummary,
    dependencies=[WRITE],
    responses=problem_responses(404, 409, 412, 413, 415),
)
async def update_probe(
    probe_id: ProbeId, body: ProbeUpdate, session: SessionDep, request: Request, response: Response
) -> Any:
    """Change a probe in one statement. Its readings do not change."""
    probe = update_if_match(session, Probe, probe_id, body.model_dump(exclude_unset=True), request)
    response.headers["ETag"] = etag(probe.version)
    return probe


@router.delete(
    "/{probe_id}",
    status_code=status.HTTP_204_NO_CONTENT,
    dependencies=[WRITE],
    responses=problem_responses(404, 412),
)
async def delete_probe(probe_id: ProbeId, session: SessionDep, request: Request) -> None:
    """Delete a probe; PostgreSQL deletes its readings."""
    delete_if_match(session, Probe, probe_id, request)
