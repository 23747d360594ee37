"""Cursors of the list of probes, as a client can compute them from handler/api/pagination.py."""

from uuid import UUID

from fastapi import Request

from handler.api.pagination import Keyset
from tests.support.probe.models import Probe
from tests.support.probe.schemas import ProbeListQuery


def probe_cursor(last: UUID) -> str:
    """The cursor of a page of `/probes/` after the probe with this id."""
    request = Request({"type": "http", "path": "/probes/", "root_path": ""})
    return Keyset(ProbeListQuery(), request, Probe.id, descending=True).cursor(Probe(id=last))
