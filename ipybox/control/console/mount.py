"""The console as a part of an application. Floor: control."""

from __future__ import annotations

from fastapi import APIRouter, FastAPI, Request, Response

from ipybox.control.console import executions, files, keys, overview, sessions, sign_in, templates, test_runs
from ipybox.control.console.assets import assets
from ipybox.control.console.one_time_notes import OneTimeNotes
from ipybox.control.console.page_route import PageRoute
from ipybox.control.console.rendering import environment, see
from ipybox.control.console.sign_ins import SignIns
from ipybox.control.console.visitor import Anybody, Console, console_of
from ipybox.control.errors import RecordNotFoundError

PREFIX = "/console"
_own = APIRouter(route_class=PageRoute)
_PAGES = (overview, sign_in, sessions, executions, files, templates, keys, test_runs)


def add_console(app: FastAPI) -> None:
    """Adds the pages below ``/console`` to an application whose ``state.context`` is set."""
    static_files = assets()
    app.state.console = Console(
        environment=environment(static_files),
        static_files=static_files,
        sign_ins=SignIns(),
        notes=OneTimeNotes(),
    )
    for each in _PAGES:
        app.include_router(each.router, prefix=PREFIX, include_in_schema=False)
    app.include_router(_own, prefix=PREFIX, include_in_schema=False)


@_own.get("/static/{digest}/{name}")
async def static(request: Request, digest: str, name: str) -> Response:
    """A script, a style or a picture, for everybody and for good."""
    return console_of(request).static_files.answer(request, digest, name)


@_own.get("/{rest:path}")
async def nothing(request: Request, visitor: Anybody, rest: str) -> Response:
    """What is not there."""
    if not rest:
        return see(PREFIX)
    raise RecordNotFoundError("page", rest[:200])
