"""The application of a server's settings, as ASGI. Floor: control."""

from __future__ import annotations

import platform
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse, Response
from starlette.types import ASGIApp

from ipybox import __version__
from ipybox.control.access.admission import Admission
from ipybox.control.access.authentication import Authenticator
from ipybox.control.access.guard import Guard
from ipybox.control.access.metrics import ServerMetrics
from ipybox.control.access.rates import Rates
from ipybox.control.api import executions, failures, files, health, internal, keys, sessions, streams, templates
from ipybox.control.api.answers import Presigned, Problem
from ipybox.control.api.auditing import Auditing
from ipybox.control.api.context import Administrator, Context, Plane
from ipybox.control.api.docs_page import docs_router
from ipybox.control.api.examples import add_examples
from ipybox.control.console.mount import add_console
from ipybox.control.service.control_plane import ControlPlane
from ipybox.control.settings import ServerSettings
from ipybox.control.states import SessionStatus

PREFIX = "/api/v1"
_DESCRIPTION = """\
Runs code that nobody reviewed, in sandboxes of this machine. A **template** says what sessions are made from, a
**session** is a sandbox with files of its own, an **execution** is a run of code in it.

Errors are `application/problem+json` (RFC 9457). A key, where one is needed, is sent as
`Authorization: Bearer ipybox_...`. Requests that make something take an `Idempotency-Key`.
"""


def create_app(settings: ServerSettings, plane: ControlPlane | None = None) -> ASGIApp:
    """The application.

    Args:
        plane: Its services, which are open when its lifespan begins; if there are none, that opens and closes some.

    Raises:
        ServerSettingsError: The settings make no sense.
    """
    context = Context(
        settings=settings,
        metrics=ServerMetrics(__version__, python=platform.python_version()) if plane is None else plane.metrics,
        rates=Rates(settings.rate_limit),
    )
    inner = Auditing(_api(context, plane), context)
    return Guard(inner, settings, admit=context.admit, metrics=context.metrics)


def _api(context: Context, given: ControlPlane | None) -> FastAPI:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            plane = given
            if plane is None:
                plane = await stack.enter_async_context(ControlPlane(context.settings, context.metrics))
            context.authenticator = Authenticator(context.settings, plane.keys)
            context.admission = Admission(
                context.authenticator, context.rates, metrics=context.metrics, applies=lambda path: True
            )
            context.plane = plane
            try:
                yield
            finally:
                context.plane = context.authenticator = context.admission = None

    app = FastAPI(
        title="ipybox",
        version=__version__,
        description=_DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        servers=[{"url": "/"}],
    )
    app.state.context, app.state.working = context, set()
    failures.add_to(app)
    api = APIRouter(prefix=PREFIX)
    routers = [templates.router, sessions.router, executions.router, streams.router, files.router, health.router]
    routers += [keys.router, keys.audit_router]
    if context.settings.internal_callbacks:
        routers.append(internal.router)
    for router in routers:
        api.include_router(router)
    app.include_router(api)
    if context.settings.console:
        add_console(app)
    _add_pages(app, context)
    return app


def _add_pages(app: FastAPI, context: Context) -> None:
    document = _document(app)

    @app.get("/", include_in_schema=False)
    async def root() -> dict[str, Any]:
        return {
            "name": "ipybox",
            "version": __version__,
            "status": "operational",
            "features": ["templates", "sessions", "executions", "files", "stateful", "streams"],
            "docs": "/docs",
            "openapi": "/openapi.json",
            **({"console": "/console"} if context.settings.console else {}),
        }

    @app.get("/openapi.json", include_in_schema=False)
    async def openapi() -> JSONResponse:
        return JSONResponse(document)

    app.include_router(docs_router("/openapi.json"))

    if context.settings.metrics:

        @app.get("/metrics", include_in_schema=False, response_model=None)
        async def metrics(plane: Plane, principal: Administrator) -> Response:
            await _count(context, plane)
            body, kind = context.metrics.render()
            return Response(body, media_type=kind)


async def _count(context: Context, plane: ControlPlane) -> None:
    for status, number in (await plane.db.sessions.count_by_status()).items():
        context.metrics.sessions.labels(SessionStatus(status).value).set(number)
    health = plane.host.health()
    context.metrics.walls.set(len(health.get("walls", ())))
    context.metrics.set_sandbox(str(health.get("sandbox", "")))


def _document(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document, with problems in place of the framework's own errors."""
    document = get_openapi(
        title=app.title,
        version=app.version,
        openapi_version="3.1.0",
        description=app.description,
        routes=app.routes,
        license_info=app.license_info,
        servers=app.servers,
    )
    schemas = document["components"]["schemas"]
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    for model in (Problem, Presigned):
        schemas[model.__name__] = model.model_json_schema(ref_template="#/components/schemas/{model}")
    document["components"]["securitySchemes"] = {
        "key": {"type": "http", "scheme": "bearer", "description": "A key: ipybox_..."}
    }
    for path, operations in document["paths"].items():
        for operation in operations.values():
            if path != f"{PREFIX}/health":
                operation["security"] = [{"key": []}, {}]
    add_examples(document)
    return document
