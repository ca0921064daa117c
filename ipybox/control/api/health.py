"""Routes that say how the server is. Floor: control."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Request, Response

from ipybox import __version__
from ipybox.control.api.answers import DetailedHealth, Health, SyncAnswer
from ipybox.control.api.context import Administrator, Plane, Reader, act, context_of
from ipybox.control.api.documented import problems

router = APIRouter(prefix="/health", tags=["health"])
_BAD = ("unhealthy",)


@router.get("", responses=problems(), operation_id="health")
async def health(request: Request) -> Health:
    """Whether the server answers. Needs no key."""
    plane = context_of(request).plane
    status = "starting" if plane is None else "draining" if plane.draining else "healthy"
    return Health(status=status, version=__version__, uptime=0.0 if plane is None else plane.uptime)


@router.get(
    "/detailed",
    responses={
        503: {"model": DetailedHealth, "description": "Something that it depends on is not well."},
        **{status: said for status, said in problems().items() if status != 503},
    },
    operation_id="detailed_health",
)
async def detailed(plane: Plane, principal: Reader, response: Response) -> DetailedHealth:
    """Whether what the server depends on is well, looked at just now; 503 if not."""
    found: dict[str, Any] = dict(await plane.health())
    each = [found["database"], found["storage"], *found["runtime_nodes"]]
    status = "healthy"
    if any(one["status"] in _BAD for one in each):
        status = "unhealthy"
        response.status_code = 503
    elif plane.draining:
        status = "draining"
    elif "templates" in found:
        status = "degraded"
    return DetailedHealth(
        status=status,
        version=__version__,
        uptime=plane.uptime,
        dependencies=found,
        sessions={"alive": len(tuple(plane.sessions.alive())), "sandboxes": plane.sessions.sandboxes()},
        executions={"unfinished": plane.executions.count()},
    )


@router.post("/sync", responses=problems(), operation_id="synchronise")
async def synchronise(request: Request, plane: Plane, principal: Administrator) -> SyncAnswer:
    """Compare what the database says with what runs, and set right what differs."""
    act(request, "server.synchronise")
    found = await plane.synchronise()
    return SyncAnswer(status="success", message="State synchronised", result=asdict(found))
