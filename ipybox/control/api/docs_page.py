"""The page ``/docs``: Swagger UI over the API's own document, from this server alone. Floor: control."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html

from ipybox.control.access.page_headers import policy_for_page
from ipybox.control.access.static_files import StaticFiles

_TYPES = {
    # Files of swagger-ui-dist 5.35.0, as they are.
    "swagger-ui-bundle.js": "text/javascript; charset=utf-8",
    "swagger-ui-bundle.js.LICENSE.txt": "text/plain; charset=utf-8",
    "swagger-ui.css": "text/css; charset=utf-8",
    "swagger-ui.LICENSE.txt": "text/plain; charset=utf-8",
    "swagger-ui.NOTICE.txt": "text/plain; charset=utf-8",
}


def docs_router(document_url: str) -> APIRouter:
    """The page and what it loads.

    Args:
        document_url: Where the OpenAPI document is.
    """
    assets = StaticFiles(__package__, "/docs/static", _TYPES)
    router = APIRouter(include_in_schema=False)

    @router.get("/docs")
    async def docs() -> Response:
        """For everybody: it says no more than the program's own documentation does."""
        page = get_swagger_ui_html(
            openapi_url=document_url,
            title="ipybox API",
            swagger_js_url=assets.url("swagger-ui-bundle.js"),
            swagger_css_url=assets.url("swagger-ui.css"),
            swagger_favicon_url="data:,",
            # Its highlighter would put styles into the page, which the page's policy is against.
            swagger_ui_parameters={"syntaxHighlight": False},
        )
        page.headers["Content-Security-Policy"] = policy_for_page(bytes(page.body))
        return page

    @router.get("/docs/static/{digest}/{name}")
    async def static(request: Request, digest: str, name: str) -> Response:
        """A script or a style."""
        return assets.answer(request, digest, name)

    return router
