"""Whatever goes wrong in a route is answered as a problem, and only what may be known is said."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from fastapi import APIRouter, FastAPI, HTTPException
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from ipybox.control.access.guard import Guard
from ipybox.control.access.metrics import ServerMetrics
from ipybox.control.access.rates import Rates
from ipybox.control.api import failures
from ipybox.control.api.context import Context
from ipybox.control.errors import (
    ConflictError,
    NoCapacityError,
    QuotaExceededError,
    RecordNotFoundError,
    ServerSettingsError,
    StorageFullError,
)
from ipybox.control.settings import ServerSettings
from ipybox.control.storage.ranges import RangeNotSatisfiableError

ERRORS: dict[str, tuple[Exception, int]] = {
    "missing": (RecordNotFoundError("session", "s"), 404),
    "conflict": (ConflictError("not now"), 409),
    "quota": (QuotaExceededError("sessions", 3), 429),
    "capacity": (NoCapacityError("all is taken", retry_after=7.2), 503),
    "full": (StorageFullError("no room"), 507),
    "range": (RangeNotSatisfiableError(10), 416),
    "teapot": (HTTPException(418, "short and stout"), 418),
}


class Body(BaseModel):
    number: int


def application() -> Guard:
    app = FastAPI()
    settings = ServerSettings(state_dir="/nowhere")
    context = Context(settings=settings, metrics=ServerMetrics("1", python="3"), rates=Rates("1000/minute"))
    app.state.context = context
    failures.add_to(app)
    inner = APIRouter(prefix="/inner")

    @inner.get("/fail/{name}")
    async def fail(name: str) -> None:
        raise ERRORS[name][0]

    @inner.get("/unexpected")
    async def unexpected() -> None:
        raise RuntimeError("the password is sesame")

    @inner.get("/ours")
    async def ours() -> None:
        raise ServerSettingsError("database_url", "the password is sesame")

    @inner.get("/broken")
    async def broken() -> StreamingResponse:
        async def body() -> AsyncIterator[bytes]:
            yield b"begun"
            raise RuntimeError("the password is sesame")

        return StreamingResponse(body())

    @inner.post("/body")
    async def body(body: Body) -> None: ...

    @inner.put("/body")
    async def put(body: Body) -> None: ...

    @inner.delete("/{anything:path}")
    async def delete(anything: str) -> None: ...

    outer = APIRouter(prefix="/outer")
    outer.include_router(inner)
    app.include_router(outer)
    return Guard(app, settings)


def ask(method: str, path: str, **more: Any) -> httpx.Response:
    async def asked() -> httpx.Response:
        transport = httpx.ASGITransport(application())
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000/outer/inner") as client:
            return await client.request(method, path, **more)

    return asyncio.run(asked())


@pytest.mark.parametrize("name", ERRORS)
def test_an_error_of_ours_is_a_problem_with_its_words(name: str) -> None:
    error, status = ERRORS[name]
    answer = ask("GET", f"/fail/{name}")
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    found = answer.json()
    assert found["status"] == status
    assert found["instance"] == f"/outer/inner/fail/{name}"
    assert found["request_id"] == answer.headers["x-request-id"]
    assert found["detail"] == (error.detail if isinstance(error, HTTPException) else str(error))
    if status in (429, 503):
        assert int(answer.headers["retry-after"]) >= 5
    if status == 416:
        assert answer.headers["content-range"] == "bytes */10"


@pytest.mark.parametrize("path", ["/unexpected", "/ours"])
def test_what_nobody_expected_is_logged_and_nothing_of_it_is_told(path: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        answer = ask("GET", path)
    assert answer.status_code == 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert "sesame" not in answer.text
    assert answer.json()["request_id"] == answer.headers["x-request-id"]
    assert [record.exc_info is not None for record in caplog.records if record.levelno == logging.ERROR] == [True]


def test_an_answer_that_breaks_off_is_no_whole_one() -> None:
    with pytest.raises(RuntimeError):
        ask("GET", "/broken")


def test_a_body_that_does_not_fit_is_refused_without_its_values() -> None:
    answer = ask("POST", "/body", json={"number": "sesame"})
    assert answer.status_code == 422
    assert "sesame" not in answer.text
    assert answer.json()["errors"][0]["loc"] == ["body", "number"]


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PATCH", "/body", "DELETE, POST, PUT"),
        ("GET", "/body", "DELETE, POST, PUT"),
        ("POST", "/unexpected", "DELETE, GET"),
    ],
)
def test_allow_names_all_methods_though_routes_are_in_routers_in_routers(method: str, path: str, allowed: str) -> None:
    answer = ask(method, path)
    assert (answer.status_code, answer.headers["allow"]) == (405, allowed)


def test_a_path_that_leads_nowhere_is_a_problem() -> None:
    answer = ask("GET", "/../nothing")
    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")
