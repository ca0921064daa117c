"""Sessions on this machine. Linux only. Floor: control."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from weakref import WeakValueDictionary

from ipybox.control.errors import InstallError
from ipybox.control.inside import agent
from ipybox.control.inside.places import PACKAGES, REPLIES, REQUESTS, SESSIONS, TEMPLATE, WORKSPACE
from ipybox.control.records import Dependency, InstalledDependency, Json, ResourceLimits
from ipybox.control.runtime import site
from ipybox.control.runtime.host import Ending, SessionSpec, WarmSpec
from ipybox.control.runtime.install import Installation, install, source
from ipybox.control.runtime.processors import Processors
from ipybox.control.runtime.session import LocalSession
from ipybox.control.runtime.site import Site
from ipybox.control.runtime.walls import Walls, warm_settings
from ipybox.control.states import Reason, SessionMode
from ipybox.errors import ProgramStartError
from ipybox.exit_status import ExitStatus
from ipybox.process import bootstrap
from ipybox.process.teardown import to_the_end
from ipybox.sandbox.egress import EgressEvent
from ipybox.sandbox.launcher import Program
from ipybox.sandbox.packages import site_directories
from ipybox.sandbox.program import SandboxedProgram
from ipybox.sandbox.python_paths import site_packages
from ipybox.sandbox.supervisor import Supervisor

LINGER_SECONDS = 10.0
"""How long a wall is kept that no session uses, where it is not kept warm."""
_READY_SECONDS = 30.0
_STARTS_PER_PROCESSOR = 2


class LocalHost:
    """This machine as a place for sessions; see :class:`SessionHost`. An async context manager.

    Processors are given out as whole ones: a session runs on as many as its share, rounded up, and can't choose
    others. A part of one is not enforced.

    When a session uses more memory than it may, the execution that uses most is ended; if none can be found, the
    session's sandbox. What lies in its ``/tmp``, its home and ``/dev/shm`` is in memory as well, has the size of
    ``disk_bytes`` each (``/dev/shm``: half of the memory at most), and does not count for this.

    Args:
        root: The directory that all workspaces and packages are below; exists.
        max_output_bytes: Bytes of each output of an execution, of all that it shows, and of its return value.
        default_index: Where packages come from if nothing else is said: the URL of an index, which may have a private
            address, or a ``file://`` URL of a directory with wheels. None is PyPI. Other indexes have to be public.
        on_denied: Called for each connection that a session wants and is denied.
    """

    def __init__(
        self,
        root: Path,
        *,
        max_output_bytes: int,
        default_index: str | None = None,
        on_denied: Callable[[], None] = lambda: None,
    ) -> None:
        self._root, self._output_bytes, self._default_index = root, max_output_bytes, default_index
        self._on_denied = on_denied
        self._installing: WeakValueDictionary[Path, asyncio.Lock] = WeakValueDictionary()
        self._processors = Processors()
        self._starts = asyncio.Semaphore(_STARTS_PER_PROCESSOR * (os.cpu_count() or 1))
        self._sessions: dict[str, LocalSession] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._site: Site | None = None
        self._walls: Walls | None = None

    @property
    def node(self) -> str:
        """Its name."""
        return socket.gethostname()

    async def __aenter__(self) -> Self:
        self._site = await asyncio.to_thread(Site, self._root)
        self._walls = Walls(self._site, self._on_egress, LINGER_SECONDS)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await to_the_end(self._close())

    async def _close(self) -> None:
        for session in list(self._sessions.values()):
            session.stop(Ending(Reason.SERVER_STOPPED, "the server was stopped"))
        if self._walls is not None:
            await self._walls.close()
        await asyncio.gather(*(session.close() for session in list(self._sessions.values())))
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _open(self) -> tuple[Site, Walls]:
        if self._site is None or self._walls is None:
            raise RuntimeError("the host was not entered")
        return self._site, self._walls

    async def warm(self, spec: WarmSpec) -> None:
        """Has the wall and the warm Python ready, and keeps them until :meth:`cool`; see :class:`SessionHost`."""
        await self._open()[1].keep(spec)

    async def cool(self, spec: WarmSpec) -> None:
        """Keeps it no longer than sessions need it."""
        await self._open()[1].drop(spec)

    async def start(self, spec: SessionSpec) -> LocalSession:
        """Starts a session's sandbox, and returns when it can run code; see :class:`SessionHost`."""
        here, walls = self._open()
        binds = [(here.inside(spec.workspace), WORKSPACE, True), (here.inside(spec.packages_dir), PACKAGES, False)]
        supervisor = await walls.take(spec.warm)  # which may take its time, and must not hold up other templates
        container_id = f"box-{secrets.token_hex(8)}"
        cpus = self._processors.take(spec.limits.cpu_cores)
        done = partial(self._done, container_id, spec.warm, cpus)
        try:
            await self._starts.acquire()
        except BaseException:
            await to_the_end(done())
            raise
        try:
            try:
                session = await self._start(supervisor, spec, container_id, self._program(spec, binds, cpus), done)
            except BaseException:
                await to_the_end(done())
                raise
            try:
                await self._wait_ready(session)
            except BaseException:
                await to_the_end(session.close())
                raise
        finally:
            self._starts.release()
        return session

    async def _start(
        self,
        supervisor: Supervisor,
        spec: SessionSpec,
        container_id: str,
        program: Program,
        done: Callable[[], Any],
    ) -> LocalSession:
        fds: list[int] = []
        try:
            theirs_in, requests = os.pipe()
            fds += [theirs_in, requests]
            replies, theirs_out = os.pipe()
            fds += [replies, theirs_out]
            own = site.policy(spec.limits, spec.network)
            started = await supervisor.start(program, [theirs_in, theirs_out], container_id, own=own)
        except BaseException:
            for fd in fds:
                os.close(fd)
            raise
        os.close(theirs_in)
        os.close(theirs_out)
        finish = partial(_finish, supervisor, started, container_id, done)
        session = LocalSession(spec, container_id, started, finish, (requests, replies), self._output_bytes)
        self._sessions[container_id] = session
        await asyncio.sleep(0)  # a task that has not begun cleans nothing up when its loop ends
        return session

    async def _wait_ready(self, session: LocalSession) -> None:
        try:
            async with asyncio.timeout(_READY_SECONDS):
                await session.ready()
        except TimeoutError:
            raise ProgramStartError(f"its agent was not up within {_READY_SECONDS:g} s") from None
        if not session.is_ready:
            raise ProgramStartError((await session.ended()).detail)

    def _program(self, spec: SessionSpec, binds: list[tuple[str, str, bool]], cpus: tuple[int, ...]) -> Program:
        settings = agent.AgentSettings(
            processes=min(map(site.code_processes, (spec.limits, spec.warm.limits))),
            output_bytes=self._output_bytes,
            interpreter=spec.mode is SessionMode.STATEFUL,
        )
        command = bootstrap.command(
            sys.executable,
            agent.MODULE,
            warm_settings(spec.warm.preload),
            *(site_directories(TEMPLATE) if spec.warm.packages_dir is not None else ()),
            sites=site_packages(),
            ignore_environment=False,
        )
        return Program(
            argv=command,
            env={**site.environment(spec), agent.SETTINGS: settings.to_json()},
            cwd=WORKSPACE,
            fds=(REQUESTS, REPLIES),
            binds=binds,
            hidden=(SESSIONS,),
            cpus=cpus,
            warm=site.can_be_forked(spec),
        )

    async def _done(self, container_id: str, spec: WarmSpec, cpus: tuple[int, ...]) -> None:
        self._sessions.pop(container_id, None)
        self._processors.give_back(cpus)
        await self._open()[1].give_back(spec)

    async def _on_egress(self, event: EgressEvent) -> None:
        session = self._sessions.get(event.tag)
        if session is not None and not event.allowed:
            session.denied(event.host)
            self._on_denied()

    async def install(
        self,
        dependencies: Sequence[Dependency],
        *,
        into: Path,
        index_url: str | None,
        limits: ResourceLimits,
        timeout: float,
        allow_conflicts: bool = False,
        template: Path | None = None,
    ) -> tuple[InstalledDependency, ...]:
        """Installs packages in a sandbox that reaches the index only; see :class:`SessionHost`."""
        here, _ = self._open()
        try:
            packages, is_trusted = source(dependencies, index_url, self._default_index)
        except (ValueError, OSError) as error:
            raise InstallError(tuple(each.requirement for each in dependencies), str(error)) from error
        wanted = Installation(
            dependencies=tuple(dependencies),
            into=into,
            source=packages,
            is_trusted=is_trusted,
            template=template,
            limits=limits,
            timeout=timeout,
            allow_conflicts=allow_conflicts,
        )
        async with self._installing.setdefault(into, asyncio.Lock()):
            return await install(here, wanted)

    def health(self) -> Mapping[str, Json]:
        """What there is to say about it: sandbox tier, walls, sessions, memory."""
        walls = self._walls.facts() if self._walls is not None else []
        tiers = sorted({str(wall["tier"]) for wall in walls})
        return {
            "sandbox": tiers[0] if tiers else "unknown until the first wall is built",
            "walls": walls,
            "sessions": len(self._sessions),
            "executions": sum(session.running for session in self._sessions.values()),
            "available_memory_bytes": os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        }


async def _finish(
    supervisor: Supervisor,
    started: SandboxedProgram,
    tag: str,
    done: Callable[[], Any],
    relieve: Callable[[int], bool],
) -> ExitStatus:
    try:
        return await supervisor.finish(started, tag, relieve)
    finally:
        await to_the_end(done())
