"""Pages for administrators: keys, and the audit log. Floor: control."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from ipybox.control.access.keys import is_valid
from ipybox.control.access.scopes import DEFAULT_SCOPES, Scope
from ipybox.control.api.bodies import KeyBody, RotateBody
from ipybox.control.api.context import act
from ipybox.control.console.forms import Form, Refused, SentForm, told
from ipybox.control.console.page_route import PageRoute
from ipybox.control.console.rendering import page, see
from ipybox.control.console.visitor import Administrator, leave_note, plane_of
from ipybox.control.console.wording import url
from ipybox.control.errors import RequestRefusedError
from ipybox.control.records import ApiKey
from ipybox.control.service.ids import now

router = APIRouter(route_class=PageRoute)
_DAY = 86400
_ENTRIES = 100
Text = Annotated[str, Query(max_length=512)]


@router.get("/keys")
async def keys(request: Request, visitor: Administrator) -> Response:
    """All keys."""
    return await _keys_page(request)


@router.post("/keys")
async def create(request: Request, visitor: Administrator, form: SentForm) -> Response:
    """Makes a key, and shows its secret on the next page, once."""
    act(request, "key.create", "", owner=form["owner"][:64])
    try:
        days = form.word("days")
        body = KeyBody.model_validate(
            {
                "name": form["name"],
                "owner": form["owner"].strip(),
                "scopes": form.all("scopes"),
                "max_sessions": form.word("max_sessions"),
                "max_executions": form.word("max_executions"),
                "expires_in": None if days is None else _days(days) * _DAY,
            }
        )
        key, secret = await plane_of(request).keys.create(
            name=body.name,
            owner=body.owner,
            scopes=tuple(body.scopes),
            expires_at=None if body.expires_in is None else now() + timedelta(seconds=body.expires_in),
            max_sessions=body.max_sessions,
            max_executions=body.max_executions,
        )
    except Refused as error:
        status, problem = told(error)
        return await _keys_page(request, form=form, status=status, problem=problem)
    act(request, "key.create", key.id, owner=body.owner, scopes=list(body.scopes))
    return see(url("keys", note=leave_note(request, visitor, f"The key {key.id} is made.", secret)))


@router.post("/keys/{key_id}/rotate")
async def rotate(request: Request, visitor: Administrator, key_id: str, form: SentForm) -> Response:
    """Makes a key in place of another one."""
    act(request, "key.rotate", key_id)
    try:
        body = RotateBody.model_validate(form.only_said(overlap=form.word("overlap")))
        key, secret = await plane_of(request).keys.rotate(key_id, body.overlap)
    except Refused as error:
        status, problem = told(error)
        return await _keys_page(request, status=status, problem=problem)
    text = f"The key {key.id} takes the place of {key_id}."
    return see(url("keys", note=leave_note(request, visitor, text, secret)))


@router.post("/keys/{key_id}/revoke")
async def revoke(request: Request, visitor: Administrator, key_id: str, form: SentForm) -> Response:
    """Revokes a key."""
    act(request, "key.revoke", key_id)
    await plane_of(request).keys.revoke(key_id)
    return see(url("keys", note=leave_note(request, visitor, f"The key {key_id} does not count any more.")))


@router.get("/audit")
async def audit(
    request: Request,
    visitor: Administrator,
    actor: Text = "",
    action: Text = "",
    target: Text = "",
    cursor: Text = "",
) -> Response:
    """Who did what, newest first."""
    plane = plane_of(request)
    await plane.audit.flush()
    wanted = {"actor": actor.strip(), "action": action.strip(), "target": target.strip()}
    found = await plane.db.audit.list(
        actor=wanted["actor"] or None,
        action=wanted["action"] or None,
        target=wanted["target"] or None,
        limit=_ENTRIES,
        cursor=cursor or None,
    )
    older = url("audit", **wanted, cursor=found.next_cursor) if found.next_cursor else None
    return page(request, "audit.html", entries=found, wanted=wanted, older=older, is_filtered=any(wanted.values()))


async def _keys_page(
    request: Request, *, form: Form | None = None, status: int = 200, problem: str | None = None
) -> Response:
    found = await plane_of(request).keys.list()
    ordered = sorted(found, key=lambda key: key.created_at, reverse=True)
    return page(
        request,
        "keys.html",
        status,
        rows=[(key, _state(key)) for key in ordered],
        scopes=list(Scope),
        form=form or Form([("scopes", str(scope)) for scope in DEFAULT_SCOPES]),
        was_sent=form is not None,
        problem=problem,
    )


def _state(key: ApiKey) -> str:
    if key.revoked_at is not None:
        return "revoked"
    return "active" if is_valid(key, now()) else "expired"


def _days(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 6:
        raise RequestRefusedError("must be a whole number of days", "expires in")
    return int(text)
