"""Sessions: from their making to their end. Floor: control."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import Any, Protocol

from ipybox.control.access.metrics import ServerMetrics
from ipybox.control.access.scopes import Principal
from ipybox.control.access.tracing import Tracing
from ipybox.control.db.database import Database
from ipybox.control.db.sessions import SessionFilter
from ipybox.control.errors import (
    ConflictError,
    ControlError,
    InstallError,
    NoCapacityError,
    RecordNotFoundError,
    RequestRefusedError,
    StorageError,
    StorageFullError,
)
from ipybox.control.records import Dependency, Page, Session
from ipybox.control.runtime.host import Ending, RunningSession, SessionHost, SessionSpec
from ipybox.control.service import bounds, ids
from ipybox.control.service.clock import SteadyClock
from ipybox.control.service.ids import now
from ipybox.control.service.installations import Installations
from ipybox.control.service.live import Live
from ipybox.control.service.requests import NewSession
from ipybox.control.service.retries import Retries
from ipybox.control.service.templates import Templates, refuse_runtime
from ipybox.control.settings import ServerSettings
from ipybox.control.states import InstallStatus, Reason, SessionMode, SessionStatus
from ipybox.control.storage.workspaces import Workspaces
from ipybox.errors import IpyboxError, ProgramStartError
from ipybox.process.teardown import to_the_end

log = logging.getLogger("ipybox.control")

ALIVE = (SessionStatus.CREATING, SessionStatus.RUNNING)
_SHORT_LIFE = 2.0
"""Seconds; a sandbox that ends sooner than that after its start would only do it again."""
_LIVES = 3
_STOP_SECONDS = 2.0
_REASONS = {InstallError: Reason.DEPENDENCIES, StorageFullError: Reason.DISK_FULL, StorageError: Reason.STORAGE_FAILED}


class Dependents(Protocol):
    """Who has to know when a session comes to its end."""

    def session_ends(self, session_id: str, reason: Reason, detail: str) -> None:
        """Its sandbox is about to be ended, with what runs in it."""

    async def session_ended(self, session_id: str, reason: Reason, detail: str) -> None:
        """It will run no more code."""

    def is_busy(self, session_id: str) -> bool:
        """Whether code runs in it, or waits."""


class Sessions:
    """Makes, keeps and ends them.

    Args:
        db: What should be.
        host: What is.
        workspaces: Their files.
        node: This server's name, for sessions that are its own.
        tracing: Where spans of their starts are made.
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
        tracing: Tracing,
    ) -> None:
        self._settings, self._db, self._host, self._workspaces = settings, db, host, workspaces
        self._templates, self._metrics, self.node, self._tracing = templates, metrics, node, tracing
        self.retries, self._clock = Retries(), SteadyClock()
        self._installations = Installations(db, host, workspaces, self.retries)
        self._live: dict[str, Live] = {}
        self._making: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = False
        self.dependents: Dependents | None = None
        self.in_doubt = False
        """Whether the database may have one that this server does not know of: the answer to a commit was lost."""

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
            template=replace(template, default_env_vars={}),  # of which it has its own
            mode=asked.mode,
            status=SessionStatus.CREATING,
            limits=bounds.limits_within(asked, template),
            env_vars={**template.default_env_vars, **asked.env_vars},
            event=asked.event,
            timeout=timeout,
            tags=asked.tags,
            network=bounds.network_within(asked.network, template.network),
            runtime_type=template.runtime_type,
            python_package_index_url=asked.python_package_index_url or template.package_index_url,
            requested_dependencies=asked.dependencies,
            install_status=InstallStatus.INSTALLING if asked.dependencies else InstallStatus.COMPLETED,
            install_timeout=asked.install_timeout,
            fail_on_dependency_error=asked.fail_on_dependency_error,
            allow_version_conflicts=asked.allow_version_conflicts,
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
            there = await self._db.sessions.get(session.id)
            if there.owner != principal.owner:  # who knew what would be asked for, and took its name
                raise
            return self._as_it_is(there)
        finally:
            self._making.discard(session.id)
        return session

    async def _add(self, session: Session, per_owner: int) -> None:
        """Not to be left half done: who is kept is looked after."""
        try:
            await self._db.sessions.add(session, per_owner=per_owner, in_all=self._settings.max_sessions)
        except NoCapacityError:
            self.in_doubt = True
            raise
        self._begin(session, is_new=True)

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
        live = self._live[session.id]
        live.renew(timedelta(seconds=min(timeout or session.timeout, self._settings.max_timeout)))
        await self._save_use(session.id, live)
        return await self.get(principal, session_id)

    async def terminate(self, principal: Principal, session_id: str) -> Session:
        """Ends it and keeps the record; does nothing to one that has ended."""
        session = await self.get(principal, session_id)
        if session.status in ALIVE:
            self.refuse_elsewhere(session)
            await self.end(session.id, SessionStatus.TERMINATED, Reason.REQUESTED, "somebody asked for its end")
        return await self.get(principal, session_id)

    async def remove(self, principal: Principal, session_id: str) -> None:
        """Ends it, and forgets it with its executions and files."""
        session = await self.get(principal, session_id)
        if session.status in ALIVE:
            self.refuse_elsewhere(session)
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
        if live.is_installing or session.install_status is InstallStatus.INSTALLING:
            raise ConflictError(f"an installation is going on in the session {session_id!r}")
        installation = live.installation = asyncio.get_running_loop().create_task(
            self._installations.install(
                session,
                dependencies,
                index_url or session.python_package_index_url,
                timeout,
                allow_conflicts=allow_conflicts,
                template=live.template_packages,
            )
        )
        self._keep(installation)
        await asyncio.wait([installation])  # it goes on if nobody waits for it any more
        if installation.cancelled():
            raise ConflictError(f"the session {session_id!r} ended while packages were installed")
        installation.result()
        self.touch(session.id)
        return await self.get(principal, session_id)

    # ---- for the other services -----------------------------------------------------------------------------------

    async def running(self, session_id: str) -> RunningSession | None:
        """Its sandbox, as soon as there is one; None when there will be none any more."""
        live = self._live.get(session_id)
        while live is not None and live.ending is None and not live.over.is_set():
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
            live.touch()

    def use(self, session: Session) -> None:
        """Counts as use of one that is to take code, or a file.

        Raises:
            ConflictError: It takes nothing any more.
        """
        live = self._live.get(session.id)
        if session.status in ALIVE and live is not None and live.ending is None:
            return live.touch()
        what, why = session.status.value, session.detail
        if session.status in ALIVE:
            self.refuse_elsewhere(session)
            what, why = "about to end", live.ending[2] if live is not None and live.ending is not None else None
        raise ConflictError(f"the session {session.id!r} is {what}" + (f": {why}" if why else ""))

    def refuse_elsewhere(self, session: Session) -> None:
        """Raises :class:`ConflictError` for a session that another server of the same database looks after."""
        if session.runtime_node not in (None, self.node):
            raise ConflictError(f"the session {session.id!r} is on another server, {session.runtime_node}")

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
        live.ending = live.ending or (status, reason, detail)
        await to_the_end(self._end(session_id, live))

    async def forget(self, session_id: str) -> None:
        """Removes an ended session with all that it left."""
        await self._workspaces.remove(session_id)
        await self._db.sessions.remove(session_id)

    def resume(self, session: Session) -> None:
        """Looks after a session that the database says is alive, and gives it a sandbox."""
        self._begin(session)

    async def expire(self) -> None:
        """Ends those whose time is over, and writes down when the others were used."""
        at = self._clock.moment()
        lifetime = timedelta(seconds=self._settings.max_lifetime)
        for session_id, live in list(self._live.items()):
            if live.ending is not None:
                continue
            if live.is_installing or (self.dependents is not None and self.dependents.is_busy(session_id)):
                live.touch()
            if at >= live.created + lifetime:
                text = f"it was there for {lifetime.total_seconds():g} s, which is the most"
                self._end_soon(session_id, live, SessionStatus.TIMEOUT, Reason.LIFETIME, text)
            elif at >= live.until:
                seconds = (live.expires_at - live.last_activity_at).total_seconds()  # it may have been renewed for less
                text = f"it was not used for {seconds:g} s"
                self._end_soon(session_id, live, SessionStatus.TIMEOUT, Reason.IDLE, text)
            elif live.until != live.saved:
                await self._save_use(session_id, live)

    async def _save_use(self, session_id: str, live: Live) -> None:
        until = live.until
        if not await self._db.sessions.touch(session_id, live.last_activity_at, live.expires_at):
            until = live.until  # somebody was faster, with what is as new; or the wall clock was set back
            with suppress(RecordNotFoundError):
                await self._db.sessions.change(
                    session_id, expect=ALIVE, last_activity_at=live.last_activity_at, expires_at=live.expires_at
                )
        live.saved = until

    async def close(self) -> None:
        """Leaves all of them as they are to be found by the next server, and ends their sandboxes."""
        self._stopping = True
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_STOP_SECONDS)
        left = [asyncio.ensure_future(self._leave(*each)) for each in self._live.items()]
        if left:
            await asyncio.wait(left, timeout=_STOP_SECONDS)
        self.retries.give_up()  # the database may be gone
        if under_way := [*left, *self._tasks]:
            await asyncio.wait(under_way)
        for each in left:
            if each.exception() is not None:
                log.warning("a session is left as it is written down: %s", each.exception())
        self._live.clear()

    async def _leave(self, session_id: str, live: Live) -> None:
        """Ends a sandbox, and has the next server find a session as it is then."""
        if live.mode is SessionMode.STATEFUL and (await self._db.sessions.get(session_id)).epoch > 0:
            text = "the server was stopped, and the variables went with it"
            live.ending = live.ending or (SessionStatus.FAILED, Reason.SERVER_STOPPED, text)
            return await self._end(session_id, live)
        if live.running is not None:
            await live.running.close()
            await self._save_denied(session_id, live.running)
        await self._save_use(session_id, live)

    # ---- coming up ------------------------------------------------------------------------------------------------

    def _refuse_when_stopping(self) -> None:
        if self._stopping:
            raise NoCapacityError("the server is about to stop", retry_after=10.0)

    def stop_taking(self) -> None:
        """No new ones from now on."""
        self._stopping = True

    def _begin(self, session: Session, *, is_new: bool = False) -> None:
        longest = timedelta(seconds=self._settings.max_timeout)
        live = self._live[session.id] = Live(session, self._clock, longest, is_new)
        self._bring_up_soon(session.id, live)

    def _bring_up_soon(self, session_id: str, live: Live) -> None:
        live.work = asyncio.get_running_loop().create_task(self._bring_up_traced(session_id, live))
        self._keep(live.work)

    def _keep(self, task: asyncio.Task[Any]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _bring_up_traced(self, session_id: str, live: Live) -> None:
        facts = {"session.id": session_id, "mode": live.mode.value}
        with self._tracing.span("session.create", facts, is_first=True):
            await self._bring_up(session_id, live)

    async def _bring_up(self, session_id: str, live: Live) -> None:
        began = time.monotonic()
        try:
            session = await self.retries.until_taken(
                lambda: self._db.sessions.get(session_id), f"the start of {session_id}"
            )
            running = await self._start(session, live)
        except (IpyboxError, OSError) as error:
            is_sudden = isinstance(error, ProgramStartError) and time.monotonic() - began < _SHORT_LIFE
            if is_sudden and self._goes_on(live) and live.short_lives + 1 < _LIVES:  # its wall may have fallen
                live.short_lives += 1
                log.warning("a sandbox did not start", extra={"session_id": session_id, "detail": str(error)})
                return self._bring_up_soon(session_id, live)
            reason = next((why for kind, why in _REASONS.items() if isinstance(error, kind)), Reason.START_FAILED)
            log.warning(
                "a session failed", extra={"session_id": session_id, "reason": reason.value, "detail": str(error)}
            )
            return self._give_up(session_id, live, reason, str(error))
        except Exception as error:
            log.exception("a session failed", extra={"session_id": session_id})
            return self._give_up(session_id, live, Reason.START_FAILED, f"{type(error).__name__}: {error}")
        facts: dict[str, Any] = {
            "container_id": running.container_id,
            "epoch": session.epoch + 1,
            "runtime_node": self.node,
            "started_at": session.started_at or now(),
        }
        try:
            changed = await self.retries.until_taken(
                lambda: self._db.sessions.change(
                    session_id, expect=(SessionStatus.CREATING,), status=SessionStatus.RUNNING, **facts
                ),
                f"the start of {session_id}",
            )
            if changed is None and live.ending is None:  # it says so already: the answer to the commit was lost
                changed = await self.retries.until_taken(
                    lambda: self._db.sessions.change(session_id, expect=(SessionStatus.RUNNING,), **facts),
                    f"the start of {session_id}",
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
        self._tracing.note("status", SessionStatus.RUNNING.value)
        self._watch(session_id, live, running)

    async def _start(self, session: Session, live: Live) -> RunningSession:
        template = session.template
        if template is None:
            template = await self.retries.until_taken(
                lambda: self._db.templates.get(session.template_id), f"the start of {session.id}"
            )
        self._tracing.note("template.id", template.id)
        with self._tracing.span("session.place"):
            is_new, live.is_new = live.is_new, False
            files = await self._workspaces.create(session.id, is_new=is_new)
            if not is_new:  # there may be files of it elsewhere, though it never had a sandbox
                await self._workspaces.restore(session.id)
            warm = await self._templates.warm_spec(template)
            live.template_packages = warm.packages_dir
            await self._installations.of_new(session, warm.packages_dir)
        spec = SessionSpec(
            id=session.id,
            warm=warm,
            workspace=files,
            packages_dir=self._workspaces.packages(session.id),
            mode=session.mode,
            limits=session.limits,
            network=session.network,
            env_vars=session.env_vars,
        )
        with self._tracing.span("session.start"):
            return await self._host.start(spec)

    # ---- coming to an end -----------------------------------------------------------------------------------------

    def _watch(self, session_id: str, live: Live, running: RunningSession) -> None:
        self._keep(asyncio.get_running_loop().create_task(self._watched(session_id, live, running)))

    async def _watched(self, session_id: str, live: Live, running: RunningSession) -> None:
        """A sandbox that ends though nobody asked for it is replaced, unless variables were lost with it."""
        ending = await running.ended()
        if not self._goes_on(live):
            return
        live.running = None
        live.up.clear()
        live.short_lives = live.short_lives + 1 if time.monotonic() - live.started < _SHORT_LIFE else 0
        said = {"session_id": session_id, "reason": ending.reason.value, "detail": ending.detail}
        log.warning("a sandbox ended", extra=said)
        if live.mode is SessionMode.STATEFUL or live.short_lives >= _LIVES:
            return self._end_soon(session_id, live, SessionStatus.FAILED, *_why(ending, live.mode))
        await running.close()
        await self._save_denied(session_id, running)
        detail = f"{ending.detail}; it was given another sandbox, without what was in /tmp"
        with suppress(RecordNotFoundError):
            await self.retries.until_taken(
                lambda: self._db.sessions.change(
                    session_id,
                    expect=(SessionStatus.RUNNING,),
                    status=SessionStatus.CREATING,
                    reason=ending.reason,
                    detail=detail,
                ),
                f"the end of a sandbox of {session_id}",
            )
        if self._goes_on(live):
            self._bring_up_soon(session_id, live)

    def _goes_on(self, live: Live) -> bool:
        return live.ending is None and not self._stopping

    def _give_up(self, session_id: str, live: Live, reason: Reason, detail: str) -> None:
        self._tracing.note("status", SessionStatus.FAILED.value)
        if self._goes_on(live):
            self._end_soon(session_id, live, SessionStatus.FAILED, reason, detail[-4000:])

    def _end_soon(self, session_id: str, live: Live, status: SessionStatus, reason: Reason, detail: str) -> None:
        """Not by who says so: its end waits for all that is under way in it."""
        live.ending = live.ending or (status, reason, detail)
        self._keep(asyncio.get_running_loop().create_task(to_the_end(self._end(session_id, live))))

    async def _end(self, session_id: str, live: Live) -> None:
        assert live.ending is not None
        status, reason, detail = live.ending
        async with live.turn:
            if live.over.is_set():
                return
            for task in (live.work, live.installation):
                if task is not None and not task.done():
                    task.cancel()
                    await asyncio.wait([task])
                    await self._installations.call_off(session_id)
            if self.dependents is not None:
                self.dependents.session_ends(session_id, reason, detail)
            if live.running is not None:
                await live.running.close()
                await self._save_denied(session_id, live.running)
                live.running = None
            if self.dependents is not None:
                await self.dependents.session_ended(session_id, reason, detail)
            with suppress(RecordNotFoundError):
                await self.retries.until_taken(
                    lambda: self._db.sessions.change(
                        session_id, expect=ALIVE, status=status, reason=reason, detail=detail, completed_at=now()
                    ),
                    f"the end of {session_id}",
                )
            live.over.set()
            self._live.pop(session_id, None)

    async def _save_denied(self, session_id: str, running: RunningSession) -> None:
        denied = dict(running.denied_hosts)
        if not denied:
            return
        try:
            session = await self._db.sessions.get(session_id)
            for host, times in session.denied_hosts.items():
                denied[host] = denied.get(host, 0) + times
            await self._db.sessions.change(session_id, denied_hosts=dict(sorted(denied.items())[:1000]))
        except ControlError as error:
            log.warning("denied hosts are not written down", extra={"session_id": session_id, "reason": str(error)})

    async def _alive(self, principal: Principal, session_id: str) -> Session:
        session = await self.get(principal, session_id)
        self.use(session)
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
            last_activity_at=live.last_activity_at,
            expires_at=live.expires_at,
            denied_hosts=denied,
        )


def _why(ending: Ending, mode: SessionMode) -> tuple[Reason, str]:
    lost = "its variables went with it"
    return ending.reason, f"{ending.detail}; {lost if mode is SessionMode.STATEFUL else 'it does so each time'}"
