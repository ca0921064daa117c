"""Server-sent events of an execution. Floor: control.

https://html.spec.whatwg.org/multipage/server-sent-events.html: ``id`` is the number of an event, so a client that comes
back with ``Last-Event-ID`` goes on where it was.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated
from weakref import WeakKeyDictionary

from fastapi import APIRouter, Header, Request
from fastapi.responses import StreamingResponse

from ipybox.control.api.context import Plane, Reader
from ipybox.control.api.documented import problems
from ipybox.control.api.executions import After, ExecutionId
from ipybox.control.api.rendering import event_fields, json_of
from ipybox.control.records import ExecutionEvent
from ipybox.control.service.control_plane import ControlPlane

router = APIRouter(prefix="/executions", tags=["executions"])
MEDIA_TYPE = "text/event-stream"
_EVENT = {
    "type": "object",
    "description": "Fields of one event; `data` is JSON, such as an item of the list of events.",
    "properties": {"id": {"type": "string"}, "event": {"type": "string"}, "data": {"type": "string"}},
}
_QUIET = 1.0
_LINE_ENDS = "\x85\u2028\u2029"
"""For some who read lines, not for those who wrote the standard."""
_PIECE = 64 * 1024
_AT_ONCE = 8
"""Of many readers who are sent much, those that go on before all others have their turn."""
_gates: WeakKeyDictionary[ControlPlane, asyncio.Semaphore] = WeakKeyDictionary()
_KEEP_ALIVE = 15
"""Times that it may be quiet before a comment says that somebody is there."""


class EventStreamResponse(StreamingResponse):
    """A stream of events."""

    media_type = MEDIA_TYPE


@router.get(
    "/{execution_id}/stream",
    response_class=EventStreamResponse,
    responses={
        200: {
            "description": "Events as they happen; ends after `end`.",
            "content": {MEDIA_TYPE: {"schema": _EVENT}},
        },
        **problems(404),
    },
    operation_id="stream_events",
)
async def stream(
    request: Request,
    plane: Plane,
    principal: Reader,
    execution_id: ExecutionId,
    after: After = 0,
    last_event_id: Annotated[
        str | None, Header(description="Cursor, as browsers send it.", pattern=r"^[0-9]{1,9}$")
    ] = None,
) -> EventStreamResponse:
    """What an execution says, as it happens, from a cursor on to its end."""
    execution = await plane.executions.get(principal, execution_id)
    if last_event_id is not None:
        after = max(after, int(last_event_id))
    return EventStreamResponse(
        events_of(plane, execution.id, after), headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    )


async def events_of(plane: ControlPlane, execution_id: str, after: int) -> AsyncIterator[bytes]:
    """Events in the form in which they travel; ends as well when the server is about to stop."""
    quiet = sent = 0
    gate = _gates.setdefault(plane, asyncio.Semaphore(_AT_ONCE))
    yield b": here\n\n"
    async for event in plane.executions.follow(execution_id, after, _QUIET):
        if event is not None:
            quiet = 0
            data = encoded(event)
            yield data
            sent += len(data)
            if sent > _PIECE:  # a fast reader is never waited for
                sent = 0
                async with gate:
                    await asyncio.sleep(0)
            continue
        if plane.draining:
            return
        quiet += 1
        if quiet % _KEEP_ALIVE == 0:
            yield b": still here\n\n"


def encoded(event: ExecutionEvent) -> bytes:
    """One event."""
    data = json_of(event_fields(event), ascii=True)
    for letter in _LINE_ENDS if not data.isascii() else ():  # of what came as text
        data = data.replace(letter, f"\\u{ord(letter):04x}")
    return f"id: {event.seq}\nevent: {event.kind}\ndata: {data}\n\n".encode()
