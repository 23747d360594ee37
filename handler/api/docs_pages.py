"""Documentation pages that replace FastAPI's: pinned and verified files, and a Content-Security-Policy.

FastAPI's pages load the newest release of a major version from a CDN, unverified, and a page of any origin may show
them in a frame. With these pages, the browser refuses a file with another hash than the one below (Subresource
Integrity), and the Content-Security-Policy allows no other script.
"""

import json
from base64 import b64encode
from collections.abc import Callable, Coroutine
from hashlib import sha256
from html import escape
from posixpath import dirname, relpath
from typing import Any, NamedTuple

from fastapi import FastAPI, Request
from fastapi.openapi.docs import get_swagger_ui_oauth2_redirect_html, swagger_ui_default_parameters
from fastapi.responses import HTMLResponse
from starlette.routing import Route

CDN = "https://cdn.jsdelivr.net/npm"


class File(NamedTuple):
    """A file of an npm package, by its path below the base URL, and its hash, which browsers verify."""

    path: str
    integrity: str


# Each hash: openssl dgst -sha384 -binary FILE | base64, of the file in the package.
SWAGGER_UI_CSS = File(
    "swagger-ui-dist@5.35.0/swagger-ui.css",
    "sha384-WlYgdmXYOOBWL5apwjDEZwN+U3HmXSSu5R6V5aGxEcf7z+KuRNwBhoxKVN1i3D5I",
)
SWAGGER_UI_JS = File(
    "swagger-ui-dist@5.35.0/swagger-ui-bundle.js",
    "sha384-gjRm0bEPMeTmMh5jT2cHccIwCUZSTd8YC+j0d0sXw0MdGEfScduGpSyF3ZSSLkX9",
)
REDOC_JS = File(
    "redoc@2.5.4/bundles/redoc.standalone.js",
    "sha384-w447zOpYfw/1Tv/5AK9NfHTlQIqE3RVR6KY62jCyy9zNDgO64cMwGGP1Fj0zJVf5",
)


class Files(NamedTuple):
    """The files that the pages load."""

    swagger_ui_css: File
    swagger_ui_js: File
    redoc_js: File


FILES = Files(SWAGGER_UI_CSS, SWAGGER_UI_JS, REDOC_JS)
# Forbidden on every page, with the directives that default-src does not cover.
NOTHING = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
# An empty icon: browsers ask the API for /favicon.ico otherwise.
HEAD = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="icon" href="data:,">
"""


def replace_docs_pages(app: FastAPI, base: str = CDN, files: Files = FILES) -> None:
    """Replace the documentation pages of `app` at their paths. A disabled page stays disabled.

    `base` is the URL of the folder with `files`, without a trailing slash; a path is relative to the page.
    """
    pages = {
        app.docs_url: _swagger_ui_page,
        app.redoc_url: _redoc_page,
        app.swagger_ui_oauth2_redirect_url: _oauth2_redirect_page,
    }
    for position, route in enumerate(app.router.routes):
        if isinstance(route, Route) and route.path in pages:
            page = pages[route.path](app, base, files)
            app.router.routes[position] = Route(route.path, page, include_in_schema=False)


Page = Callable[[Request], Coroutine[Any, Any, HTMLResponse]]


def _page(html: str, policy: str) -> Page:
    headers = {"content-security-policy": f"{NOTHING}; {policy}"}

    async def page(_: Request) -> HTMLResponse:
        return HTMLResponse(html, headers=headers)

    return page


def _swagger_ui_page(app: FastAPI, base: str, files: Files) -> Page:
    # URLs are relative to the page, so they need no stage or base path, which could inject a script.
    folder = dirname(app.docs_url or "/")
    parameters = {
        **swagger_ui_default_parameters,
        "validatorUrl": None,  # no badge from another server, which would see the page's URL
        **(app.swagger_ui_parameters or {}),
        "url": relpath(app.openapi_url or "/", folder),
    }
    redirect = relpath(app.swagger_ui_oauth2_redirect_url or "/", folder)
    script = f"""
const parameters = {_script_json(parameters)};
SwaggerUIBundle({{
  ...parameters,
  oauth2RedirectUrl: new URL({_script_json(redirect)}, location.href).href,
  presets: [SwaggerUIBundle.presets.apis, SwaggerUIBundle.SwaggerUIStandalonePreset],
}});
"""
    html = f"""{HEAD.format(title=f"{escape(app.title)} - Swagger UI")}\
<link rel="stylesheet" href="{base}/{files.swagger_ui_css.path}" {_verified(files.swagger_ui_css)}>
</head>
<body>
<div id="swagger-ui"></div>
<script src="{base}/{files.swagger_ui_js.path}" {_verified(files.swagger_ui_js)}></script>
<script>{script}</script>
</body>
</html>
"""
    policy = (
        f"script-src {_source(base, files.swagger_ui_js)} {_hash(script)};"
        f" style-src {_source(base, files.swagger_ui_css)}; img-src data:; connect-src 'self'"
    )
    return _page(html, policy)


def _redoc_page(app: FastAPI, base: str, files: Files) -> Page:
    url = relpath(app.openapi_url or "/", dirname(app.redoc_url or "/"))
    html = f"""{HEAD.format(title=f"{escape(app.title)} - ReDoc")}\
<style>body {{ margin: 0; }}</style>
</head>
<body>
<noscript>ReDoc needs JavaScript.</noscript>
<redoc spec-url="{escape(url)}"></redoc>
<script src="{base}/{files.redoc_js.path}" {_verified(files.redoc_js)}></script>
</body>
</html>
"""
    # ReDoc writes its styles into the page, and its search runs in a worker that is loaded from a blob.
    policy = (
        f"script-src {_source(base, files.redoc_js)}; style-src 'unsafe-inline'; img-src data:; connect-src 'self';"
        " worker-src blob:"
    )
    return _page(html, policy)


def _oauth2_redirect_page(_app: FastAPI, _base: str, _files: Files) -> Page:
    html = bytes(get_swagger_ui_oauth2_redirect_html().body).decode()
    script = html.partition("<script>")[2].partition("</script>")[0]
    return _page(html, f"script-src {_hash(script)}")


def _verified(file: File) -> str:
    return f'integrity="{file.integrity}" crossorigin="anonymous"'


def _source(base: str, file: File) -> str:
    """The source expression of a file (CSP Level 3, 2.3.1), which cannot be a path alone."""
    return f"{base}/{file.path}" if "://" in base else "'self'"


def _hash(script: str) -> str:
    return f"'sha256-{b64encode(sha256(script.encode()).digest()).decode()}'"


def _script_json(value: Any) -> str:
    """`value` as JSON that cannot end the script element around it."""
    return json.dumps(value).replace("<", "\\u003c")
