"""Serve the files of /docs and /redoc from a package, so that they need no network. Deployments use a CDN."""

import hashlib
from base64 import b64encode
from importlib.util import find_spec
from pathlib import Path

from fastapi import FastAPI

from handler.api.docs_pages import File, Files, replace_docs_pages
from local.events import HttpResponse

FOLDER = "docs-files"  # in URLs, beside the pages
MEDIA_TYPES = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8"}


def serve_offline(app: FastAPI) -> dict[str, HttpResponse]:
    """Make the documentation pages of `app` load the package's files. Returns the files by their paths."""
    package = find_spec("fastapi_standalone_docs")
    assert package is not None
    assert package.origin
    static = Path(package.origin).parent / "static"
    sources = Files(
        *map(_file, ("swagger/swagger-ui.css", "swagger/swagger-ui-bundle.js", "redoc/redoc.standalone.js"))
    )
    contents = {one.path: (static / one.path).read_bytes() for one in sources}
    files = Files(*(one._replace(integrity=_integrity(contents[one.path])) for one in sources))
    replace_docs_pages(app, FOLDER, files)
    return {f"/{FOLDER}/{path}": _response(path, content) for path, content in contents.items()}


def _file(path: str) -> File:
    return File(path, "")


def _integrity(content: bytes) -> str:
    return f"sha384-{b64encode(hashlib.sha384(content).digest()).decode()}"


def _response(path: str, content: bytes) -> HttpResponse:
    headers = [("content-type", MEDIA_TYPES[Path(path).suffix]), ("cache-control", "no-cache")]
    return HttpResponse(200, headers, content)
