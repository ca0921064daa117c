"""What a server knows of one session that is alive. Floor: control."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from pathlib import Path

from ipybox.control.errors import InstallError
from ipybox.control.records import Session
from ipybox.control.runtime.host import RunningSession
from ipybox.control.service.clock import SteadyClock
from ipybox.control.states import Reason, SessionStatus


class Live:
    """What this server knows of a session that is alive, beside the database.

    Attributes:
        is_new: Whether it was made just now, so that there is nothing of it anywhere.
        created, used, until: When it was made, when it was used last, and when it ends if it is not used.
        saved: Until when it is kept, as the database has it.
        running: Its sandbox; ``up`` is set as long as there is one.
        short_lives: How many sandboxes in a row ended soon.
        ending: What it ends with, as soon as that is known.
        work: Brings its sandbox up.
        turn: Held by who ends it.
        over: Set when it has ended.
    """

    def __init__(self, session: Session, clock: SteadyClock, longest: timedelta, is_new: bool) -> None:
        self._clock, self.is_new = clock, is_new
        self.timeout = timedelta(seconds=session.timeout)
        at = clock.moment()  # the wall clock may have been set back since the times were written down
        self.created = min(at, clock.of(session.created_at))
        self.used = min(at, clock.of(session.last_activity_at))
        self.until = self.saved = min(at + longest, clock.of(session.expires_at))
        self.mode = session.mode
        self.running: RunningSession | None = None
        self.started = 0.0
        self.short_lives = 0
        self.ending: tuple[SessionStatus, Reason, str] | None = None
        self.up = asyncio.Event()
        self.work: asyncio.Task[None] | None = None
        self.template_packages: Path | None = None
        self.installation: asyncio.Task[InstallError | None] | None = None
        self.turn = asyncio.Lock()
        self.over = asyncio.Event()

    @property
    def is_installing(self) -> bool:
        """Whether packages are installed that were asked for while it ran."""
        return self.installation is not None and not self.installation.done()

    @property
    def last_activity_at(self) -> datetime:
        """When it was used last."""
        return self._clock.shown(self.used)

    @property
    def expires_at(self) -> datetime:
        """When it ends if it is not used until then."""
        return self._clock.shown(self.until)

    def touch(self) -> None:
        """It was used just now."""
        self.used = self._clock.moment()
        self.until = max(self.until, self.used + self.timeout)

    def renew(self, timeout: timedelta) -> None:
        """It is kept for so much longer from now on, which may be less than it was."""
        self.used = self._clock.moment()
        self.until = self.used + timeout
