"""All services of one server, from opening to closing. Floor: control."""

from __future__ import annotations

import asyncio
import logging
import platform
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from datetime import timedelta
from types import TracebackType
from typing import Any, Self

from ipybox import __version__
from ipybox.control.access.audit import AuditLog
from ipybox.control.access.keys import KeyRing
from ipybox.control.access.metrics import ServerMetrics
from ipybox.control.access.tracing import Tracing, tracing_of
from ipybox.control.db.database import Database
from ipybox.control.errors import ControlError, RecordNotFoundError, StorageError
from ipybox.control.records import Json
from ipybox.control.runtime.local import LocalHost
from ipybox.control.service.executions import Executions
from ipybox.control.service.files import Files
from ipybox.control.service.ids import now
from ipybox.control.service.recovery import Found, Recovery
from ipybox.control.service.sessions import Sessions
from ipybox.control.service.state_directory import StateDirectory
from ipybox.control.service.template_packages import TemplatePackages
from ipybox.control.service.templates import Templates
from ipybox.control.settings import ServerSettings
from ipybox.control.storage.copies import Copies
from ipybox.control.storage.workspaces import Workspaces
from ipybox.errors import IpyboxError

log = logging.getLogger("ipybox.control")

_EXPIRE_SECONDS = 1.0
_FORGET_SECONDS = 60.0
_KEEP_ANSWERS = timedelta(days=1)


