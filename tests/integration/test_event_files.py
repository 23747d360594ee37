"""The tests of events/ work for a resource with a UUID as key, a unique column and nested objects."""

import json
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from tests.support import event_files
from tests.support.client import invoke
from tests.support.event_files import assert_rows_changed, count_rows, expected_status, load_after_storing
from tests.support.event_sources import Request, http_api_2

JSON = [("content-type", "application/json")]
BODY = {"name": "Thermometer", "serial": "T-1000", "readings": [{"value": "1.500"}]}
UNKNOWN = UUID(int=2**100)
EVENTS = {
    "create": Request("POST", "/probes/", headers=JSON, body=json.dumps(BODY).encode()),
    "read": Request("GET", f"/probes/{UNKNOWN}"),
    "read-by-number": Request("GET", "/probes/1"),
    "list": Request("GET", "/probes/", query="limit=10"),
    "change": Request("PATCH", f"/probes/{UNKNOWN}", headers=JSON, body=b'{"note": "In the cellar"}'),
    "replace": Request("PUT", f"/probes/{UNKNOWN}", headers=JSON, body=json.dumps(BODY).encode()),
    "delete": Request("DELETE", f"/probes/{UNKNOWN}"),
}


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder in place of events/, which has only events of probes."""
    monkeypatch.setattr(event_files, "EVENTS", tmp_path)
    (tmp_path / "probes").mkdir()
    for name, request in EVENTS.items():
        (tmp_path / "probes" / f"{name}.json").write_text(json.dumps(http_api_2(request)))
    return tmp_path


@pytest.mark.parametrize("name", EVENTS)
def test_an_event_names_the_stored_row_and_succeeds(name: str, folder: Path, database: Any) -> None:
    event = load_after_storing(folder / "probes" / f"{name}.json")
    before = count_rows(database)
    response = invoke(event)
    assert response.status == expected_status(event), response.body
    assert_rows_changed(event, before, count_rows(database))


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize("path", ["/probes/", "/probes/search", "/probes/T-1000/readings", "/v1/probes"])
def test_a_path_without_a_generated_key_is_kept(path: str, folder: Path) -> None:
    event = http_api_2(Request("GET", path))
    (folder / "probes" / "other.json").write_text(json.dumps(event))
    assert load_after_storing(folder / "probes" / "other.json") == event


@pytest.mark.usefixtures("database")
def test_an_event_of_another_folder_keeps_its_path(folder: Path) -> None:
    event = http_api_2(Request("GET", "/others/1"))
    (folder / "others.json").write_text(json.dumps(event))
    assert load_after_storing(folder / "others.json") == event


def test_success_is_what_the_openapi_document_says(monkeypatch: pytest.MonkeyPatch) -> None:
    accepted: Any = {"post": {"responses": {"422": {}, "202": {}}}}
    monkeypatch.setattr(event_files, "openapi", lambda: {"paths": {"/probes/{probe_id}/retire": accepted}})
    assert expected_status(http_api_2(Request("POST", "/probes/1/retire"))) == 202
    assert expected_status(http_api_2(Request("GET", "/other"))) == 200
