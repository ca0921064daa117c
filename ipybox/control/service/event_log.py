"""Events of one execution on their way to the database, and those who wait for them. Floor: control.

The database is what everybody reads. Events are written in batches, soon after they happen, and the last ones together
with the result; so a short execution costs one write, and a reader who is slow costs nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from ipybox.control.errors import ConflictError, RecordNotFoundError
from ipybox.control.json_text import JsonText
from ipybox.control.records import ExecutionEvent
from ipybox.control.service.ids import now
from ipybox.control.service.retries import Retries
from ipybox.process.teardown import to_the_end

Append = Callable[[str, Sequence[ExecutionEvent]], Awaitable[None]]

_SOON = 0.025
"""Seconds after which events are written; most executions have ended before."""
_AGAIN = 0.5
_CHUNK = 32 * 1024
"""Characters up to which pieces of one stream become one event."""
_STREAMS = ("stdout", "stderr")
_EVENTS = 50_000
FIRST_PAGE = 16
"""Events that a reader gets at first: many who read at once must not hold all that was said in memory."""
_LAST_PAGE = 500
_PAGE_CHARACTERS = 512 * 1024


class EventLog:
    """Numbers events, writes them, and wakes who waits.

    Args:
        execution_id: Whose they are.
        append: Writes a batch.
        retries: Until when that is tried.
        display_bytes: Room for what is shown besides text; what has none is left out, and an event says so.
        first: Number of the first one.
    """

    def __init__(self, execution_id: str, append: Append, retries: Retries, display_bytes: int, first: int = 1) -> None:
        self.execution_id = execution_id
        self._append, self._retries, self._room = append, retries, display_bytes
        self._next = first
        self._waiting: list[ExecutionEvent] = []
        self._tried = 0
        self._timer: asyncio.TimerHandle | None = None
        self._turn = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._progress = asyncio.Event()
        self._closed = False
        self.truncated = False
        """Whether something was left out."""
        self.failure: Exception | None = None
        """Why a batch could not be written; it is tried again with the next one."""

    def add(self, kind: str, data: Mapping[str, Any]) -> None:
        """Something has happened."""
        if self._closed:
            return
        if kind in _STREAMS and self._joined(kind, str(data["text"])):
            return
        if kind in ("display", "result") and not self._has_room(data):
            return
        if self._next > _EVENTS and kind not in ("error", "truncated"):
            return self._leave_out("events")
        self._waiting.append(
            ExecutionEvent(execution_id=self.execution_id, seq=self._next, kind=kind, data=data, at=now())
        )
        self._next += 1
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_SOON, self._write_soon)

    async def take_last(self) -> tuple[ExecutionEvent, ...]:
        """Those that are not written yet; whoever takes them writes them. No more are taken in after this.

        If it is not known whether the last batch was written, this waits until the database says so.
        """
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            await asyncio.wait([self._task])
        if self._tried:
            await self._retries.until_taken(self._write_surely, f"what {self.execution_id} said")
        return tuple(self._waiting)

    def end_event(self, data: Mapping[str, Any]) -> ExecutionEvent:
        """The one that comes last."""
        return ExecutionEvent(execution_id=self.execution_id, seq=self._next, kind="end", data=data, at=now())

    def wake(self) -> None:
        """There is something new to read."""
        self._progress.set()
        self._progress = asyncio.Event()

    def progress(self) -> asyncio.Event:
        """Set when there is something new; to be asked for before one reads."""
        return self._progress

    def _joined(self, kind: str, text: str) -> bool:
        is_open = len(self._waiting) > self._tried and not self._turn.locked()
        last = self._waiting[-1] if is_open else None
        if last is None or last.kind != kind or len(last.data["text"]) + len(text) > _CHUNK:
            return False
        self._waiting[-1] = ExecutionEvent(
            execution_id=last.execution_id,
            seq=last.seq,
            kind=kind,
            data={**last.data, "text": last.data["text"] + text},
            at=last.at,
        )
        return True

    def _has_room(self, data: Mapping[str, Any]) -> bool:
        self._room -= sum(_size(each) for each in data.get("data", {}).values())
        if self._room < 0:
            self._leave_out("display")
        return self._room >= 0

    def _leave_out(self, what: str) -> None:
        if not self.truncated:
            self.truncated = True
            self.add("truncated", {"stream": what})

    def _write_soon(self) -> None:
        self._timer = None
        if not self._closed and (self._task is None or self._task.done()):
            self._task = asyncio.get_running_loop().create_task(to_the_end(self._write()))

    async def _write_surely(self) -> None:
        await self._write()
        if self._tried and self.failure is not None:
            raise self.failure

    async def _write(self) -> None:
        async with self._turn:
            batch = tuple(self._waiting[: self._tried] if self._tried else self._waiting)
            try:
                await self._append(self.execution_id, batch)
            except (ConflictError, RecordNotFoundError):
                pass  # they are there, as the same batch was written and the word of it was lost; or nobody wants them
            except Exception as error:  # the database may be back in a moment; nothing is lost until then
                self.failure, self._tried = error, len(batch)
                if not self._closed:
                    self._timer = asyncio.get_running_loop().call_later(_AGAIN, self._write_soon)
                return
            del self._waiting[: len(batch)]
            self._tried = 0
        self.wake()
        if self._waiting and self._timer is None and not self._closed:
            self._timer = asyncio.get_running_loop().call_later(_SOON, self._write_soon)


def _size(value: Any) -> int:
    if isinstance(value, JsonText):
        return len(value.text)
    return len(value) if isinstance(value, str) else 1000


def next_page(page: int, found: Sequence[ExecutionEvent]) -> int:
    """How many events to read next: as many as are some hundred thousand characters, by those that were read."""
    size = sum(_size(each.data if isinstance(each.data, JsonText) else each.data.get("text")) for each in found)
    if not found or size > _PAGE_CHARACTERS:
        return FIRST_PAGE
    return min(2 * page, _LAST_PAGE)
