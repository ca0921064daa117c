"""Routes of executions. Floor: control."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import Response

from ipybox.control.api.answers import (
    EventList,
    ExecutionAnswer,
    ExecutionList,
    ExecutionTicket,
    Interrupted,
)
from ipybox.control.api.bodies import ExecuteBody
from ipybox.control.api.context import Executor, Plane, Reader, act
from ipybox.control.api.documented import problems
from ipybox.control.api.idempotency import IdempotencyKey, Made, Planned, once
from ipybox.control.api.large_bodies import BodyRoute
from ipybox.control.api.rendering import event_fields, fields_of, page_fields, rendered
from ipybox.control.api.sessions import Cursor, Offset, SessionId
from ipybox.control.records import Execution
from ipybox.control.service.control_plane import ControlPlane
from ipybox.control.service.requests import NewExecution
from ipybox.control.states import ExecutionKind

router = APIRouter(prefix="/executions", tags=["executions"], route_class=BodyRoute)
ExecutionId = Annotated[str, Path(min_length=1, max_length=64)]
_LISTED = 100_000
After = Annotated[int, Query(ge=0, le=2**31, description="Cursor: ``seq`` of the last event that one has.")]


class NotFinishedError(Exception):
    """An execution goes on for longer than somebody wanted to wait."""

    def __init__(self, execution_id: str, seconds: float) -> None:
        self.execution_id, self.seconds = execution_id, seconds
        super().__init__(f"{execution_id} is not finished after {seconds:g} s and goes on; ask for its result later")


@router.post(
    "/sessions/{session_id}/execute",
    status_code=201,
    response_model=ExecutionTicket,
    responses=problems(404, 409, 507),
    operation_id="execute",
)
async def execute(
    request: Request,
    plane: Plane,
    principal: Executor,
    session_id: SessionId,
    body: ExecuteBody,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Run code in a session, and don't wait for it.

    Python has to define `handler(event)`, whose return value has to be JSON; in a stateful session it is run as one
    types it, unless `kind` says `handler`.
    """
    act(request, "execution.create", session_id)

    async def make(planned: Planned | None) -> Made:
        execution = await plane.executions.submit(principal, _asked(session_id, body, planned))
        act(request, "execution.create", execution.id, session_id=session_id)
        return 201, ExecutionTicket(
            execution_id=execution.id,
            session_id=execution.session_id,
            status=execution.status.value,
            created_at=execution.created_at,
        )

    return await once(request, principal, idempotency_key, "exec", make)


@router.post(
    "/sessions/{session_id}/execute-sync",
    response_model=ExecutionAnswer,
    responses=problems(404, 408, 409, 507),
    operation_id="execute_sync",
)
async def execute_sync(
    request: Request,
    plane: Plane,
    principal: Executor,
    session_id: SessionId,
    body: ExecuteBody,
    poll_interval: Annotated[
        float, Query(ge=0.1, le=10, description="Kept for clients of the model; nothing is polled.")
    ] = 0.5,
    sync_timeout: Annotated[
        float, Query(ge=10, le=3600, description="Seconds to wait; after that 408, and the execution goes on.")
    ] = 300,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Run code in a session, and wait for its result."""
    act(request, "execution.create", session_id)

    async def make(planned: Planned | None) -> Made:
        execution = await plane.executions.submit(principal, _asked(session_id, body, planned))
        act(request, "execution.create", execution.id, session_id=session_id)
        if not await plane.executions.wait(execution.id, sync_timeout):
            raise NotFinishedError(execution.id, sync_timeout)
        return 200, await _answer(plane, await plane.executions.get(principal, execution.id))

    return await once(request, principal, idempotency_key, "exec", make)


@router.get(
    "/sessions/{session_id}/executions",
    response_model=ExecutionList,
    responses=problems(404),
    operation_id="list_executions",
)
async def list_executions(
    plane: Plane,
    principal: Reader,
    session_id: SessionId,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    offset: Offset = 0,
    cursor: Cursor = None,
) -> Response:
    """Executions of a session, newest first.

    With the first 100,000 characters of what they wrote, and without return values that are longer; all of it is in
    their results.
    """
    page = await plane.executions.list(principal, session_id, limit=limit, offset=offset, cursor=cursor)
    items = []
    for each in page.items:  # one by one, as all of them together may be more than there is memory
        whole = await _answer(plane, each)
        items.append({**fields_of(whole), "stdout": whole.stdout[:_LISTED], "stderr": whole.stderr[:_LISTED]})
    return await rendered(page_fields(items, page, limit=limit, offset=offset))


@router.get("/{execution_id}", response_model=ExecutionAnswer, responses=problems(404), operation_id="get_execution")
@router.get(
    "/{execution_id}/status",
    response_model=ExecutionAnswer,
    responses=problems(404),
    operation_id="get_execution_status",
)
@router.get(
    "/{execution_id}/result",
    response_model=ExecutionAnswer,
    responses=problems(404),
    operation_id="get_execution_result",
)
async def get(plane: Plane, principal: Reader, execution_id: ExecutionId) -> Response:
    """An execution as it is now, with all that it wrote until now."""
    return await rendered(await _answer(plane, await plane.executions.get(principal, execution_id)))


@router.get("/{execution_id}/events", response_model=EventList, responses=problems(404), operation_id="list_events")
async def events(
    plane: Plane,
    principal: Reader,
    execution_id: ExecutionId,
    after: After = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 1000,
) -> Response:
    """What an execution said after a cursor: text, images, results, errors."""
    execution = await plane.executions.get(principal, execution_id)
    found, is_final = await plane.executions.events(execution.id, after, limit)
    return await rendered({"items": [event_fields(each) for each in found], "is_final": is_final})


@router.post("/{execution_id}/interrupt", responses=problems(404, 409), operation_id="interrupt")
async def interrupt(request: Request, plane: Plane, principal: Executor, execution_id: ExecutionId) -> Interrupted:
    """Interrupt an execution, as Ctrl-C does; one that does not heed it is killed some seconds later."""
    act(request, "execution.interrupt", execution_id)
    execution = await plane.executions.get(principal, execution_id)
    return Interrupted(execution_id=execution.id, interrupted=await plane.executions.interrupt(principal, execution.id))


def _asked(session_id: str, body: ExecuteBody, planned: Planned | None) -> NewExecution:
    return NewExecution(
        id=planned.id if planned is not None else None,
        is_planned=planned is not None,
        session_id=session_id,
        language=body.language,
        code=body.code,
        timeout=body.timeout,
        kind=None if body.kind is None else ExecutionKind(body.kind),
        event=body.event,
        env_vars=body.env_vars,
    )


async def _answer(plane: ControlPlane, execution: Execution) -> ExecutionAnswer:
    output = await plane.executions.output((execution,))
    return ExecutionAnswer.of(execution, output.get(execution.id, ("", "")))
