"""The request log: one line for each request with its costs, level ERROR where the service failed, and no secrets."""

import base64
import json
import logging
import os
import re
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, HTTPException, Response
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel
from sqlalchemy import text

from handler.adapter import request_log
from handler.adapter.detection import NotHttpEvent
from handler.database.session import SessionDep
from handler.settings import Settings
from local.events import Context, http_event
from tests.support.client import call, create_probe, invoke, probe_path
from tests.support.faults import REQUESTS, SEEN_AFTER_A_REST, SEEN_AT_ONCE
from tests.support.pool import lie_idle
from tests.support.proxy import Proxy

ROOT = Path(__file__).parents[2]
EVENTS = ROOT / "events"
TRACE = "1-5759e988-bd862e3fe1be46a994272793"
SECRET_TEXT = "MARKED"  # part of every value that no log may show


def test_a_request_is_one_line(logged_requests: list[Any]) -> None:
    probe = create_probe()
    logged_requests.clear()
    context = Context()
    response = call("GET", f"/probes/{probe['id']}", context=context)
    (line,) = logged_requests
    assert line["requestId"] == context.aws_request_id == response.headers["x-request-id"]
    assert (line["method"], line["route"], line["status"], line["level"]) == ("GET", "/probes/{probe_id}", 200, "INFO")
    assert 0 < line["DatabaseTime"] < line["Duration"] < 10_000
    assert 0 < line["remainingTime"] < 10_000
    assert (line["Requests"], line["ServerErrors"], line["connections"]) == (1, 0, 0)


@pytest.mark.parametrize(
    ("method", "path", "route", "status"),
    [
        ("GET", probe_path(7), "/probes/{probe_id}", 404),
        ("HEAD", "/probes/", "/probes/", 200),
        ("GET", f"/{SECRET_TEXT}/7", "other", 404),
        ("GET", f"/probes/{SECRET_TEXT}", "/probes/{probe_id}", 422),
        ("PUT", "/probes/", "/probes/", 405),
        (SECRET_TEXT, "/probes/", "/probes/", 405),
    ],
)
def test_the_route_is_named_by_its_template(
    method: str, path: str, route: str, status: int, logged_requests: list[Any]
) -> None:
    assert call(method, path, query=f"q={SECRET_TEXT}" if SECRET_TEXT in path else "").status == status
    (line,) = logged_requests
    assert (line["route"], line["status"], line["level"]) == (route, status, "INFO")
    assert line["method"] == ("other" if method == SECRET_TEXT else method)
    assert SECRET_TEXT not in json.dumps(line)


