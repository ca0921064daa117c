"""What a server knows of one execution that is not finished. Floor: control."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from ipybox.control.runtime.host import RunningSession, RunOutcome
from ipybox.control.service.event_log import EventLog
from ipybox.control.states import ExecutionStatus, Reason

Ending = tuple[ExecutionStatus, Reason, str]


@dataclass(slots=True)
class Active:
    """What this server knows of an execution that is not finished, beside the database."""

    session_id: str
    events: EventLog
    done: asyncio.Event
    task: asyncio.Task[None] | None = None
    work: asyncio.Future[RunOutcome] | None = None
    running: RunningSession | None = None
    """Where it runs, from the moment on at which this server can't leave it to the next one any more."""
    ending: Ending | None = None
    after: asyncio.Event | None = None
    """Set when the cell that came before this one is on its way."""
    sent: asyncio.Event = field(default_factory=asyncio.Event)
    has_begun: bool = False
    """Whether its task has; one that is cancelled before would not do anything at all."""
    is_left: bool = False
    """Whether it waits for the next server."""

    def ended(self, otherwise: Ending) -> Ending:
        """What it ends with, if nothing else was said."""
        return self.ending or otherwise

    def call_off(self) -> None:
        """Has it wait no longer for what it runs in."""
        if self.running is None and self.task is not None and self.has_begun:
            self.task.cancel()
