"""Sessions: from their making to their end. Floor: control."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Collection, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Protocol

from ipybox.control.access.metrics import ServerMetrics
from ipybox.control.access.scopes import Principal
from ipybox.control.db.database import Database
from ipybox.control.db.sessions import SessionFilter
from ipybox.control.errors import (
    ConflictError,
    InstallError,
    NoCapacityError,
    RecordNotFoundError,
    RequestRefusedError,
    StorageFullError,
)
from ipybox.control.records import Dependency, InstalledDependency, Page, Session
from ipybox.control.runtime.host import Ending, RunningSession, SessionHost, SessionSpec
from ipybox.control.service import bounds, ids
from ipybox.control.service.ids import now
from ipybox.control.service.requests import NewSession
from ipybox.control.service.templates import Templates, refuse_runtime
from ipybox.control.settings import ServerSettings
from ipybox.control.states import InstallStatus, Reason, SessionMode, SessionStatus
from ipybox.control.storage.workspaces import Workspaces
from ipybox.errors import IpyboxError
from ipybox.process.teardown import to_the_end

log = logging.getLogger("ipybox.control")

ALIVE = (SessionStatus.CREATING, SessionStatus.RUNNING)
_SHORT_LIFE = 2.0
"""Seconds; a sandbox that ends sooner than that after its start would only do it again."""
_LIVES = 3


class Dependents(Protocol):
    """Who has to know when a session comes to its end."""

    def session_ends(self, session_id: str, reason: Reason, detail: str) -> None:
        """Its sandbox is about to be ended, with what runs in it."""

    async def session_ended(self, session_id: str, reason: Reason, detail: str) -> None:
        """It will run no more code."""

    def is_busy(self, session_id: str) -> bool:
        """Whether code runs in it, or waits."""


class _Live:
    """What this server knows of a session that is alive, beside the database."""

    def __init__(self, session: Session) -> None:
        self.timeout = timedelta(seconds=session.timeout)
        self.last_activity_at = session.last_activity_at
        self.expires_at = session.expires_at
        self.saved = session.expires_at
        self.created_at = session.created_at
        self.running: RunningSession | None = None
        self.started = 0.0
        self.short_lives = 0
        self.ending: tuple[SessionStatus, Reason, str] | None = None
        self.up = asyncio.Event()
        self.work: asyncio.Task[None] | None = None
        self.installing = False
        self.turn = asyncio.Lock()
        self.over = asyncio.Event()

    def touch(self, at: datetime) -> None:
        self.last_activity_at = at
        self.expires_at = max(self.expires_at, at + self.timeout)


class Sessions:
    """Makes, keeps and ends them.

    Args:
        db: What should be.
        host: What is.
        workspaces: Their files.
        node: This server's name, for sessions that are its own.
    """

    def __init__(
        self,
        settings: ServerSettings,
        db: Database,
        host: SessionHost,
        workspaces: Workspaces,
        templates: Templates,
        metrics: ServerMetrics,
        node: str,
    ) -> None:
        self._settings, self._db, self._host, self._workspaces = settings, db, host, workspaces
        self._templates, self._metrics, self.node = templates, metrics, node
        self._live: dict[str, _Live] = {}
        self._making: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = False
        self.dependents: Dependents | None = None

    # ---- what is asked for ----------------------------------------------------------------------------------------

    async def create(self, principal: Principal, asked: NewSession) -> Session:
        """Makes a session, which comes up by itself.

        Raises:
            RequestRefusedError: There is no such template, or it asks for what can't be had.
            QuotaExceededError, NoCapacityError, StorageFullError: Not now.
            ConflictError: A session with this id is there.
        """
        self._refuse_when_stopping()
        try:
            template = await self._db.templates.get(asked.template_id)
        except RecordNotFoundError as error:
            raise RequestRefusedError(str(error), "template_id") from None
        refuse_runtime(template)
        free = await self._workspaces.free_bytes()
        if free < self._settings.min_free_bytes:
            raise StorageFullError(f"{free} bytes are free on the server's disk, and it keeps a reserve")
        at = now()
        timeout = min(asked.timeout or template.default_timeout, self._settings.max_timeout)
        session = Session(
            id=asked.id or ids.session_id(),
            owner=principal.owner,
            template_id=template.id,
            mode=asked.mode,
            status=SessionStatus.CREATING,
            limits=bounds.limits_within(asked, template),
            env_vars={**template.default_env_vars, **asked.env_vars},
            event=asked.event,
            timeout=timeout,
            tags=asked.tags,
            network=bounds.network_within(asked.network, template.network),
            runtime_type=template.runtime_type,
            python_package_index_url=asked.python_package_index_url,
            requested_dependencies=asked.dependencies,
            install_status=InstallStatus.INSTALLING if asked.dependencies else InstallStatus.COMPLETED,
            install_timeout=asked.install_timeout,
            fail_on_dependency_error=asked.fail_on_dependency_error,
            runtime_node=self.node,
            created_at=at,
            updated_at=at,
            last_activity_at=at,
            expires_at=at + timedelta(seconds=timeout),
        )
        per_owner = self._settings.max_sessions_per_key if principal.max_sessions is None else principal.max_sessions
        self._making.add(session.id)
        try:
            await to_the_end(self._add(session, per_owner))
        except ConflictError:
            if not asked.is_planned:
                raise
            return await self.get(principal, session.id)
        finally:
            self._making.discard(session.id)
        return session

    async def _add(self, session: Session, per_owner: int) -> None:
        """Not to be left half done: who is kept is looked after."""
        await self._db.sessions.add(session, per_owner=per_owner, in_all=self._settings.max_sessions)
        self._begin(session)

    async def get(self, principal: Principal, session_id: str) -> Session:
        """One of them. Raises :class:`RecordNotFoundError`, also when it is somebody else's."""
        owner = None if principal.sees_all else principal.owner
        return self._as_it_is(await self._db.sessions.get(session_id, owner=owner))

    async def list(
        self, filter: SessionFilter, *, limit: int, offset: int = 0, cursor: str | None = None
    ) -> Page[Session]:
        """Some of them, newest first."""
        page = await self._db.sessions.list(filter, limit=limit, offset=offset, cursor=cursor)
        items = tuple(self._as_it_is(each) for each in page.items)
        return Page(items=items, total=page.total, next_cursor=page.next_cursor)

    async def renew(self, principal: Principal, session_id: str, timeout: int | None) -> Session:
        """Keeps it for so many more seconds, from now on."""
        session = await self._alive(principal, session_id)
        at, live = now(), self._live[session.id]
        live.last_activity_at = at
        live.expires_at = at + timedelta(seconds=min(timeout or session.timeout, self._settings.max_timeout))
        await self._db.sessions.touch(session.id, live.last_activity_at, live.expires_at)
        return await self.get(principal, session_id)

    async def terminate(self, principal: Principal, session_id: str) -> Session:
        """Ends it and keeps the record; does nothing to one that has ended."""
        session = await self.get(principal, session_id)
        if session.status in ALIVE:
            await self.end(session.id, SessionStatus.TERMINATED, Reason.REQUESTED, "somebody asked for its end")
        return await self.get(principal, session_id)

    async def remove(self, principal: Principal, session_id: str) -> None:
        """Ends it, and forgets it with its executions and files."""
        session = await self.get(principal, session_id)
        if session.status in ALIVE:
            await self.end(session.id, SessionStatus.TERMINATED, Reason.REQUESTED, "somebody asked for its removal")
        await self.forget(session.id)

    async def install(
        self,
        principal: Principal,
        session_id: str,
        dependencies: tuple[Dependency, ...],
        *,
        index_url: str | None,
        timeout: float,
        allow_conflicts: bool,
    ) -> Session:
        """Installs packages into a session that runs; code that starts afterwards finds them.

        Raises:
            ConflictError: It does not run, or another installation is going on.
        """
        session = await self._alive(principal, session_id)
        live = self._live[session.id]
        if live.running is None:
            raise ConflictError(f"the session {session_id!r} is {session.status.value}, not running")
        if live.installing or session.install_status is InstallStatus.INSTALLING:
            raise ConflictError(f"an installation is going on in the session {session_id!r}")
        live.installing = True
        try:
            await to_the_end(self._install(session, dependencies, index_url, timeout, allow_conflicts))
        finally:
            live.installing = False
            self.touch(session.id)
        return await self.get(principal, session_id)

    # ---- for the other services -----------------------------------------------------------------------------------

    async def running(self, session_id: str) -> RunningSession | None:
        """Its sandbox, as soon as there is one; None when there will be none any more."""
        live = self._live.get(session_id)
        while live is not None and not live.over.is_set():
            if live.running is not None:
                return live.running
            waits = [asyncio.ensure_future(event.wait()) for event in (live.up, live.over)]
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for each in waits:
                    each.cancel()
        return None

    def touch(self, session_id: str) -> None:
        """It was used just now."""
        live = self._live.get(session_id)
        if live is not None:
            live.touch(now())

    def alive(self) -> Collection[str]:
        """Those that this server looks after, or is about to."""
        return (*self._live, *self._making)

    def sandboxes(self) -> int:
        """How many sandboxes there are."""
        return sum(live.running is not None for live in self._live.values())

    async def end(self, session_id: str, status: SessionStatus, reason: Reason, detail: str) -> None:
        """Ends it; returns when nothing of it runs and the database says so."""
        live = self._live.get(session_id)
        if live is None:
            await self._db.sessions.change(
                session_id, expect=ALIVE, status=status, reason=reason, detail=detail, completed_at=now()
            )
            return
        await to_the_end(self._end(session_id, live, status, reason, detail))

    async def forget(self, session_id: str) -> None:
        """Removes an ended session with all that it left."""
        await self._workspaces.remove(session_id)
        await self._db.sessions.remove(session_id)

    def resume(self, session: Session) -> None:
        """Looks after a session that the database says is alive, and gives it a sandbox."""
        self._begin(session)

    async def expire(self) -> None:
        """Ends those whose time is over, and writes down when the others were used."""
        at = now()
        lifetime = timedelta(seconds=self._settings.max_lifetime)
        for session_id, live in list(self._live.items()):
            if live.ending is not None:
                continue
            busy = live.installing or (self.dependents is not None and self.dependents.is_busy(session_id))
            if busy:
                live.touch(at)
            if at >= live.created_at + lifetime:
                text = f"it was there for {lifetime.total_seconds():g} s, which is the most"
                await self.end(session_id, SessionStatus.TIMEOUT, Reason.LIFETIME, text)
            elif at >= live.expires_at:
                text = f"it was not used for {live.timeout.total_seconds():g} s"
                await self.end(session_id, SessionStatus.TIMEOUT, Reason.IDLE, text)
            elif live.expires_at != live.saved:
                live.saved = live.expires_at
                await self._db.sessions.touch(session_id, live.last_activity_at, live.expires_at)

    async def close(self) -> None:
        """Leaves all of them as they are to be found by the next server, and ends their sandboxes."""
        self._stopping = True
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        for session_id, live in list(self._live.items()):
            await self._db.sessions.touch(session_id, live.last_activity_at, live.expires_at)
            session = await self._db.sessions.get(session_id)
            if session.mode is SessionMode.STATEFUL and session.epoch > 0:
                text = "the server was stopped, and the variables went with it"
                await self._end(session_id, live, SessionStatus.FAILED, Reason.SERVER_STOPPED, text)
            elif live.running is not None:
                await self._save_denied(session_id, live.running)
                await live.running.close()
        self._live.clear()

    # ---- coming up ------------------------------------------------------------------------------------------------

    def _refuse_when_stopping(self) -> None:
        if self._stopping:
            raise NoCapacityError("the server is about to stop", retry_after=10.0)

    def stop_taking(self) -> None:
        """No new ones from now on."""
        self._stopping = True

    def _begin(self, session: Session) -> None:
        live = self._live[session.id] = _Live(session)
        self._bring_up_soon(session.id, live)

    def _bring_up_soon(self, session_id: str, live: _Live) -> None:
        live.work = asyncio.get_running_loop().create_task(self._bring_up(session_id, live))
        self._tasks.add(live.work)
        live.work.add_done_callback(self._tasks.discard)

    async def _bring_up(self, session_id: str, live: _Live) -> None:
        began = time.monotonic()
        try:
            session = await self._db.sessions.get(session_id)
            running = await self._start(session, live)
        except (IpyboxError, OSError) as error:
            reason = Reason.DEPENDENCIES if isinstance(error, InstallError) else Reason.START_FAILED
            log.warning(
                "a session failed", extra={"session_id": session_id, "reason": reason.value, "detail": str(error)}
            )
            return await self._give_up(session_id, live, reason, str(error))
        except Exception as error:
            log.exception("a session failed", extra={"session_id": session_id})
            return await self._give_up(session_id, live, Reason.START_FAILED, f"{type(error).__name__}: {error}")
        try:
            changed = await self._db.sessions.change(
                session_id,
                expect=ALIVE,
                status=SessionStatus.RUNNING,
                container_id=running.container_id,
                epoch=session.epoch + 1,
                runtime_node=self.node,
                started_at=session.started_at or now(),
            )
        except BaseException:
            await to_the_end(running.close())
            raise
        if changed is None or live.ending is not None:
            await to_the_end(running.close())
            return
        live.running, live.started = running, time.monotonic()
        live.up.set()
        self._metrics.session_start.observe(time.monotonic() - began)
        self._watch(session_id, live, running)

    async def _start(self, session: Session, live: _Live) -> RunningSession:
        template = await self._db.templates.get(session.template_id)
        files = await self._workspaces.create(session.id, is_new=session.epoch == 0)
        await self._workspaces.restore(session.id)
        warm = await self._templates.warm_spec(template)
        if session.requested_dependencies and await self._needs_packages(session):
            await self._install_first(session)
        return await self._host.start(
            SessionSpec(
                id=session.id,
                warm=warm,
                workspace=files,
                packages_dir=self._workspaces.packages(session.id),
                mode=session.mode,
                limits=session.limits,
                network=session.network,
                env_vars=session.env_vars,
            )
        )

    async def _needs_packages(self, session: Session) -> bool:
        """Not if they are there already; they are not if this is another disk than they were installed on."""
        if session.install_status is InstallStatus.INSTALLING:
            return True
        packages = self._workspaces.packages(session.id)
        is_there = await asyncio.to_thread(lambda: packages.is_dir() and any(packages.iterdir()))
        return session.install_status is InstallStatus.COMPLETED and not is_there

    async def _install_first(self, session: Session) -> None:
        """Installs what a new session has asked for; whether it may fail is what the session says."""
        error = await self._install(
            session,
            session.requested_dependencies,
            session.python_package_index_url,
            session.install_timeout,
            allow_conflicts=True,
            is_first=True,
        )
        if error is not None and session.fail_on_dependency_error:
            raise error

    async def _install(
        self,
        session: Session,
        dependencies: tuple[Dependency, ...],
        index_url: str | None,
        timeout: float,
        allow_conflicts: bool,
        is_first: bool = False,
    ) -> InstallError | None:
        requested = {each.name.lower(): each for each in (*session.requested_dependencies, *dependencies)}
        changes: dict[str, Any] = {
            "install_status": InstallStatus.INSTALLING,
            "install_error": None,
            "install_started_at": now(),
            "install_completed_at": None,
            "requested_dependencies": tuple(requested.values()),
        }
        await self._db.sessions.change(session.id, expect=ALIVE, **changes)
        try:
            found = await self._host.install(
                dependencies,
                into=self._workspaces.packages(session.id),
                index_url=index_url,
                limits=session.limits,
                timeout=timeout,
                allow_conflicts=allow_conflicts,
            )
        except InstallError as error:
            await self._db.sessions.change(
                session.id,
                expect=ALIVE,
                install_status=InstallStatus.FAILED,
                install_error=str(error),
                install_completed_at=now(),
                installed_dependencies=() if is_first else session.installed_dependencies,
            )
            return error
        installed: dict[str, InstalledDependency] = {
            each.name.lower(): each for each in (*session.installed_dependencies, *found)
        }
        await self._db.sessions.change(
            session.id,
            expect=ALIVE,
            install_status=InstallStatus.COMPLETED,
            installed_dependencies=tuple(installed.values()),
            install_completed_at=now(),
        )
        return None

    # ---- coming to an end -----------------------------------------------------------------------------------------

    def _watch(self, session_id: str, live: _Live, running: RunningSession) -> None:
        task = asyncio.get_running_loop().create_task(self._watched(session_id, live, running))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _watched(self, session_id: str, live: _Live, running: RunningSession) -> None:
        """A sandbox that ends though nobody asked for it is replaced, unless variables were lost with it."""
        ending = await running.ended()
        if live.ending is not None or self._stopping:
            return
        live.running = None
        live.up.clear()
        await running.close()
        await self._save_denied(session_id, running)
        session = await self._db.sessions.get(session_id)
        live.short_lives = live.short_lives + 1 if time.monotonic() - live.started < _SHORT_LIFE else 0
        said = {"session_id": session_id, "reason": ending.reason.value, "detail": ending.detail}
        log.warning("a sandbox ended", extra=said)
        if session.mode is SessionMode.STATEFUL or live.short_lives >= _LIVES:
            return await self._end(session_id, live, SessionStatus.FAILED, *_why(ending))
        detail = f"{ending.detail}; it was given another sandbox, without what was in /tmp"
        await self._db.sessions.change(
            session_id, expect=ALIVE, status=SessionStatus.CREATING, reason=ending.reason, detail=detail
        )
        self._bring_up_soon(session_id, live)

    async def _give_up(self, session_id: str, live: _Live, reason: Reason, detail: str) -> None:
        if not self._stopping and live.ending is None:
            await to_the_end(
                self._end(session_id, live, SessionStatus.FAILED, reason, detail[-4000:], from_within=True)
            )

    async def _end(
        self,
        session_id: str,
        live: _Live,
        status: SessionStatus,
        reason: Reason,
        detail: str,
        *,
        from_within: bool = False,
    ) -> None:
        if live.ending is None:
            live.ending = status, reason, detail
        async with live.turn:
            if live.over.is_set():
                return
            if live.work is not None and not from_within and not live.work.done():
                live.work.cancel()
                await asyncio.wait([live.work])
            status, reason, detail = live.ending
            if self.dependents is not None:
                self.dependents.session_ends(session_id, reason, detail)
            if live.running is not None:
                await live.running.close()
                await self._save_denied(session_id, live.running)
                live.running = None
            if self.dependents is not None:
                await self.dependents.session_ended(session_id, reason, detail)
            await self._db.sessions.change(
                session_id, expect=ALIVE, status=status, reason=reason, detail=detail, completed_at=now()
            )
            live.over.set()
            self._live.pop(session_id, None)

    async def _save_denied(self, session_id: str, running: RunningSession) -> None:
        denied = dict(running.denied_hosts)
        if denied:
            session = await self._db.sessions.get(session_id)
            for host, times in session.denied_hosts.items():
                denied[host] = denied.get(host, 0) + times
            await self._db.sessions.change(session_id, denied_hosts=dict(sorted(denied.items())[:1000]))

    async def _alive(self, principal: Principal, session_id: str) -> Session:
        session = await self.get(principal, session_id)
        if session.status not in ALIVE or session.id not in self._live:
            raise ConflictError(f"the session {session_id!r} is {session.status.value}")
        return session

    def _as_it_is(self, session: Session) -> Session:
        """With what is not in the database yet."""
        live = self._live.get(session.id)
        if live is None or session.status not in ALIVE:
            return session
        denied: Mapping[str, int] = session.denied_hosts
        if live.running is not None and live.running.denied_hosts:
            merged = dict(denied)
            for host, times in live.running.denied_hosts.items():
                merged[host] = merged.get(host, 0) + times
            denied = merged
        return replace(
            session,
            last_activity_at=max(session.last_activity_at, live.last_activity_at),
            expires_at=live.expires_at,
            denied_hosts=denied,
        )


def _why(ending: Ending) -> tuple[Reason, str]:
    return ending.reason, f"{ending.detail}; its variables went with it"