@pytest.mark.parametrize(
    ("event", "method", "status"),
    [
        (http_event("GET", "/probes/", "", [], b"") | {"version": "3.0"}, "other", 400),
        (http_event("POST", "/probes/", "", [], b"") | {"body": "?", "isBase64Encoded": True}, "POST", 400),
        (http_event("POST", "/probes/", "", [], b"x" * 300_000), "POST", 413),
    ],
    ids=["of an unknown version", "with a broken body", "with too large a body"],
)
def test_a_request_without_a_route_is_logged(
    event: Any, method: str, status: int, logged_requests: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    response = invoke(event)
    (line,) = logged_requests
    assert (line["method"], line["route"], line["status"], line["level"]) == (method, "other", status, "INFO")
    assert line["requestId"] == response.headers["x-request-id"]
    assert not [record for record in caplog.records if record.exc_info or record.levelno > logging.INFO]


def test_an_event_that_is_not_http_is_not_logged_as_a_request(logged_requests: list[Any]) -> None:
    from handler.main import handler

    assert handler({"source": "aws.events"}, Context()) is None
    with pytest.raises(NotHttpEvent):
        handler({"source": "aws.ec2"}, Context())
    assert logged_requests == []


def test_the_log_and_the_response_have_the_same_id_without_a_context(logged_requests: list[Any]) -> None:
    from handler.main import handler

    response = handler(http_event("GET", "/nowhere", "", [], b""), None)
    assert response is not None
    (line,) = logged_requests
    assert line["requestId"] == response["headers"]["x-request-id"] == json.loads(response["body"])["request_id"]
    assert line["remainingTime"] is None


# --- costs ---


@pytest.mark.parametrize(
    ("round_trips", "method", "path", "body"),
    [
        (1, "GET", probe_path(1), None),
        (1, "GET", "/probes/", None),
        (2, "POST", "/probes/", {"name": "new"}),
        (2, "PATCH", probe_path(1), {"name": "new"}),
        (2, "DELETE", probe_path(1), None),
        (0, "GET", "/health/live", None),
        (0, "POST", "/probes/", {}),
    ],
)
def test_the_logged_round_trips_are_those_on_the_network(  # noqa: PLR0913, PLR0917 - a request, and what it costs
    round_trips: int, method: str, path: str, body: Any, proxy: Proxy, logged_requests: list[Any]
) -> None:
    create_probe()
    with proxy.counting() as count:
        call(method, path, body)
    assert logged_requests[-1]["RoundTrips"] == count.round_trips == round_trips
    assert logged_requests[-1]["connections"] == count.connections == 0
    assert (logged_requests[-1]["DatabaseTime"] > 0) == (round_trips > 0)


def test_a_new_connection_is_counted_with_its_round_trips(proxy: Proxy, logged_requests: list[Any]) -> None:
    with proxy.counting() as count:
        call("GET", "/probes/")
    assert logged_requests[-1]["RoundTrips"] == count.round_trips == 4  # three to log in by SCRAM
    assert logged_requests[-1]["connections"] == count.connections == 1


def test_a_large_response_is_one_round_trip(app: FastAPI, proxy: Proxy, logged_requests: list[Any]) -> None:
    @app.get("/test/large")
    async def _route(session: SessionDep) -> int:
        return len(session.execute(text("SELECT repeat('x', 2000000)")).scalar_one())

    create_probe()
    with proxy.counting() as count:
        assert call("GET", "/test/large").json == 2_000_000
    assert logged_requests[-1]["RoundTrips"] == count.round_trips == 2  # the statement and its COMMIT


def test_a_slow_statement_counts_as_database_time(app: FastAPI, logged_requests: list[Any]) -> None:
    @app.get("/test/slow")
    async def _route(session: SessionDep) -> None:
        session.execute(text("SELECT pg_sleep(0.2)"))

    call("GET", "/test/slow")
    assert 200 <= logged_requests[-1]["DatabaseTime"] <= logged_requests[-1]["Duration"]


def test_a_wait_for_a_silent_network_counts_as_database_time(proxy: Proxy, logged_requests: list[Any]) -> None:
    create_probe()
    proxy.black_hole()
    assert call("GET", probe_path(1), context=Context(timeout=0.9)).status == 503
    proxy.restore()
    assert logged_requests[-1]["DatabaseTime"] >= 300


# --- failures ---


def errors(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_a_500_is_an_error_with_one_traceback(
    app: FastAPI, logged_requests: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    @app.get("/test/broken")
    async def _route() -> None:
        raise ValueError("the reason")

    assert call("GET", "/test/broken").status == 500
    assert (logged_requests[-1]["level"], logged_requests[-1]["ServerErrors"]) == ("ERROR", 1)
    (record,) = errors(caplog)
    assert record.getMessage() == "GET /test/broken: unexpected ValueError"
    assert caplog.text.count("Traceback") == 1
    assert "ValueError: the reason" in caplog.text


def test_a_503_is_logged_with_its_reason_and_without_a_traceback(
    proxy: Proxy, logged_requests: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    proxy.refuse()
    assert call("GET", probe_path(1)).status == 503
    proxy.restore()
    assert (logged_requests[-1]["level"], logged_requests[-1]["ServerErrors"]) == ("ERROR", 1)
    (record,) = errors(caplog)
    assert record.getMessage().startswith("database: 08001 cannot connect")
    assert "Traceback" not in caplog.text


def test_a_5xx_that_a_route_returns_is_logged_as_an_error(app: FastAPI, logged_requests: list[Any]) -> None:
    @app.get("/test/busy")
    async def _route() -> None:
        raise HTTPException(502)

    assert call("GET", "/test/busy").status == 502
    assert logged_requests[-1]["level"] == "ERROR"


def test_a_response_that_violates_its_model_is_logged_without_stored_values(
    app: FastAPI, caplog: pytest.LogCaptureFixture
) -> None:
    class Contract(BaseModel):
        price: int

    @app.get("/test/contract", response_model=Contract)
    async def _route() -> Any:
        return {"price": SECRET_TEXT}

    assert call("GET", "/test/contract").status == 500
    (record,) = errors(caplog)
    assert record.exc_info
    assert str(record.exc_info[1]) == "response.price int_parsing"
    assert "fastapi.exceptions.ResponseValidationError: response.price int_parsing" in caplog.text
    assert SECRET_TEXT not in caplog.text


def test_a_response_that_cannot_be_formatted_is_a_500(
    app: FastAPI, logged_requests: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    @app.get("/test/cookies")
    async def _route(response: Response) -> None:
        for number in range(2000):  # a load balancer accepts no more cookies than there are spellings of set-cookie
            response.set_cookie(f"c{number}")

    event = json.loads((EVENTS / "alb.json").read_text()) | {"path": "/test/cookies"}
    assert invoke(event).status == 500
    assert logged_requests[-1]["level"] == "ERROR"
    (record,) = errors(caplog)
    assert record.getMessage() == "the response cannot be formatted"


def test_a_response_that_is_too_large_is_logged_with_its_size(
    app: FastAPI, logged_requests: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    @app.get("/test/huge")
    async def _route() -> str:
        return "x" * 7_000_000

    assert call("GET", "/test/huge").status == 500
    assert logged_requests[-1]["level"] == "ERROR"
    (record,) = errors(caplog)
    assert re.fullmatch(r"The response has \d+ bytes, and at most 6291556 can be returned", record.getMessage())


# --- recoveries without a log record ---

FAULTS: list[tuple[str, Callable[[Proxy], object], bool]] = [
    *((name, fault, False) for name, fault in SEEN_AT_ONCE.items()),
    *((f"{name}, after an idle time", fault, True) for name, fault in (SEEN_AT_ONCE | SEEN_AFTER_A_REST).items()),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault[0])
@pytest.mark.parametrize("request_", [REQUESTS[0], REQUESTS[2]], ids=["GET", "POST"])
def test_a_replaced_connection_adds_no_log_record(
    fault: tuple[str, Callable[[Proxy], object], bool],
    request_: tuple[str, str, Any, int],
    proxy: Proxy,
    logged_requests: list[Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    create_probe()
    fault[1](proxy)
    if fault[2]:
        lie_idle()
    method, path, body, status = request_
    assert call(method, path, body).status == status
    assert caplog.records == []
    assert logged_requests[-1]["level"] == "INFO"
    assert logged_requests[-1]["connections"] == 1, "the line counts the new connection"


def test_a_terminated_backend_adds_no_log_record(database: Any, caplog: pytest.LogCaptureFixture) -> None:
    create_probe()
    database.run(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE pid <> pg_backend_pid() AND datname = current_database()"
    )
    create_probe()
    assert caplog.records == []


def test_a_connection_lost_in_a_transaction_is_one_error_line(
    app: FastAPI, proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    @app.post("/test/second")
    async def _route(session: SessionDep) -> None:
        session.execute(text("SELECT 1"))
        proxy.reset()
        session.execute(text("SELECT 2"))

    assert call("POST", "/test/second").status == 503
    (record,) = caplog.records
    assert record.name == "handler.api.errors"
    assert not record.exc_info


# --- no text of clients or rows ---

# Hypothesis would take minutes to shrink a failure.
NO_SHRINKING = (Phase.explicit, Phase.reuse, Phase.generate)
WORDS = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=8)


@settings(
    max_examples=20, deadline=None, phases=NO_SHRINKING, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(words=st.tuples(WORDS, WORDS, WORDS), method=st.sampled_from(["GET", "POST", "PATCH", "PUT", "BREW"]))
def test_no_log_line_contains_text_of_the_client(
    words: tuple[str, str, str], method: str, logged_requests: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    logged_requests.clear()
    caplog.clear()
    before, after, path = words
    secret = f"{before}{SECRET_TEXT}{after}"
    headers = [
        (name, f"x-{SECRET_TEXT}") for name in ("authorization", "cookie", "idempotency-key", "if-match", SECRET_TEXT)
    ]
    for target in (f"/probes/{path}{SECRET_TEXT}", "/probes/", probe_path(1), f"/{SECRET_TEXT}", "/health/live"):
        for body in (secret.encode(), json.dumps({"name": secret, SECRET_TEXT: secret}).encode(), b""):
            call(method, target, body, query=f"q={SECRET_TEXT}&{SECRET_TEXT}=1", headers=headers)
            event = http_event(method, target, f"q={SECRET_TEXT}", headers, body)
            invoke(event | {"body": f"{SECRET_TEXT}!", "isBase64Encoded": True})
            invoke(event | {"version": SECRET_TEXT})
    assert logged_requests
    assert SECRET_TEXT not in json.dumps(logged_requests, ensure_ascii=False)
    assert SECRET_TEXT not in caplog.text


@pytest.mark.parametrize("code", ["23514", "22001", "42P01", "P0001", "XX000"])
def test_no_log_line_contains_values_that_the_server_quotes(
    code: str, app: FastAPI, caplog: pytest.LogCaptureFixture
) -> None:
    @app.post("/test/raise")
    async def _route(session: SessionDep) -> None:
        statement = "DO $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '{}', DETAIL = chr(77) || 'ARKED'; END $$"
        session.execute(text(statement.format(code)))

    assert call("POST", "/test/raise").status in (422, 500)
    assert SECRET_TEXT not in caplog.text


# --- in Lambda's runtime ---

RUNTIME = """
import json, logging, os, sys
from types import SimpleNamespace
from awslambdaric import bootstrap
from awslambdaric.lambda_runtime_marshaller import LambdaMarshaller

class Service:
    '''The Runtime API: the invocations of standard input. At its end, the process exits.'''
    marshaller = LambdaMarshaller()
    def wait_next_invocation(self):
        line = sys.stdin.readline()
        if not line:
            sys.exit()
        return SimpleNamespace(**json.loads(line))
    def post_invocation_result(self, invoke_id, result, *_):
        responses.write(json.dumps({"id": invoke_id, "response": json.loads(result)}) + "\\n")

import tests.support.resources
from handler import app as application
from handler.api.auth import PUBLIC

def create_app(settings, create_app=application.create_app):
    app = create_app(settings)

    @app.get("/test/broken", dependencies=[PUBLIC])
    async def broken():
        raise ValueError("the reason")

    @app.get("/test/noisy", dependencies=[PUBLIC])
    async def noisy():
        logging.getLogger("noisy").info("information")

    return app

application.create_app = create_app

with open(sys.argv[1], "w") as responses:
    bootstrap.run("handler.main.handler", Service())
"""
# AWS_LAMBDA_LOG_FORMAT is what LogFormat in template.yaml sets.
FUNCTION = "service-ApiFunction-1A2B3C"
LAMBDA = {
    "AWS_LAMBDA_FUNCTION_NAME": FUNCTION,
    "AWS_LAMBDA_FUNCTION_VERSION": "7",
    "AWS_LAMBDA_LOG_FORMAT": "JSON",
}


def under_the_runtime(
    folder: Path, *requests: tuple[str, str, bytes], **environment: str
) -> tuple[list[Any], list[Any]]:
    """The log and the responses of a new environment."""
    pytest.importorskip("awslambdaric", reason="the runtime interface client is not installed")
    invocations = [
        {
            "invoke_id": str(uuid.uuid4()),
            "x_amzn_trace_id": f"Root={TRACE};Parent=53995c3f42cd8ad8;Sampled=1" if number % 2 == 0 else None,
            "invoked_function_arn": "arn:aws:lambda:eu-central-1:000000000000:function:service",
            "deadline_time_in_ms": 9_000_000_000_000,
            "client_context": None,
            "cognito_identity": None,
            "tenant_id": None,
            "content_type": "application/json",
            "event_body": json.dumps(
                http_event(method, path, f"q={SECRET_TEXT}" if "test" in path else "", HEADERS, body)
            ),
            "invocation_id": None,
        }
        for number, (method, path, body) in enumerate(requests)
    ]
    done = subprocess.run(
        [sys.executable, "-c", RUNTIME, str(folder / "responses")],
        cwd=ROOT,
        env=os.environ | LAMBDA | environment,
        input="".join(json.dumps(one) + "\n" for one in invocations),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stderr == ""
    responses = [json.loads(line) for line in (folder / "responses").read_text().splitlines()]
    assert [one["id"] for one in responses] == [one["invoke_id"] for one in invocations]
    return [json.loads(line) for line in done.stdout.splitlines()], responses


HEADERS = [
    ("content-type", "application/json"),
    ("authorization", f"Bearer {SECRET_TEXT}"),
    ("cookie", f"session={SECRET_TEXT}"),
]
BODY = json.dumps({"name": f"a {SECRET_TEXT} lamp"}).encode()


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    log, _ = under_the_runtime(
        tmp_path_factory.mktemp("runtime"),
        ("POST", "/probes/", BODY),
        ("GET", "/probes/", b""),
        ("POST", "/probes/", b'{"name": 3}'),
        ("GET", "/test/broken", b""),
        ("GET", "/test/noisy", b""),
    )
    return log


def of_requests(log: list[Any]) -> list[Any]:
    return [line for line in log if "_aws" in line]


def test_every_line_is_json_and_every_request_has_one(logged: list[Any]) -> None:
    seen = [(line["method"], line["route"], line["status"], line["level"]) for line in of_requests(logged)]
    assert seen == [
        ("POST", "/probes/", 201, "INFO"),
        ("GET", "/probes/", 200, "INFO"),
        ("POST", "/probes/", 422, "INFO"),
        ("GET", "/test/broken", 500, "ERROR"),
        ("GET", "/test/noisy", 200, "INFO"),
    ]
    assert {(line["function"], line["version"]) for line in of_requests(logged)} == {(FUNCTION, "7")}
    assert SECRET_TEXT not in json.dumps(logged)


def test_an_environment_starts_cold_once(logged: list[Any]) -> None:
    lines = of_requests(logged)
    assert [line["coldStart"] for line in lines] == [True, False, False, False, False]
    assert [line["ColdStarts"] for line in lines] == [1, 0, 0, 0, 0]
    assert [line["RoundTrips"] for line in lines[1:3]] == [1, 0]
    assert [line["connections"] for line in lines] == [1, 0, 0, 0, 0]


def test_trace_ids_are_those_of_the_invocation(logged: list[Any]) -> None:
    assert [line["traceId"] for line in of_requests(logged)] == [TRACE, None, TRACE, None, TRACE]


def test_the_cause_of_a_failure_is_logged_with_the_request_s_id(logged: list[Any]) -> None:
    (request,) = [line for line in of_requests(logged) if line["status"] == 500]
    (cause,) = [line for line in logged if "stackTrace" in line]
    assert (cause["level"], cause["errorMessage"]) == ("ERROR", "the reason")
    assert cause["requestId"] == request["requestId"]
    assert len({line["requestId"] for line in of_requests(logged)}) == 5


def test_the_metrics_do_not_depend_on_the_log_level(tmp_path: Path) -> None:
    log, _ = under_the_runtime(tmp_path, ("GET", "/test/noisy", b""), ("GET", "/health/live", b""), LOG_LEVEL="ERROR")
    assert [line["Requests"] for line in log] == [1, 1]


def test_no_log_line_contains_a_password(tmp_path: Path) -> None:
    url = f"postgresql://ann:{SECRET_TEXT}@127.0.0.1:1/d"
    log, _ = under_the_runtime(tmp_path, ("GET", probe_path(1), b""), ("GET", "/health/ready", b""), DATABASE_URL=url)
    assert [line["status"] for line in of_requests(log)] == [503, 503]
    assert SECRET_TEXT not in json.dumps(log)


# --- the embedded metric format ---

UNITS = {"Count", "Milliseconds"}  # some of CloudWatch's units (API reference, "MetricDatum")


def test_metrics_follow_the_embedded_metric_format(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """The rules of the specification, in the order of its sections."""
    monkeypatch.setattr(request_log, "sinks", [request_log.cloudwatch_sink("Probes")])
    call("GET", "/probes/")
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1
    assert printed.endswith("\n")
    assert len(printed.encode()) < 256 * 1024
    root = json.loads(printed)
    # Metadata object
    assert root["_aws"].keys() == {"Timestamp", "CloudWatchMetrics"}
    assert type(root["_aws"]["Timestamp"]) is int
    assert 10**12 < root["_aws"]["Timestamp"] < 10**13, "milliseconds"
    (directive,) = root["_aws"]["CloudWatchMetrics"]
    # MetricDirective object
    assert directive.keys() == {"Namespace", "Dimensions", "Metrics"}
    assert re.fullmatch(r"(?!AWS/)[\w.#/:-]{1,255}", directive["Namespace"])
    assert 0 < len(directive["Metrics"]) <= 100
    # DimensionSet array
    assert directive["Dimensions"] == [["function"]]
    assert 0 < len(root["function"]) < 1024
    # MetricDefinition object, and its target member
    for metric in directive["Metrics"]:
        assert metric.keys() == {"Name", "Unit"}
        assert metric["Unit"] in UNITS
        assert type(root[metric["Name"]]) in (int, float)
    # Lambda's rules for a line of JSON
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", root["timestamp"])


def test_alarms_and_dashboard_use_the_metrics_of_the_log() -> None:
    assert Settings.model_fields["service_name"].default == "API"
    assert request_log.METRICS == {
        "Requests": "Count",
        "ServerErrors": "Count",
        "ColdStarts": "Count",
        "Duration": "Milliseconds",
        "DatabaseTime": "Milliseconds",
        "RoundTrips": "Count",
    }


def test_no_log_line_contains_a_body_in_base64(logged_requests: list[Any], caplog: pytest.LogCaptureFixture) -> None:
    encoded = base64.b64encode(BODY).decode()
    invoke(http_event("POST", "/probes/", "", HEADERS, b"") | {"body": encoded, "isBase64Encoded": True})
    assert encoded not in json.dumps(logged_requests) + caplog.text
