"""Running code, and what it says while it runs. Floor: control."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import PlainTextResponse

from ipybox.control.api import streams
from ipybox.control.api.bodies import ExecuteBody
from ipybox.control.api.context import act
from ipybox.control.console.forms import Refused, SentForm, told
from ipybox.control.console.output import Piece, Shown
from ipybox.control.console.page_route import PageRoute, is_htmx
from ipybox.control.console.rendering import LivePart, live, live_answer, page, see
from ipybox.control.console.sessions import session_page
from ipybox.control.console.visitor import Doer, Looker, leave_note, plane_of
from ipybox.control.console.wording import url
from ipybox.control.records import Execution
from ipybox.control.service.requests import NewExecution
from ipybox.control.states import ExecutionKind, SessionMode

router = APIRouter(route_class=PageRoute)
_AT_ONCE = 500
_UNTIL_NOW = 50_000


@router.post("/sessions/{session_id}/run")
async def run(request: Request, visitor: Doer, session_id: str, form: SentForm) -> Response:
    """Takes code, and shows what it says."""
    plane = plane_of(request)
    session = await plane.sessions.get(visitor.principal, session_id)
    act(request, "execution.create", session.id)
    language, _, kind = form["kind"].partition(":")
    try:
        body = ExecuteBody.model_validate(
            {
                "code": form["code"],
                "language": language,
                "kind": kind or None,
                **form.only_said(timeout=form.word("timeout"), event=form.json("event")),
            }
        )
        execution = await plane.executions.submit(
            visitor.principal,
            NewExecution(
                session_id=session.id,
                language=body.language,
                code=body.code,
                timeout=body.timeout,
                kind=None if body.kind is None else ExecutionKind(body.kind),
                event=body.event,
            ),
        )
    except Refused as error:
        status, problem = told(error)
        if is_htmx(request):
            answer = page(request, "problem_part.html", status, title="Not run", detail=problem)
            answer.headers.update({"HX-Retarget": "#problem", "HX-Reswap": "innerHTML"})
            return answer
        return await session_page(request, visitor, session, form=form, status=status, problem=problem)
    act(request, "execution.create", execution.id, session_id=session.id)
    if not is_htmx(request):
        return see(url("executions", execution.id))
    facts = facts_part(request, execution, is_short=True)
    answer = page(request, "run.html", execution=execution, facts=facts.html, pieces=[], is_live=True)
    answer.headers["HX-Trigger"] = "started"
    return answer


@router.get("/executions/{execution_id}")
async def execution(request: Request, visitor: Looker, execution_id: str, part: str = "") -> Response:
    """One execution, with what it says while it runs."""
    plane = plane_of(request)
    found = await plane.executions.get(visitor.principal, execution_id)
    if part:
        return live_answer(request, facts_part(request, found, is_short=part == "short"))
    session = await plane.sessions.get(visitor.principal, found.session_id)
    return await asyncio.to_thread(  # a million characters that mislead take a while
        page,
        request,
        "execution.html",
        execution=found,
        is_stateful=session.mode is SessionMode.STATEFUL,
        facts=facts_part(request, found).html,
        pieces=await _said(request, found),
        is_live=not found.status.is_final,
    )


@router.get("/executions/{execution_id}/stream", response_model=None)
async def stream(
    request: Request,
    visitor: Looker,
    execution_id: str,
    after: Annotated[int, Query(ge=0, le=2**31)] = 0,
    last_event_id: Annotated[str | None, Header(pattern=r"^[0-9]{1,9}$")] = None,
) -> Response:
    """The API's stream, for who comes with a cookie."""
    return await streams.stream(
        request, plane_of(request), visitor.principal, execution_id, after=after, last_event_id=last_event_id
    )


@router.get("/executions/{execution_id}/text")
async def text(request: Request, visitor: Looker, execution_id: str, of: str = "stdout") -> Response:
    """All of one stream, to be saved."""
    plane = plane_of(request)
    found = await plane.executions.get(visitor.principal, execution_id)
    stdout, stderr = (await plane.executions.output((found,))).get(found.id, ("", ""))
    name = "stderr" if of == "stderr" else "stdout"
    written = stderr if name == "stderr" else stdout
    headers = {"Content-Disposition": f'attachment; filename="{name}.txt"'}
    return PlainTextResponse(written.encode("utf-8", "replace"), headers=headers)


@router.post("/executions/{execution_id}/interrupt")
async def interrupt(request: Request, visitor: Doer, execution_id: str, form: SentForm) -> Response:
    """What Ctrl-C does."""
    plane = plane_of(request)
    act(request, "execution.interrupt", execution_id)
    was_running = await plane.executions.interrupt(visitor.principal, execution_id)
    if is_htmx(request):
        return Response(status_code=204)
    said = "It was interrupted." if was_running else "It had ended already."
    return see(url("executions", execution_id, note=leave_note(request, visitor, said)))


def facts_part(request: Request, execution: Execution, *, is_short: bool = False) -> LivePart:
    """What there is to say of an execution, asked for anew until it has ended."""
    is_over = execution.status.is_final
    return live(
        request,
        "execution_facts.html",
        id="run-facts" if is_short else "facts",
        source=url("executions", execution.id, part="short" if is_short else "facts"),
        trigger="" if is_over else "every 1s, finished from:body",
        execution=execution,
        is_over=is_over,
        is_short=is_short,
    )


async def _said(request: Request, execution: Execution) -> list[Piece]:
    """All that it said; what goes on is shown by a script, and this is for those without."""
    is_over = execution.status.is_final
    shown, after, has_more = Shown() if is_over else Shown(_UNTIL_NOW), 0, True
    while has_more:
        events, _ = await plane_of(request).executions.events(execution.id, after, _AT_ONCE)
        for event in events:
            shown.add(event)
            after = event.seq
        has_more = len(events) == _AT_ONCE
    return shown.pieces
