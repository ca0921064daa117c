"""Answers to what goes wrong in routes. Floor: control."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import cast

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ipybox.control.access.problems import MEDIA_TYPE, Problem, problem, problem_of, validation_problem
from ipybox.control.api.context import context_of
from ipybox.control.api.executions import NotFinishedError
from ipybox.control.errors import QuotaExceededError
from ipybox.control.storage.ranges import RangeNotSatisfiableError
from ipybox.errors import IpyboxError

log = logging.getLogger("ipybox.control")

_METHODS = ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT")


class Unexpected:
    """Answers what nobody expected as every other problem; the framework would do it in plain text."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves a request."""
        is_started = False

        async def noting(message: Message) -> None:
            nonlocal is_started
            is_started = True
            await send(message)

        try:
            await self._app(scope, receive, noting)
        except Exception as error:
            if is_started or scope["type"] != "http":
                raise
            log.exception("a request failed")
            await answer(Request(scope), problem_of(error))(scope, receive, send)


def add_to(app: FastAPI) -> None:
    """Has an application answer with problems."""
    app.add_exception_handler(IpyboxError, _known)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(NotFinishedError, _not_finished)
    app.add_exception_handler(RangeNotSatisfiableError, _no_range)
    app.add_middleware(Unexpected)


def answer(request: Request, told: Problem, more: Mapping[str, str] | None = None) -> Response:
    """A problem as an answer."""
    told.body["instance"] = request.url.path[:300]
    told.body["request_id"] = getattr(request.state, "request_id", None)
    headers = {**told.headers, **(more or {})}
    return Response(told.encoded(), status_code=told.status, headers=headers, media_type=MEDIA_TYPE)


def _known(request: Request, error: Exception) -> Response:
    if isinstance(error, QuotaExceededError):
        context_of(request).metrics.rate_limited.labels("quota").inc()
    told = problem_of(error)
    if told.status >= 500 and told.status not in (502, 503, 507):
        raise error  # the guard logs it, and says nothing of it
    return answer(request, told)


def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return answer(request, validation_problem(error.errors()))


def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    headers: dict[str, str] = dict(error.headers or {})
    if error.status_code == 405:
        headers["Allow"] = ", ".join(_methods(request))
    if error.status_code == 404 and error.detail == "Not Found":
        return answer(request, problem(404, f"there is nothing at {request.url.path[:200]!r}"))
    detail = error.detail if error.detail else HTTPStatus(error.status_code).phrase
    return answer(request, problem(error.status_code, str(detail)), headers)


def _not_finished(request: Request, error: Exception) -> Response:
    told = problem(408, str(error), slug="not-finished")
    told.body["execution_id"] = cast(NotFinishedError, error).execution_id
    return answer(request, told)


def _no_range(request: Request, error: Exception) -> Response:
    return answer(
        request, problem(416, str(error)), {"Content-Range": cast(RangeNotSatisfiableError, error).content_range}
    )


def _methods(request: Request) -> list[str]:
    """All methods of a path; a route knows its own only, and a router within a router none at all."""
    scope = {"type": "http", "path": request.url.path, "root_path": "", "headers": []}
    return [
        method
        for method in _METHODS
        if any(route.matches({**scope, "method": method})[0] is Match.FULL for route in request.app.routes)
    ]
