"""Routes that answer with pages, also when something goes wrong. Floor: control."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from ipybox.control.access.problems import Problem, problem, problem_of, validation_problem
from ipybox.control.console import rendering, wording
from ipybox.control.errors import UnauthenticatedError
from ipybox.errors import IpyboxError

log = logging.getLogger("ipybox.control")

SIGN_IN = "/console/sign-in"
_OURS = re.compile(r"/console(?:[/?][\x21-\x5b\x5d-\x7e]*)?\Z")


def is_htmx(request: Request) -> bool:
    """Whether a script of ours asks, for a part of a page."""
    return request.headers.get("hx-request") == "true"


def own_path(text: str | None) -> str:
    """A path of the console to go on to; its first page for what is none."""
    return text if text and len(text) < 2000 and _OURS.match(text) else "/console"


class PageRoute(APIRoute):
    """A route whose errors are pages, or go where they can be mended."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """What answers."""
        handle = super().get_route_handler()

        async def answered(request: Request) -> Response:
            try:
                return await handle(request)
            except UnauthenticatedError as error:
                return _to_sign_in(request, error)
            except (IpyboxError, RequestValidationError, HTTPException) as error:
                return _page_of(request, error)

        return answered


def _to_sign_in(request: Request, error: UnauthenticatedError) -> Response:
    if is_htmx(request):
        return Response(status_code=401, headers={**rendering.HEADERS, "HX-Redirect": SIGN_IN})
    if "text/event-stream" in request.headers.get("accept", ""):
        return Response(problem_of(error).encoded(), 401, rendering.HEADERS, "application/problem+json")
    path = request.url.path
    asked = f"{path}?{request.url.query}" if request.url.query else path
    here = own_path(asked) if request.method == "GET" else "/console"
    return RedirectResponse(wording.url("sign-in", next="" if here == "/console" else here), 303, rendering.HEADERS)


def _page_of(request: Request, error: Exception) -> Response:
    told = _problem(error)
    if told.status == 500:
        log.error("a page failed", exc_info=error)
    if is_htmx(request) and request.method == "GET":
        # A poll: whoever looks at something that is gone is told so, all else may be better the next time.
        headers = {"HX-Reswap": "none", **({"HX-Refresh": "true"} if told.status == 404 else {})}
        return Response(status_code=told.status, headers={**rendering.HEADERS, **headers})
    template = "problem_part.html" if is_htmx(request) else "problem.html"
    answer: HTMLResponse = rendering.page(
        request, template, told.status, title=told.body["title"], detail=told.body["detail"]
    )
    answer.headers.update(told.headers)
    if is_htmx(request):
        answer.headers["HX-Retarget"] = "#problem"
        answer.headers["HX-Reswap"] = "innerHTML"
    return answer


def _problem(error: Exception) -> Problem:
    if isinstance(error, RequestValidationError):
        return validation_problem(error.errors())
    if isinstance(error, HTTPException):
        detail: Any = error.detail
        return problem(error.status_code, str(detail), headers=dict(error.headers or {}))
    return problem_of(error)
