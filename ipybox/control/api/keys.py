"""Routes of keys, and of the audit log. Floor: control."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import AfterValidator, AwareDatetime

from ipybox.control.api.answers import AuditAnswer, AuditList, Identity, KeyAnswer, NewKey
from ipybox.control.api.bodies import KeyBody, RotateBody
from ipybox.control.api.context import Administrator, Anybody, Plane, act
from ipybox.control.api.documented import problems
from ipybox.control.api.large_bodies import BodyRoute
from ipybox.control.api.sessions import Cursor
from ipybox.control.service.ids import now

router = APIRouter(prefix="/keys", tags=["keys"], route_class=BodyRoute)
audit_router = APIRouter(prefix="/audit", tags=["audit"], route_class=BodyRoute)
KeyId = Annotated[str, Path(min_length=1, max_length=64)]


def _utc(at: datetime) -> datetime:
    try:
        return at.astimezone(UTC)
    except OverflowError:
        raise ValueError("must be a time of the years 1 to 9999, in UTC") from None


Time = Annotated[AwareDatetime, AfterValidator(_utc)]


@router.post("", status_code=201, response_model=NewKey, responses=problems(409), operation_id="create_key")
async def create(request: Request, plane: Plane, principal: Administrator, body: KeyBody) -> JSONResponse:
    """Make a key. Its secret is in the answer, and nowhere else: only a hash of it is kept."""
    act(request, "key.create", "", owner=body.owner, scopes=list(body.scopes))
    key, secret = await plane.keys.create(
        name=body.name,
        owner=body.owner,
        scopes=tuple(body.scopes),
        expires_at=None if body.expires_in is None else now() + timedelta(seconds=body.expires_in),
        max_sessions=body.max_sessions,
        max_executions=body.max_executions,
    )
    act(request, "key.create", key.id, owner=body.owner, scopes=list(body.scopes))
    said = NewKey(key=KeyAnswer.of(key), secret=secret)
    return JSONResponse(said.model_dump(mode="json"), status_code=201, headers={"Cache-Control": "no-store"})


@router.get("", responses=problems(), operation_id="list_keys")
async def list_keys(
    plane: Plane, principal: Administrator, owner: Annotated[str | None, Query(max_length=64)] = None
) -> list[KeyAnswer]:
    """All keys, also those that don't count any more."""
    return [KeyAnswer.of(each) for each in await plane.keys.list(owner)]


@router.get("/self", responses=problems(), operation_id="get_own_key")
async def own(principal: Anybody) -> Identity:
    """Who one is, and what one may do."""
    return Identity(
        key_id=principal.key_id,
        owner=principal.owner,
        scopes=sorted(principal.scopes),
        max_sessions=principal.max_sessions,
        max_executions=principal.max_executions,
    )


@router.post(
    "/{key_id}/rotate", status_code=201, response_model=NewKey, responses=problems(404, 409), operation_id="rotate_key"
)
async def rotate(
    request: Request, plane: Plane, principal: Administrator, key_id: KeyId, body: RotateBody | None = None
) -> JSONResponse:
    """Make a key in place of another one, for the same owner; the old one is good for `overlap` more seconds."""
    act(request, "key.rotate", key_id)
    key, secret = await plane.keys.rotate(key_id, 0 if body is None else body.overlap)
    said = NewKey(key=KeyAnswer.of(key), secret=secret)
    return JSONResponse(said.model_dump(mode="json"), status_code=201, headers={"Cache-Control": "no-store"})


@router.delete("/{key_id}", status_code=204, responses=problems(404), operation_id="revoke_key")
async def revoke(request: Request, plane: Plane, principal: Administrator, key_id: KeyId) -> Response:
    """Revoke a key, from now on."""
    act(request, "key.revoke", key_id)
    await plane.keys.revoke(key_id)
    return Response(status_code=204)


@audit_router.get("", responses=problems(), operation_id="list_audit")
async def audit(
    plane: Plane,
    principal: Administrator,
    owner: Annotated[str | None, Query(max_length=64)] = None,
    actor: Annotated[str | None, Query(max_length=64)] = None,
    action: Annotated[str | None, Query(max_length=64)] = None,
    target: Annotated[str | None, Query(max_length=128)] = None,
    since: Time | None = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    cursor: Cursor = None,
) -> AuditList:
    """Who did what, newest first."""
    await plane.audit.flush()
    page = await plane.db.audit.list(
        owner=owner, actor=actor, action=action, target=target, since=since, limit=limit, cursor=cursor
    )
    return AuditList(items=[AuditAnswer.of(each) for each in page.items], next_cursor=page.next_cursor)
