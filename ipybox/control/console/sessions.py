"""Pages of sessions: the list of them, and one. Floor: control."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from ipybox.control.api.bodies import InstallBody, RenewBody, SessionBody
from ipybox.control.api.context import act, context_of
from ipybox.control.console.forms import Form, Refused, SentForm, told
from ipybox.control.console.overview import owner_of
from ipybox.control.console.page_route import PageRoute
from ipybox.control.console.rendering import LivePart, live, live_answer, page, see
from ipybox.control.console.visitor import Doer, Looker, Visitor, leave_note, plane_of
from ipybox.control.console.wording import url
from ipybox.control.db.sessions import SessionFilter
from ipybox.control.errors import WorkspaceFileError
from ipybox.control.records import Page, Session
from ipybox.control.service.requests import NewSession
from ipybox.control.service.sessions import ALIVE
from ipybox.control.states import InstallStatus, SessionMode, SessionStatus

router = APIRouter(prefix="/sessions", route_class=PageRoute)
FILES = 500
"""Of a directory, how many files a page shows."""
_SESSIONS = 50
_EXECUTIONS = 25
_POLL = "every 2s"
_SOON = "every 500ms"
Text = Annotated[str, Query(max_length=512)]


@router.get("")
async def sessions(
    request: Request,
    visitor: Looker,
    status: Text = "",
    template: Text = "",
    tag: Text = "",
    cursor: Text = "",
    part: Text = "",
) -> Response:
    """Sessions, newest first."""
    wanted = {"status": status, "template": template, "tag": tag, "cursor": cursor}
    listing = await _listing(request, visitor, wanted)
    if part:
        return live_answer(request, listing)
    return await _page(request, visitor, listing, wanted)


@router.post("")
async def create(request: Request, visitor: Doer, form: SentForm) -> Response:
    """Makes a session, and goes to its page."""
    try:
        body = SessionBody.model_validate(
            {
                "template_id": form["template_id"],
                "mode": form.word("mode"),
                "tags": form.pairs("tags"),
                **form.only_said(timeout=form.word("timeout")),
            }
        )
        act(request, "session.create", "", template_id=body.template_id)
        session = await plane_of(request).sessions.create(
            visitor.principal,
            NewSession(
                template_id=body.template_id,
                mode=SessionMode.STATEFUL if body.mode == SessionMode.STATEFUL else SessionMode.STATELESS,
                timeout=body.timeout,
                tags=body.tags,
            ),
        )
    except Refused as error:
        status, problem = told(error)
        wanted = {"status": "", "template": "", "tag": "", "cursor": ""}
        listing = await _listing(request, visitor, wanted)
        return await _page(request, visitor, listing, wanted, form=form, status=status, problem=problem)
    act(request, "session.create", session.id, template_id=session.template_id)
    return see(url("sessions", session.id))


@router.get("/{session_id}")
async def session(
    request: Request, visitor: Looker, session_id: str, part: Text = "", path: Annotated[str, Query()] = ""
) -> Response:
    """One session."""
    found = await plane_of(request).sessions.get(visitor.principal, session_id)
    if part == "facts":
        return live_answer(request, facts_part(request, visitor, found))
    if part == "executions":
        return live_answer(request, await executions_part(request, visitor, found))
    if part == "files":
        return live_answer(request, await files_part(request, visitor, found, path))
    return await session_page(request, visitor, found, path=path)


async def session_page(
    request: Request,
    visitor: Visitor,
    session: Session,
    *,
    path: str = "",
    form: Form | None = None,
    status: int = 200,
    problem: str | None = None,
) -> Response:
    """The page of a session, also when a form on it was refused."""
    return page(
        request,
        "session.html",
        status,
        session=session,
        is_alive=session.status in ALIVE,
        most_bytes=context_of(request).settings.max_upload_bytes,
        facts=facts_part(request, visitor, session).html,
        executions=(await executions_part(request, visitor, session)).html,
        files=(await files_part(request, visitor, session, path)).html,
        path=path,
        form=form or Form(()),
        was_sent=form is not None,
        problem=problem,
    )


def facts_part(request: Request, visitor: Visitor, session: Session) -> LivePart:
    """What there is to say of a session, asked for anew while it lives."""
    is_alive = session.status in ALIVE
    pace = _SOON if session.status is SessionStatus.CREATING else _POLL
    return live(
        request,
        "session_facts.html",
        id="facts",
        source=url("sessions", session.id, part="facts"),
        trigger=f"{pace}, finished from:body" if is_alive else "",
        session=session,
        is_alive=is_alive,
        shows_owner=visitor.principal.sees_all,
        is_installing=session.install_status in (InstallStatus.PENDING, InstallStatus.INSTALLING),
    )


async def executions_part(request: Request, visitor: Visitor, session: Session) -> LivePart:
    """The last executions of a session."""
    plane = plane_of(request)
    found = await plane.executions.list(visitor.principal, session.id, limit=_EXECUTIONS)
    is_busy = any(not each.status.is_final for each in found.items)
    trigger = "started from:body, finished from:body"
    return live(
        request,
        "executions.html",
        id="executions",
        source=url("sessions", session.id, part="executions"),
        trigger=f"{_POLL}, {trigger}" if is_busy else trigger,
        executions=found,
    )


async def files_part(request: Request, visitor: Visitor, session: Session, path: str) -> LivePart:
    """What is in a directory of a session's workspace."""
    path = path.strip("/")
    files, problem = [], None
    try:
        files = await plane_of(request).files.list(
            visitor.principal, session.id, path, limit=FILES + 1, recursive=False
        )
    except WorkspaceFileError as error:
        problem = None if error.is_missing and not path else str(error)
    steps = path.split("/") if path else []
    return live(
        request,
        "files.html",
        id="files",
        source=url("sessions", session.id, part="files", path=path),
        trigger="finished from:body",
        session=session,
        is_alive=session.status in ALIVE,
        files=files[:FILES],
        is_cut=len(files) > FILES,
        most=FILES,
        path=path,
        steps=[(name, "/".join(steps[: place + 1])) for place, name in enumerate(steps)],
        problem=problem,
    )


