"""Routes of sessions. Floor: control."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response

from ipybox.control.api.answers import SessionAnswer, SessionList
from ipybox.control.api.bodies import InstallBody, RenewBody, SessionBody, bytes_of
from ipybox.control.api.context import Executor, Plane, Reader, act
from ipybox.control.api.documented import problems
from ipybox.control.api.idempotency import IdempotencyKey, Made, Planned, once
from ipybox.control.api.large_bodies import BodyRoute
from ipybox.control.api.rendering import fields_of, page_fields, rendered
from ipybox.control.db.sessions import SessionFilter
from ipybox.control.errors import RequestRefusedError
from ipybox.control.service.requests import NewSession
from ipybox.control.states import SessionMode, SessionStatus

router = APIRouter(prefix="/sessions", tags=["sessions"], route_class=BodyRoute)
SessionId = Annotated[str, Path(min_length=1, max_length=64)]
Cursor = Annotated[str | None, Query(max_length=512, description="``next_cursor`` of the page before.")]
Offset = Annotated[int, Query(ge=0, le=2**31)]
_MOST = 200


@router.post(
    "", status_code=201, response_model=SessionAnswer, responses=problems(409, 507), operation_id="create_session"
)
async def create(
    request: Request, plane: Plane, principal: Executor, body: SessionBody, idempotency_key: IdempotencyKey = None
) -> Response:
    """Make a session: a sandbox with files of its own. It is `creating` at first, and `running` a moment later.

    Code can be sent at once; it runs as soon as the session does.
    """
    act(request, "session.create", body.id or "", template_id=body.template_id)

    async def make(planned: Planned | None) -> Made:
        session = await plane.sessions.create(principal, _asked(body, planned))
        act(request, "session.create", session.id, template_id=body.template_id)
        return 201, SessionAnswer.of(session)

    return await once(request, principal, idempotency_key, "sess", make)


@router.get("", response_model=SessionList, responses=problems(), operation_id="list_sessions")
async def list_sessions(
    plane: Plane,
    principal: Reader,
    status: Annotated[list[SessionStatus] | None, Query(max_length=10)] = None,
    template_id: Annotated[str | None, Query(max_length=64)] = None,
    mode: SessionMode | None = None,
    tag: Annotated[
        list[Annotated[str, Query(max_length=330)]] | None,
        Query(max_length=32, description="``key:value``; all of them have to match."),
    ] = None,
    limit: Annotated[int, Query(description="Cut to 1 to 200.")] = 50,
    offset: Offset = 0,
    cursor: Cursor = None,
) -> Response:
    """One's own sessions, newest first."""
    tags = {}
    for text in tag or ():
        key, colon, value = text.partition(":")
        if not colon:
            raise RequestRefusedError(f"{text!r} must be key:value", "tag")
        tags[key] = value
    filter = SessionFilter(
        owner=None if principal.sees_all else principal.owner,
        statuses=tuple(status) if status else None,
        template_id=template_id,
        mode=mode,
        tags=tags,
    )
    limit = min(max(limit, 1), _MOST)
    page = await plane.sessions.list(filter, limit=limit, offset=offset, cursor=cursor)
    items = (fields_of(SessionAnswer.of(each)) for each in page.items)
    return await rendered(page_fields(items, page, limit=limit, offset=offset))


@router.get("/{session_id}", response_model=SessionAnswer, responses=problems(404), operation_id="get_session")
async def get(plane: Plane, principal: Reader, session_id: SessionId) -> Response:
    """One session."""
    return await rendered(SessionAnswer.of(await plane.sessions.get(principal, session_id)))


@router.post(
    "/{session_id}/terminate",
    response_model=SessionAnswer,
    responses=problems(404, 409),
    operation_id="terminate_session",
)
async def terminate(request: Request, plane: Plane, principal: Executor, session_id: SessionId) -> Response:
    """End a session and keep its record and its files. Does nothing to one that has ended."""
    act(request, "session.terminate", session_id)
    return await rendered(SessionAnswer.of(await plane.sessions.terminate(principal, session_id)))


@router.post(
    "/{session_id}/renew", response_model=SessionAnswer, responses=problems(404, 409), operation_id="renew_session"
)
async def renew(
    request: Request, plane: Plane, principal: Executor, session_id: SessionId, body: RenewBody | None = None
) -> Response:
    """Keep a session for so many more seconds, from now on; for its own timeout if nothing is said."""
    act(request, "session.renew", session_id)
    session = await plane.sessions.renew(principal, session_id, None if body is None else body.timeout)
    return await rendered(SessionAnswer.of(session))


@router.post(
    "/{session_id}/dependencies/install",
    response_model=SessionAnswer,
    responses=problems(404, 409),
    operation_id="install_dependencies",
)
async def install(
    request: Request, plane: Plane, principal: Executor, session_id: SessionId, body: InstallBody
) -> Response:
    """Install packages into a session, in a sandbox that reaches the package index only. Returns when it is done.

    `dependency_install_status` says whether it worked, `dependency_install_error` why not.
    """
    act(request, "session.install", session_id, packages=[each.record.requirement for each in body.dependencies])
    session = await plane.sessions.install(
        principal,
        session_id,
        tuple(each.record for each in body.dependencies),
        index_url=body.python_package_index_url,
        timeout=body.install_timeout,
        allow_conflicts=body.allow_version_conflicts,
    )
    return await rendered(SessionAnswer.of(session))


@router.delete("/{session_id}", status_code=204, responses=problems(404, 409, 502), operation_id="delete_session")
async def delete(request: Request, plane: Plane, principal: Executor, session_id: SessionId) -> Response:
    """End a session and forget it, with its executions and files."""
    act(request, "session.delete", session_id)
    await plane.sessions.remove(principal, session_id)
    return Response(status_code=204)


def _asked(body: SessionBody, planned: Planned | None) -> NewSession:
    return NewSession(
        id=body.id or (planned.id if planned is not None else None),
        is_planned=planned is not None and (planned.is_again or body.id is None),
        template_id=body.template_id,
        # The model's clients send other modes, which mean nothing there either.
        mode=SessionMode.STATEFUL if body.mode == SessionMode.STATEFUL else SessionMode.STATELESS,
        timeout=body.timeout,
        cpu_cores=None if body.cpu is None else float(body.cpu),
        memory_bytes=None if body.memory is None else bytes_of(body.memory),
        disk_bytes=None if body.disk is None else bytes_of(body.disk),
        max_processes=body.max_processes,
        env_vars=body.env_vars,
        event=body.event,
        tags=body.tags,
        network=None if body.network is None else body.network.record,
        dependencies=tuple(each.record for each in body.dependencies),
        install_timeout=body.install_timeout,
        fail_on_dependency_error=body.fail_on_dependency_error,
        allow_version_conflicts=body.allow_version_conflicts,
        python_package_index_url=body.python_package_index_url,
    )
