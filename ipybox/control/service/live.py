"""What a server knows of one session that is alive. Floor: control."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from pathlib import Path

from ipybox.control.errors import InstallError
from ipybox.control.records import Session
from ipybox.control.runtime.host import RunningSession
from ipybox.control.states import Reason, SessionStatus


class Live:
    """What this server knows of a session that is alive, beside the database.

    Attributes:
        is_new: Whether it was made just now, so that there is nothing of it anywhere.
        saved: Until when it is kept, as the database has it.
        running: Its sandbox; ``up`` is set as long as there is one.
        short_lives: How many sandboxes in a row ended soon.
        ending: What it ends with, as soon as that is known.
        work: Brings its sandbox up.
        turn: Held by who ends it.
        over: Set when it has ended.
    """

    def __init__(self, session: Session, is_new: bool) -> None:
        self.is_new = is_new
        self.timeout = timedelta(seconds=session.timeout)
        self.last_activity_at = session.last_activity_at
        self.expires_at = session.expires_at
        self.saved = session.expires_at
        self.mode = session.mode
        self.created_at = session.created_at
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

    def touch(self, at: datetime) -> None:
        """It was used."""
        self.last_activity_at = at
        self.expires_at = max(self.expires_at, at + self.timeout)