@router.post("/{session_id}/renew")
async def renew(request: Request, visitor: Doer, session_id: str, form: SentForm) -> Response:
    """Keeps it longer."""
    plane = plane_of(request)
    session = await plane.sessions.get(visitor.principal, session_id)
    act(request, "session.renew", session.id)
    try:
        body = RenewBody.model_validate(form.only_said(timeout=form.word("timeout")))
        await plane.sessions.renew(visitor.principal, session.id, body.timeout)
    except Refused as error:
        return await _refused(request, visitor, session, form, error)
    return see(url("sessions", session.id, note=leave_note(request, visitor, "The session is kept for longer.")))


@router.post("/{session_id}/terminate")
async def terminate(request: Request, visitor: Doer, session_id: str, form: SentForm) -> Response:
    """Ends it."""
    act(request, "session.terminate", session_id)
    await plane_of(request).sessions.terminate(visitor.principal, session_id)
    return see(url("sessions", session_id, note=leave_note(request, visitor, "The session has ended.")))


@router.post("/{session_id}/delete")
async def delete(request: Request, visitor: Doer, session_id: str, form: SentForm) -> Response:
    """Forgets it."""
    act(request, "session.delete", session_id)
    await plane_of(request).sessions.remove(visitor.principal, session_id)
    text = f"The session {session_id} and its files are deleted."
    return see(url("sessions", note=leave_note(request, visitor, text)))


@router.post("/{session_id}/install")
async def install(request: Request, visitor: Doer, session_id: str, form: SentForm) -> Response:
    """Installs packages; answers when that has ended."""
    plane = plane_of(request)
    session = await plane.sessions.get(visitor.principal, session_id)
    act(request, "session.install", session.id)
    try:
        body = InstallBody.model_validate(
            {"dependencies": form.packages("packages"), "python_package_index_url": form.word("index")}
        )
        packages = tuple(each.record for each in body.dependencies)
        act(request, "session.install", session.id, packages=[each.requirement for each in packages])
        session = await plane.sessions.install(
            visitor.principal,
            session.id,
            packages,
            index_url=body.python_package_index_url,
            timeout=body.install_timeout,
            allow_conflicts=body.allow_version_conflicts,
        )
    except Refused as error:
        return await _refused(request, visitor, session, form, error)
    if session.install_status is not InstallStatus.COMPLETED:
        text = f"The packages could not be installed: {session.install_error or 'the reason is not known'}"
        return await session_page(request, visitor, session, form=form, status=400, problem=text)
    return see(url("sessions", session.id, note=leave_note(request, visitor, "The packages are installed.")))


async def _refused(request: Request, visitor: Visitor, session: Session, form: Form, error: Exception) -> Response:
    status, problem = told(error)
    return await session_page(request, visitor, session, form=form, status=status, problem=problem)


async def _listing(request: Request, visitor: Visitor, wanted: Mapping[str, str]) -> LivePart:
    key, _, value = wanted["tag"].partition("=")
    filter = SessionFilter(
        owner=owner_of(visitor.principal),
        statuses=(SessionStatus(wanted["status"]),) if wanted["status"] in set(SessionStatus) else None,
        template_id=wanted["template"] or None,
        tags={key.strip(): value.strip()} if wanted["tag"].strip() else {},
    )
    found: Page[Session] = await plane_of(request).sessions.list(
        filter, limit=_SESSIONS, cursor=wanted["cursor"] or None
    )
    is_busy = any(each.status in ALIVE for each in found.items)
    return live(
        request,
        "sessions_list.html",
        id="sessions",
        source=url("sessions", part="list", **wanted),
        trigger=_POLL if is_busy else "",
        sessions=found,
        shows_owner=visitor.principal.sees_all,
        is_filtered=any(wanted[name] for name in ("status", "template", "tag")),
        older=url("sessions", **{**wanted, "cursor": found.next_cursor}) if found.next_cursor else None,
    )


async def _page(
    request: Request,
    visitor: Visitor,
    listing: LivePart,
    wanted: Mapping[str, str],
    *,
    form: Form | None = None,
    status: int = 200,
    problem: str | None = None,
) -> Response:
    templates = await plane_of(request).templates.list(limit=200, offset=0)
    facts: dict[str, Any] = {
        "listing": listing.html,
        "wanted": wanted,
        "templates": templates.items,
        "statuses": list(SessionStatus),
        "modes": list(SessionMode),
        "form": form or Form(()),
        "was_sent": form is not None,
        "problem": problem,
    }
    return page(request, "sessions.html", status, **facts)
