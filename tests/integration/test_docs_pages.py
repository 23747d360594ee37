"""The documentation pages run only the pinned files."""

import asyncio
import base64
import hashlib
import json
import re
import shutil
import subprocess
import tarfile
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.routing import Route

from handler.api.docs_pages import REDOC_JS, SWAGGER_UI_CSS, SWAGGER_UI_JS, File, replace_docs_pages
from tests.support.client import call

PAGES = ["/docs", "/redoc", "/docs/oauth2-redirect"]


class Page(HTMLParser):
    """The scripts and links of a page, by their attributes; the text of inline scripts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.loaded: list[dict[str, str]] = []
        self.inline: list[str] = []
        self._in_script = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        assert not [name for name in attributes if name.startswith("on")], "an inline handler"
        url = attributes.get("src" if tag == "script" else "href")
        if tag in ("script", "link") and url is not None and not url.startswith("data:"):
            self.loaded.append({**attributes, "url": url})
        self._in_script = tag == "script" and url is None

    def handle_endtag(self, tag: str) -> None:
        self._in_script = self._in_script and tag != "script"

    def handle_data(self, data: str) -> None:
        if self._in_script:
            self.inline.append(data)


def policy(headers: dict[str, str]) -> dict[str, list[str]]:
    directives = [one.split() for one in headers["content-security-policy"].split(";")]
    assert len({name for name, *_ in directives}) == len(directives), "browsers use only the first directive of a name"
    return {name: sources for name, *sources in directives}


def page_of(app: FastAPI, path: str) -> tuple[str, dict[str, list[str]]]:
    """A page of a separate application."""
    (route,) = [one for one in app.routes if isinstance(one, Route) and one.path == path]
    response: Any = asyncio.run(route.endpoint(None))
    return response.body.decode(), policy(dict(response.headers))


@pytest.mark.parametrize("path", PAGES)
def test_every_file_has_a_fixed_version_and_a_hash(path: str) -> None:
    response = call("GET", path)
    assert (response.status, response.headers["content-type"]) == (200, "text/html; charset=utf-8")
    loaded = Page(response.body.decode()).loaded
    assert len(loaded) == {"/docs": 2, "/redoc": 1}.get(path, 0)
    for one in loaded:
        assert re.search(r"@\d+\.\d+\.\d+/", one["url"]), "a floating version"
        assert re.fullmatch(r"sha384-[A-Za-z0-9+/]{64}", one["integrity"])
        assert one["crossorigin"] == "anonymous", "without it, browsers do not verify a file of another origin"


@pytest.mark.parametrize("path", PAGES)
def test_a_page_runs_only_its_own_scripts_and_is_not_shown_in_a_frame(path: str) -> None:
    response = call("GET", path)
    page, allowed = Page(response.body.decode()), policy(response.headers)
    hashes = [base64.b64encode(hashlib.sha256(one.encode()).digest()).decode() for one in page.inline]
    files = [one["url"] for one in page.loaded if not one["url"].endswith(".css")]
    assert sorted(allowed["script-src"]) == sorted([*files, *(f"'sha256-{one}'" for one in hashes)])
    nothing = {"default-src", "frame-ancestors", "base-uri", "form-action"}
    assert set(allowed) <= nothing | {"script-src", "style-src", "img-src", "connect-src", "worker-src"}
    for directive in nothing:
        assert allowed[directive] == ["'none'"]
    for directive in ("connect-src", "img-src", "style-src"):
        for source in allowed.get(directive, []):
            assert source in ("'self'", "data:", "'unsafe-inline'") or source in [one["url"] for one in page.loaded]
    assert ("'unsafe-inline'" in allowed.get("style-src", [])) == (path == "/redoc")


@pytest.mark.parametrize("file", [SWAGGER_UI_CSS, SWAGGER_UI_JS, REDOC_JS], ids=lambda file: file.path)
def test_the_hash_is_that_of_the_package_s_file(file: File, tmp_path: Path) -> None:
    npm = shutil.which("npm") or pytest.skip("npm is not installed")
    package, _, path = file.path.partition("/")
    packed = subprocess.run([npm, "pack", "--json", package], cwd=tmp_path, capture_output=True, text=True, check=False)
    if packed.returncode:
        pytest.skip("the npm registry cannot be reached")
    with tarfile.open(tmp_path / json.loads(packed.stdout)[0]["filename"]) as archive:
        content = archive.extractfile(f"package/{path}")
        assert content is not None
        digest = hashlib.sha384(content.read()).digest()
    assert file.integrity == f"sha384-{base64.b64encode(digest).decode()}"


def test_a_disabled_page_stays_disabled() -> None:
    app = FastAPI(docs_url=None, swagger_ui_oauth2_redirect_url=None)
    replace_docs_pages(app)
    assert sorted(one.path for one in app.routes if isinstance(one, Route)) == ["/openapi.json", "/redoc"]
    app = FastAPI(openapi_url=None)
    replace_docs_pages(app)
    assert app.routes == []


def test_no_other_server_gets_the_url_of_the_page() -> None:
    """By default, Swagger UI sends the URL of the schema to a validator, and shows its badge."""
    assert '"validatorUrl": null' in call("GET", "/docs").body.decode()


def test_a_page_finds_the_schema_behind_any_prefix() -> None:
    app = FastAPI(docs_url="/internal/docs", openapi_url="/v1/openapi.json", redoc_url="/v1/redoc")
    replace_docs_pages(app)
    assert '"url": "../v1/openapi.json"' in page_of(app, "/internal/docs")[0]
    assert 'spec-url="openapi.json"' in page_of(app, "/v1/redoc")[0]


def test_files_of_this_server_are_allowed_by_self() -> None:
    app = FastAPI()
    replace_docs_pages(app, "docs-files")
    html, allowed = page_of(app, "/docs")
    assert [one["url"] for one in Page(html).loaded] == [
        f"docs-files/{SWAGGER_UI_CSS.path}",
        f"docs-files/{SWAGGER_UI_JS.path}",
    ]
    assert allowed["script-src"][0] == allowed["style-src"][0] == "'self'"


def test_names_and_parameters_are_escaped() -> None:
    end = "</title></script><script>alert(1)</script>"
    app = FastAPI(title=end, swagger_ui_parameters={"filter": end})
    replace_docs_pages(app)
    for path in ("/docs", "/redoc"):
        html, _ = page_of(app, path)
        assert "alert(1)</script>" not in html
        assert len(Page(html).inline) == (1 if path == "/docs" else 0)
