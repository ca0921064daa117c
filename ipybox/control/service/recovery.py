"""Compares what should be with what is, when a server starts and whenever it is asked to. Floor: control."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any

from ipybox.control.db.database import Database
from ipybox.control.errors import RecordNotFoundError, StorageError
from ipybox.control.records import Execution, Session
from ipybox.control.service.executions import Executions
from ipybox.control.service.ids import now
from ipybox.control.service.sessions import ALIVE, Sessions
from ipybox.control.service.template_packages import TemplatePackages
from ipybox.control.states import ExecutionStatus, InstallStatus, Reason, SessionMode, SessionStatus
from ipybox.control.storage.workspaces import Workspaces

log = logging.getLogger("ipybox.control")

_LOST = "the server was ended while it ran; what it wrote until then is kept"
_LEFT = "the server could not write down what became of it"
_RESUMED = "the server was restarted; the session has another sandbox over its files, without what was in /tmp"


@dataclass(slots=True)
class Found:
    """What a comparison has found and done, by session and execution id."""

    resumed: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    crashed: list[str] = field(default_factory=list)
    pending: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)


class Recovery:
    """Gives every session and every execution a true state."""

    def __init__(
        self,
        db: Database,
        sessions: Sessions,
        executions: Executions,
        workspaces: Workspaces,
        packages: TemplatePackages,
    ) -> None:
        self._db, self._sessions, self._executions = db, sessions, executions
        self._workspaces, self._packages = workspaces, packages
        self._turn = asyncio.Lock()

    async def run(self) -> Found:
        """Looks at all that the database takes for alive and this server does not know of."""
        async with self._turn:  # two would each take up what the other one has found
            return await self._run()

    async def _run(self) -> Found:
        found = Found()
        sessions = await self._db.sessions.alive(self._sessions.node)
        of_session: dict[str, list[Execution]] = {}
        for execution in await self._db.executions.unfinished():
            of_session.setdefault(execution.session_id, []).append(execution)
        here = set(self._sessions.alive())  # asked for last: who has come meanwhile is among them
        for session in sessions:
            if session.id not in here:
                with suppress(RecordNotFoundError):  # it was removed meanwhile
                    # Who is not here any more has come to an end meanwhile, which is written down by then.
                    session = await self._db.sessions.get(session.id)
                    if session.status in ALIVE:
                        await self._recover(session, of_session.pop(session.id, []), found)
        await self._of_others(of_session, found)
        await self.remove_orphans(found)
        await self._packages.remove_unneeded()
        log.info("compared the database with what runs", extra={n: len(v) for n, v in asdict(found).items()})
        return found

    async def _recover(self, session: Session, executions: list[Execution], found: Found) -> None:
        had_sandbox = session.epoch > 0
        changes: dict[str, Any] = {}
        if had_sandbox and session.install_status is InstallStatus.INSTALLING:
            changes.update(
                install_status=InstallStatus.FAILED,
                install_error="the server was restarted while packages were installed; ask for them again",
                install_completed_at=now(),
            )
        pending = []
        for execution in executions:
            if execution.status is ExecutionStatus.RUNNING:
                await self._executions.lost(execution, Reason.SERVER_RESTARTED, _LOST)
                found.crashed.append(execution.id)
            else:
                pending.append(execution)
        if session.mode is SessionMode.STATEFUL and had_sandbox:
            text = "the server was restarted, and the variables went with it"
            for execution in pending:
                await self._executions.lost(execution, Reason.SERVER_RESTARTED, text)
                found.crashed.append(execution.id)
            await self._db.sessions.change(
                session.id,
                expect=ALIVE,
                status=SessionStatus.FAILED,
                reason=Reason.SERVER_RESTARTED,
                detail=text,
                completed_at=now(),
                **changes,
            )
            found.failed.append(session.id)
            return
        if had_sandbox:
            changes.update(reason=Reason.SERVER_RESTARTED, detail=_RESUMED)
            if session.status is SessionStatus.RUNNING:
                changes.update(status=SessionStatus.CREATING)
        if changes:
            expect = (session.status,)
            session = await self._db.sessions.change(session.id, expect=expect, **changes) or session
        self._sessions.resume(session)
        found.resumed.append(session.id)
        for execution in pending:
            self._executions.resume(execution)
            found.pending.append(execution.id)

    async def _of_others(self, of_session: dict[str, list[Execution]], found: Found) -> None:
        """Executions of sessions that need nothing.

        One outlives its session's end only if a server was killed between the two; and one of a session that is
        alive is not known here only if the database did not answer when it was kept.
        """
        for session_id, executions in of_session.items():
            for execution in executions:
                if not self._executions.knows(execution.id):
                    with suppress(RecordNotFoundError):  # it was removed meanwhile
                        await self._of_another(session_id, execution.id, found)

    async def _of_another(self, session_id: str, execution_id: str, found: Found) -> None:
        session = await self._db.sessions.get(session_id)
        is_here = session_id in self._sessions.alive()
        if session.status in ALIVE and not is_here:
            return  # another server's
        execution = await self._db.executions.get(execution_id)
        if execution.status.is_final or self._executions.knows(execution_id):
            return  # meanwhile
        if is_here and session.status in ALIVE and execution.status is ExecutionStatus.PENDING:
            self._executions.resume(execution)
            found.pending.append(execution.id)
            return
        if is_here and session.status in ALIVE:
            await self._executions.lost(execution, Reason.SANDBOX_ENDED, _LEFT)
        else:
            await self._executions.lost(execution, Reason.SESSION_ENDED, f"its session ended: {session.detail}")
        found.crashed.append(execution.id)

    async def remove_orphans(self, found: Found) -> None:
        """Removes what no session has any more: its record went before its files, or a file came after its end."""
        names = await self._workspaces.orphans(self._sessions.alive())
        there = await self._db.sessions.known(names)
        for name in names:
            if name not in there and name not in self._sessions.alive():
                try:
                    await self._workspaces.remove(name)
                except (StorageError, OSError) as error:  # it is tried again, and others are not to wait for it
                    log.warning("files without a session stay", extra={"session_id": name, "reason": str(error)})
                else:
                    found.removed.append(name)