class ControlPlane:
    """Opens everything that a server needs, brings it up to date, and looks after it. An async context manager.

    Args:
        settings: What it is started with.
        metrics: Where it counts.

    Raises:
        ServerSettingsError: The settings can't be followed here.
        StateInUseError: Another server works with the state directory.
        SandboxUnavailableError: There can be no sandbox here, and nothing is run without one.
    """

    db: Database
    host: LocalHost
    workspaces: Workspaces
    templates: Templates
    sessions: Sessions
    executions: Executions
    files: Files
    keys: KeyRing
    audit: AuditLog

    def __init__(self, settings: ServerSettings, metrics: ServerMetrics | None = None) -> None:
        self.settings = settings
        self.metrics = metrics or ServerMetrics(__version__, python=platform.python_version())
        self._draining: asyncio.Future[None] | None = None
        self._began = time.monotonic()
        self._stack = AsyncExitStack()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        settings = self.settings
        try:
            state = self._stack.enter_context(StateDirectory(settings.state_dir))
            tracing = await self._trace()
            self.db = await self._stack.enter_async_context(Database(settings.database))
            self.audit = await self._stack.enter_async_context(AuditLog(self.db.audit))
            self.keys = await self._stack.enter_async_context(KeyRing(self.db.keys))
            copies = None
            if settings.workspace_url:
                copies = await self._stack.enter_async_context(
                    Copies(
                        settings.workspace_url,
                        endpoint=settings.s3_endpoint,
                        region=settings.s3_region,
                        allow_http=settings.s3_allow_http,
                    )
                )
            # Files belong to this process's user; in sandboxes, a mount shows them as their own user's.
            self.workspaces = await self._stack.enter_async_context(
                Workspaces(state.workspaces, uid=None, min_free_bytes=settings.min_free_bytes, copies=copies)
            )
            self.copies = copies
            self.host = await self._stack.enter_async_context(
                LocalHost(
                    state.root,
                    max_output_bytes=settings.max_output_bytes,
                    default_index=settings.package_index or None,
                    on_denied=self.metrics.denied_hosts.inc,
                )
            )
            packages = TemplatePackages(self.db, self.host, state.packages, state.node)
            self.templates = Templates(self.db, self.host, packages)
            self._stack.push_async_callback(self.templates.close)
            self.sessions = Sessions(
                settings, self.db, self.host, self.workspaces, self.templates, self.metrics, state.node, tracing
            )
            self._stack.push_async_callback(self.sessions.close)
            self.executions = Executions(settings, self.db, self.sessions, self.workspaces, self.metrics, tracing)
            self.sessions.dependents = self.executions
            self._stack.push_async_callback(self._drain)
            self.files = Files(settings, self.sessions, self.workspaces)
            self.recovery = Recovery(self.db, self.sessions, self.executions, self.workspaces, packages)
            await self.templates.open(settings.warm)
            await self.recovery.run()
            self._stack.push_async_callback(self._stop_tasks)
            self._repeat(self._look_after, _EXPIRE_SECONDS)
            self._repeat(self._forget, _FORGET_SECONDS)
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    @property
    def uptime(self) -> float:
        """Seconds since it was opened."""
        return time.monotonic() - self._began

    @property
    def draining(self) -> bool:
        """Whether it is about to stop."""
        return self._draining is not None

    def begin_to_stop(self) -> None:
        """Takes nothing new from now on; what runs goes on for ``drain_timeout`` seconds."""
        if self._draining is None:
            self.sessions.stop_taking()
            self._draining = asyncio.ensure_future(self.executions.drain(self.settings.drain_timeout))

    def hurry(self) -> None:
        """Does not wait for what runs any more."""
        self.executions.hurry()

    async def health(self) -> Mapping[str, Json]:
        """Looks at everything that it depends on, just now."""
        checks: dict[str, Callable[[], Awaitable[float]]] = {"database": self.db.check}
        if self.copies is not None:
            checks["storage"] = self.copies.check
        found: dict[str, Any] = {}
        for name, check in checks.items():
            try:
                async with asyncio.timeout(5.0):
                    found[name] = {"status": "healthy", "seconds": round(await check(), 6)}
            except (ControlError, OSError, TimeoutError) as error:
                found[name] = {"status": "unhealthy", "detail": str(error) or "it did not answer within 5 s"}
        found["database"]["dialect"] = self.db.dialect
        free = await self.workspaces.free_bytes()
        disk = "healthy" if free >= self.settings.min_free_bytes else "unhealthy"
        found.setdefault("storage", {"status": disk})
        found["storage"].update(kind="s3" if self.copies is not None else "disk", free_bytes=free)
        if disk == "unhealthy":
            found["storage"].update(status=disk, detail="the disk is full but for the reserve")
        node = {"status": "healthy", "name": self.sessions.node, **self.host.health()}
        found["runtime_nodes"] = [node]
        if self.templates.failures:
            found["templates"] = {"status": "degraded", "failures": dict(self.templates.failures)}
        return found

    async def synchronise(self) -> Found:
        """Compares what should be with what is, as at the start."""
        return await self.recovery.run()

    async def _trace(self) -> Tracing:
        # In threads: it is loaded only where it is wanted, and its end waits for whoever collects.
        tracing = await asyncio.to_thread(tracing_of, self.settings)
        self._stack.push_async_callback(asyncio.to_thread, tracing.close)
        return tracing

    async def _drain(self) -> None:
        self.begin_to_stop()
        assert self._draining is not None
        await self._draining

    async def _look_after(self) -> None:
        """Every second."""
        await self.sessions.expire()
        if self.sessions.in_doubt or self.executions.in_doubt:
            self.sessions.in_doubt = self.executions.in_doubt = False
            try:
                await self.recovery.run()
            except BaseException:
                self.sessions.in_doubt = True
                raise

    async def _forget(self) -> None:
        """Every minute."""
        await self.recovery.run()  # a database that was slow may have kept what nobody was told of
        before = now() - timedelta(seconds=self.settings.keep_ended_sessions)
        for session_id in await self.db.sessions.ended_before(before):
            try:
                await self.sessions.forget(session_id)
            except RecordNotFoundError:  # another server has forgotten it
                continue
            except (StorageError, OSError) as error:  # it is tried again, and others are not to wait for it
                log.warning("a session is not forgotten", extra={"session_id": session_id, "reason": str(error)})
        await self.db.answers.forget_before(now() - _KEEP_ANSWERS)
        while await self.db.audit.forget_before(now() - timedelta(seconds=self.settings.keep_audit)):
            pass

    def _repeat(self, work: Callable[[], Awaitable[None]], seconds: float) -> None:
        async def forever() -> None:
            while True:
                await asyncio.sleep(seconds)
                try:
                    await work()
                except (IpyboxError, OSError) as error:
                    log.warning("%s failed: %s", work.__name__, error)
                except Exception:
                    log.exception("%s failed", work.__name__)

        self._tasks.add(asyncio.get_running_loop().create_task(forever()))

    async def _stop_tasks(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)

    @property
    def version(self) -> str:
        """Of this program."""
        return __version__
