"""Callbacks of executors, as the model has them. Floor: control.

Sandboxes of this server are followed by the server itself, so these say what is known, and change nothing that is.
"""

from __future__ import annotations

from fastapi import APIRouter, Request

from ipybox.control.api.answers import Message
from ipybox.control.api.bodies import ExitedBody, ReadyBody, ReportBody
from ipybox.control.api.context import Internal, Plane, act
from ipybox.control.api.documented import problems
from ipybox.control.api.executions import ExecutionId
from ipybox.control.api.large_bodies import BodyRoute
from ipybox.control.errors import RequestRefusedError
from ipybox.control.states import ExecutionStatus

router = APIRouter(prefix="/internal", tags=["internal"], route_class=BodyRoute)
_STATUSES = {
    "success": ExecutionStatus.COMPLETED,
    "completed": ExecutionStatus.COMPLETED,
    "failed": ExecutionStatus.FAILED,
    "timeout": ExecutionStatus.TIMEOUT,
    "crashed": ExecutionStatus.CRASHED,
}


@router.post("/containers/ready", responses=problems(), operation_id="container_ready")
async def ready(request: Request, plane: Plane, principal: Internal, body: ReadyBody) -> Message:
    """Taken note of: this server sees for itself when a sandbox is up."""
    act(request, "internal.ready", body.container_id)
    return Message(message="Container ready callback acknowledged")


@router.post("/containers/exited", responses=problems(), operation_id="container_exited")
async def exited(request: Request, plane: Plane, principal: Internal, body: ExitedBody) -> Message:
    """Taken note of: this server sees for itself when a sandbox ends."""
    act(request, "internal.exited", body.container_id)
    return Message(message="Container exited callback acknowledged")


@router.post("/executions/{execution_id}/heartbeat", responses=problems(404), operation_id="heartbeat")
async def heartbeat(request: Request, plane: Plane, principal: Internal, execution_id: ExecutionId) -> Message:
    """Taken note of, for an execution that there is."""
    act(request, "internal.heartbeat", execution_id)
    await plane.executions.get(principal, execution_id)
    return Message(message="Heartbeat acknowledged")


@router.post("/executions/{execution_id}/result", responses=problems(404, 409), operation_id="report_result")
async def result(
    request: Request, plane: Plane, principal: Internal, execution_id: ExecutionId, body: ReportBody
) -> Message:
    """Compared with the result that this server has: 200 for the same, 409 for another one or none yet."""
    act(request, "internal.result", execution_id)
    status = _STATUSES.get(body.status)
    if status is None:
        raise RequestRefusedError(f"must be one of {', '.join(_STATUSES)}, got {body.status!r}", "status")
    await plane.executions.get(principal, execution_id)
    await plane.executions.compare(execution_id, status, body.exit_code)
    return Message(message="Result is known already")
