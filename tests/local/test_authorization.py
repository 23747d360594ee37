"""AUTH_MODE=jwt and iam with `make run`: requests that API Gateway's authorizers accept and refuse."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from handler.settings import read_settings
from local import authorizer
from local.authorizer import AUDIENCE, ISSUER, iam_authorizer, jwt_authorizer, sign
from local.events import HttpResponse
from tests.support.make_run import ROOT, Running, copy_template, environment, running
from tests.support.probe_project import probe_openapi

KEY = b"k" * 32
POST = ("POST", "/probes/")


def token(
    scope: str | None = "probes:read probes:write", key: bytes = KEY, algorithm: str = "HS256", **claims: Any
) -> str:
    """A valid token, except for the given claims; None leaves a claim out."""
    now = int(time.time())
    valid = {"iss": ISSUER, "aud": AUDIENCE, "sub": "ann", "iat": now, "exp": now + 172_800, "scope": scope}
    return sign({name: value for name, value in (valid | claims).items() if value is not None}, key, algorithm)


def ask(text: str | None, method: str = "GET", path: str = "/probes/", **options: bool) -> Any:
    authorize = jwt_authorizer(probe_openapi(), KEY, **{"is_public": False, "has_cors": False} | options)
    return authorize(method, path, {} if text is None else {"authorization": text})


def test_a_valid_token_becomes_the_context_that_api_gateway_writes() -> None:
    gateways = json.loads((ROOT / "events" / "authorized-jwt.json").read_text())["requestContext"]["authorizer"]["jwt"]
    context = ask(f"Bearer {token(client_id='shop')}")["jwt"]
    assert context.keys() == gateways.keys()
    assert context["claims"].keys() == gateways["claims"].keys()
    assert all(isinstance(value, str) for value in context["claims"].values())
    assert context["scopes"] == ["probes:read"]
    listed = ask(token(aud=["other", AUDIENCE], groups=["a", "b"], admin=True))["jwt"]["claims"]
    assert (listed["aud"], listed["groups"], listed["admin"]) == (f"[other {AUDIENCE}]", "[a b]", "true")


@pytest.mark.parametrize(
    ("text", "description"),
    [
        (None, ""),
        ("Bearer ", ""),
        ("Bearer nonsense", "the token is malformed"),
        ("Bearer a.b.c", "the token is malformed"),
        (token(key=b"x" * 32), "the signature of the token is not valid"),
        (token(algorithm="none"), "the signature of the token is not valid"),
        (token().rpartition(".")[0] + ".", "the signature of the token is not valid"),
        (token(iss="https://issuer.example"), "the token does not have a valid issuer"),
        (token(aud="other"), "the token does not have a valid audience"),
        (token(aud="other", client_id=AUDIENCE), "the token does not have a valid audience"),
        (token(aud=None), "the token does not have a valid audience"),
        (token(exp=int(time.time()) - 1), "the token has expired"),
        (token(exp=None), "the token has expired"),
        (token(exp="soon"), "the token is malformed"),
        (token(nbf=int(time.time()) + 86_400), "the token is not valid yet"),
        (token(iat=int(time.time()) + 86_400), "the token is not valid yet"),
    ],
)
def test_a_request_without_a_valid_token_is_401(text: str | None, description: str) -> None:
    refused = ask(text)
    assert isinstance(refused, HttpResponse)
    assert (refused.status, refused.body) == (401, b'{"message":"Unauthorized"}')
    challenge = dict(refused.headers)["www-authenticate"]
    assert challenge.startswith("Bearer")
    assert not description or f'error="invalid_token" error_description="{description}"' in challenge


def test_a_token_without_a_scope_of_the_method_is_403() -> None:
    for text in (token("probes:read"), token(""), token(None), token("probes:writer")):
        refused = ask(text, *POST)
        assert isinstance(refused, HttpResponse)
        assert (refused.status, refused.body) == (403, b'{"message":"Forbidden"}')
    assert "jwt" in ask(token("probes:write"), *POST)
    assert "jwt" in ask(token(None, scp=["probes:write"]), *POST)
    assert "jwt" in ask(token(None, aud=None, client_id=AUDIENCE), "GET", "/health/ready"), "the route needs no scope"


def test_routes_are_open_without_a_token_as_in_the_template() -> None:
    assert ask(None, "GET", "/docs", is_public=True) is None
    assert ask(None, "OPTIONS", "/probes/", has_cors=True) is None
    for method, path in (("GET", "/probes/"), ("POST", "/docs"), ("GET", "/redoc"), ("GET", "/health/ready")):
        assert isinstance(ask(None, method, path, is_public=True), HttpResponse)


def test_a_signed_request_has_the_user_of_its_access_key_and_another_one_is_403() -> None:
    authorize = iam_authorizer(is_public=False, has_cors=False)
    signature = (
        "AWS4-HMAC-SHA256 Credential=ann/20261126/local/execute-api/aws4_request, SignedHeaders=host, Signature=0"
    )
    context: Any = authorize("GET", "/probes/", {"authorization": signature})
    gateways = json.loads((ROOT / "events" / "authorized-iam.json").read_text())["requestContext"]["authorizer"]["iam"]
    assert context["iam"].keys() == gateways.keys()
    assert context["iam"]["userArn"] == "arn:aws:iam::000000000000:user/ann"
    for headers in ({}, {"authorization": "Bearer x"}, {"authorization": "AWS4-HMAC-SHA256"}):
        refused = authorize("GET", "/probes/", headers)
        assert isinstance(refused, HttpResponse)
        assert refused.status == 403


@pytest.fixture(scope="module")
def jwt_run(project_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Running]]:
    project = copy_template(project_template, tmp_path_factory.mktemp("jwt"), with_database=True)
    # Without authorization, so that the test can see when the service is up.
    with running(project, AUTH_MODE="jwt", AUTH_PUBLIC="true") as run:
        yield project, run


def test_tokens_of_make_token_work_under_make_run(jwt_run: tuple[Path, Running]) -> None:
    project, run = jwt_run

    def headers(scopes: str) -> dict[str, str]:
        command = [sys.executable, "-m", "local.authorizer"]
        printed = subprocess.check_output(command, cwd=project, env=environment(SCOPES=scopes), text=True)
        return {"Authorization": f"Bearer {printed.strip()}"}

    read, write = headers("probes:read"), headers("probes:write")
    assert run.client.get("/probes/").status_code == 401
    assert run.client.get("/probes/", headers=read).json() == {"items": [], "next_cursor": None}
    assert run.client.post("/probes/", headers=read, json={"name": "Lamp"}).json() == {"message": "Forbidden"}
    created = run.client.post("/probes/", headers=write, json={"name": "Lamp"})
    assert created.status_code == 201
    assert run.client.get(created.headers["location"], headers=read).json() == created.json()
    key = project / ".local" / "token-key"
    assert key.stat().st_mode & 0o777 == 0o600


def test_the_try_line_of_the_banner_has_a_token(jwt_run: tuple[Path, Running]) -> None:
    _, run = jwt_run
    (line,) = [line for line in run.output if line.lstrip().startswith("Try ")]
    assert "$(make -s token SCOPES='probes:write')" in line


def test_the_deployed_code_has_no_local_authorizer() -> None:
    for path in (ROOT / "handler").rglob("*.py"):
        text = path.read_text()
        assert not [word for word in (ISSUER, AUDIENCE, "token-key", "from local", "import local") if word in text], (
            path
        )


def test_a_deployment_of_each_mode_has_its_authorizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(authorizer, "KEY", tmp_path / "token-key")
    monkeypatch.setattr(authorizer.read_key, "__defaults__", (tmp_path / "token-key",))
    database = {"DATABASE_URL": "postgresql://postgres@localhost"}
    found = {
        mode: authorizer.of_settings(read_settings(database | {"AUTH_MODE": mode}), probe_openapi())
        for mode in ("none", "jwt", "iam")
    }
    assert found["none"] is None
    assert found["jwt"]
    assert found["iam"]
