"""The packages and modules that the function imports, which take most of a cold start (docs/performance.md)."""

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from handler.settings import AUTH_MODES

ROOT = Path(__file__).parents[2]
# The packages that the first request needs, directly or indirectly. Measure a package before you add it: make
# bench-cold.
PACKAGES = {
    *("fastapi", "starlette", "mangum", "pydantic", "pydantic_core", "sqlalchemy", "pg8000"),
    *("annotated_doc", "annotated_types", "typing_extensions", "typing_inspection"),  # of pydantic and FastAPI
    *("anyio", "opentelemetry"),  # FastAPI imports them, also if they are not used
    *("scramp", "asn1crypto", "dateutil", "six"),  # of pg8000
}
# Modules of handler/database/credentials that only a function with a secret or a token imports.
CREDENTIALS = ("aws", "iam_token", "secrets_manager", "signature")
# Slow parts of allowed packages and of the standard library that no request needs.
HEAVY = {
    *("handler.migrate", "handler.migrations", *(f"handler.database.credentials.{name}" for name in CREDENTIALS)),
    *("sqlalchemy.ext.asyncio", "sqlalchemy.ext.declarative", "sqlalchemy.testing"),
    *("fastapi.testclient", "fastapi.templating", "starlette.testclient", "starlette.templating"),
    *("multiprocessing", "sqlite3", "unittest", "urllib.request", "xml", "xmlrpc", "pydoc"),
}
PROGRAM = f"""
import json, sys
sys.path.insert(0, {str(ROOT)!r})
before = set(sys.modules)
import handler.main
imported = {{name for name, module in sys.modules.items() if module}} - before
files = {{name: getattr(sys.modules[name], "__file__", None) or "" for name in imported}}
import gc
report = {{"files": files, "collects": gc.isenabled(), "frozen": gc.get_freeze_count(), "later": []}}
if sys.argv[1:]:
    from local.events import Context, http_event
    scopes, *paths = sys.argv[1:]
    before = set(sys.modules)
    report["statuses"] = []
    for path in paths:
        event = http_event("GET", path, "", [], b"")
        claims = {{"sub": "ann", "scope": scopes}}
        event["requestContext"]["authorizer"] = {{"jwt": {{"claims": claims}}, "iam": {{"userArn": "arn:ann"}}}}
        report["statuses"].append(handler.main.handler(event, Context())["statusCode"])
    report["later"] = sorted(set(sys.modules) - before)
print(json.dumps(report))
"""


def import_handler(database_url: str, *arguments: str, mode: str = "none", **more: str) -> dict[str, Any]:
    """The imports of a new process, without environment variables that cause more imports, such as coverage's."""
    environ = {"DATABASE_URL": database_url, "AUTH_MODE": mode} | more
    command = [sys.executable, "-I", "-c", PROGRAM, *arguments]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    said: dict[str, Any] = json.loads(done.stdout)
    return said


def test_only_allowed_packages_and_no_slow_modules_are_imported() -> None:
    files = import_handler("postgresql://ann@db.example/shop")["files"]
    packages = {name.partition(".")[0] for name, file in files.items() if "site-packages" in file}
    assert packages - {"snapshot_restore_py"} == PACKAGES, "a package of Lambda's runtime, which is installed on Linux"
    assert HEAVY.isdisjoint(files)


@pytest.mark.parametrize("setting", [{"DATABASE_IAM_AUTH": "true"}, {"DATABASE_SECRET_ARN": "name"}])
def test_a_function_that_signs_requests_imports_no_further_package(setting: dict[str, str]) -> None:
    """It imports neither an SDK nor an HTTP client (docs/adr/0009)."""
    plain = import_handler("postgresql://ann@db.example/shop")["files"]
    signing = import_handler("postgresql://ann@db.example/shop", AWS_REGION="eu-central-1", **setting)["files"]
    added = signing.keys() - plain.keys()
    assert added - {f"handler.database.credentials.{name}" for name in CREDENTIALS} == {"handler.database.https"}


def test_init_sends_no_request() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        import_handler(f"postgresql://ann@127.0.0.1:{server.getsockname()[1]}/shop")
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()


@pytest.mark.parametrize("mode", AUTH_MODES)
def test_the_first_request_imports_nothing(mode: str, worker_database: str) -> None:
    document = json.loads((ROOT / "docs" / "openapi.json").read_text())
    reads = {path: methods["get"] for path, methods in document["paths"].items() if "get" in methods}
    scopes = {scope for read in reads.values() for way in read.get("security", ()) for scope in way["jwt"]}
    paths = [path for path in reads if "{" not in path]
    report = import_handler(worker_database, " ".join(scopes), *paths, mode=mode)
    assert (report["statuses"], report["later"]) == ([200] * len(paths), [])


def test_garbage_is_collected_again_after_the_import_and_never_among_what_was_imported() -> None:
    report = import_handler("postgresql://ann@db.example/shop")
    assert report["collects"]
    assert report["frozen"] > 100_000


DOCUMENT = f"""
import json, sys
sys.path.insert(0, {str(ROOT)!r})
{{first}}
import os
from handler.app import create_app
from handler.settings import read_settings
from fastapi.openapi.models import OpenAPI
print(json.dumps([OpenAPI.__pydantic_complete__, create_app(read_settings(os.environ)).openapi()]))
"""


def test_the_models_of_openapi_are_not_built_by_init_and_the_document_is_the_same() -> None:
    environ = {"DATABASE_URL": "postgresql://ann@db.example/shop", "AUTH_MODE": "jwt"}
    plain, deferred = [
        json.loads(
            subprocess.run(
                [sys.executable, "-I", "-c", DOCUMENT.format(first=first)],
                env=environ,
                capture_output=True,
                text=True,
                check=True,
            ).stdout
        )
        for first in ("import fastapi.openapi.models", "import handler.main")
    ]
    assert (plain[0], deferred[0]) == (True, False)
    assert plain[1] == deferred[1]
