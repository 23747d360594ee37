"""docs/operations.md has a section for each alarm, and queries whose fields exist."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from handler.adapter import request_log
from tests.support.client import call

ROOT = Path(__file__).parents[2]
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()
SECTIONS = dict(re.findall(r"^## (.*)\n((?:(?!## ).*\n)*)", OPERATIONS, re.MULTILINE))
QUERIES = re.findall(r"```logs\n(.*?)```", OPERATIONS, re.DOTALL)
TEMPLATES = [ROOT / "template.yaml", *sorted((ROOT / "infra").glob("*.yaml"))]
# The members that Lambda's formatter writes (awslambdaric, lambda_runtime_log_utils.py) and that the platform writes
# (Lambda developer guide, "Telemetry API Event schema reference"), and the words of the query language of Logs
# Insights.
FORMATTER = {"timestamp", "level", "message", "logger", "stackTrace", "errorType", "errorMessage", "requestId"}
PLATFORM = {"type", *(f"record.{name}" for name in ("requestId", "status", "errorType"))}
PLATFORM |= {f"record.metrics.{name}" for name in ("durationMs", "maxMemoryUsedMB")}
WORDS = set(
    re.findall(r"\w+", "filter fields sort limit stats by as desc and not in ispresent count avg max sum pct bin")
)


def test_every_alarm_has_a_section_with_its_meaning_what_to_look_at_and_what_to_do() -> None:
    text = "\n".join(path.read_text() for path in TEMPLATES)
    alarms = re.findall(r"^  (\w+):\n(?:    #.*\n)*    Type: AWS::CloudWatch::Alarm$", text, re.MULTILINE)
    assert text.count("Type: AWS::CloudWatch::Alarm") == len(alarms)
    assert [alarm for alarm in alarms if alarm not in SECTIONS] == []
    for name, section in SECTIONS.items():
        if name.endswith("Alarm"):
            assert re.findall(r"^\*\*(\w+)\.\*\*", section, re.MULTILINE) == ["Means", "Look", "Do"]


@pytest.fixture
def line(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> Any:
    monkeypatch.setattr(request_log, "sinks", [request_log.cloudwatch_sink("Shop")])
    call("GET", "/health/live")
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("query", QUERIES)
def test_every_query_reads_fields_that_exist(query: str, line: Any) -> None:
    names = re.findall(r"[\w.]*[A-Za-z][\w.]*", re.sub(r'"[^"]*"|@\w+|\bas \w+|\d+m\b', "", query))
    named_here = set(re.findall(r"\bas (\w+)", query))
    assert set(names) - WORDS - named_here <= FORMATTER | PLATFORM | line.keys()


def test_the_table_has_every_member_of_the_log_line(line: Any) -> None:
    table = "".join(re.findall(r"^\|.*\n", OPERATIONS, re.MULTILINE))
    described = set(re.findall(r"`(\w+)`", table))
    # Members that are only for the metrics or for CloudWatch are not in the table.
    assert line.keys() - described == {"_aws", "timestamp", "function", "Requests", "ServerErrors", "ColdStarts"}
