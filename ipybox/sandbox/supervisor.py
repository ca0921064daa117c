"""Programs behind walls, and what stands between them and the machine. Linux only. Floor: sandbox.

The supervisor is trusted and runs outside of every wall: it builds them, starts programs behind them, runs the egress
proxy, keeps memory limits, and says how programs ended. See ``supervisor_process`` for the process that it lives in.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from ipybox.errors import PolicyError, PreloadError, ProgramStartError, SandboxUnavailableError
from ipybox.exit_status import ExitStatus
from ipybox.process.teardown import to_the_end
from ipybox.sandbox import diagnosis
from ipybox.sandbox.audit import Audit
from ipybox.sandbox.hosts import HostRules
from ipybox.sandbox.launcher import PROXY_PORT, Program
from ipybox.sandbox.memory_guard import Guarded, MemoryGuard
from ipybox.sandbox.path_patterns import is_below
from ipybox.sandbox.placeholder_keeper import KeptPlaceholders
from ipybox.sandbox.placeholders import Placeholders
from ipybox.sandbox.policy import Limits, SandboxPolicy
from ipybox.sandbox.program import SandboxedProgram
from ipybox.sandbox.view import Mount, View
from ipybox.sandbox.wall import NestedWall, SeparateWalls, Wall, WallPlan

if TYPE_CHECKING:
    from ipybox.sandbox.egress import EgressEvent, EgressProxy

log = logging.getLogger("ipybox.sandbox")

_DATA_HEADROOM = 512 * 1024 * 1024
"""Room for the stacks of threads, which count as data though they are hardly used."""
_START_SECONDS = 30.0
_ABANDON_SECONDS = 5.0
_PATIENCE = 5
_PATIENCE_SECONDS = 0.1
_PROXIED = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


def proxy_environment(port: int) -> dict[str, str]:
    """How programs find the way out, on the loopback interface.

    All three are ``http://`` URLs, though the proxy speaks SOCKS as well: httpx needs an extra package for that.
    """
    url = f"http://127.0.0.1:{port}"
    named = {name: url for upper in _PROXIED for name in (upper, upper.lower())}
    return {**named, **dict.fromkeys(("NO_PROXY", "no_proxy"), "localhost,127.0.0.1,::1")}


class Supervisor:
    """Programs behind walls, and everything that they share. An async context manager.

    Args:
        policy: What they may touch.
        plan: How to build the wall.
        refresh: Looks again at what a program is to see. What the host has made or replaced since the last time is
            looked at before every start, as a mount covers the file that was there, not a new one of that name.
        learn: Whether hosts that are not allowed are let through and noted.
        kept: Whether what it makes in the file system is removed also when this process is killed.
    """

    def __init__(
        self,
        policy: SandboxPolicy,
        plan: WallPlan,
        *,
        refresh: Callable[[], View] | None = None,
        learn: bool = False,
        kept: bool = False,
    ) -> None:
        self.on_egress: Callable[[EgressEvent], Awaitable[None]] | None = None
        self._policy = policy
        self._plan = plan
        self._refresh = refresh
        self._guard = MemoryGuard()
        self._programs: dict[SandboxedProgram, Wall] = {}
        self._placeholders = KeptPlaceholders() if kept else Placeholders()
        self._audit: Audit | None = None
        self._proxy: EgressProxy | None = None
        self._wall: Wall | None = None
        self._identities: dict[str, tuple[int, int, int]] = {}
        self._retired: set[Wall] = set()
        self._renewing = asyncio.Lock()
        self._generation = 0
        self._closed = False
        self._tasks: set[asyncio.Task[None]] = set()
        if policy.network.allowed_domains or learn:
            from ipybox.sandbox.egress import EgressProxy  # most sandboxes have no network

            self._proxy = EgressProxy(policy.network, environment=os.environ, learn=learn, on_event=self._on_event)

    async def __aenter__(self) -> Supervisor:
        try:
            self._placeholders.make(self._plan.view.placeholders)
            if self._refresh is not None:
                self._plan = replace(self._plan, view=self._refresh())  # with the placeholders there
            self._identities = identities(self._plan.view)
            self._placeholders.join(self._identities)
            self._audit = Audit(self._plan.view.write_roots)
            self._wall = await self._build()
            self._keep_placeholders()
        except BaseException:
            await self.close()
            raise
        log.info("sandbox: %s", self._wall.name)
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    @property
    def tier(self) -> str:
        """How programs are kept apart."""
        return self._wall.name if self._wall is not None else "none"

    @property
    def cold(self) -> str | None:
        """Why programs that ask to be forked are executed; None when they are forked."""
        return self._wall.cold if self._wall is not None else None

    def _check_open(self) -> None:
        if self._closed:
            raise ProgramStartError("the sandbox was closed")

    async def start(
        self, program: Program, fds: Sequence[int], tag: str, *, own: SandboxPolicy | None = None
    ) -> SandboxedProgram:
        """Starts a program.

        Args:
            program: What to run; its limits and walls are set here.
            fds: What it inherits; closed by the caller.
            tag: Whose it is, for the proxy's events.
            own: Limits and hosts of this program below those of the policy; it gets no more than both allow.

        Raises:
            ProgramStartError: It did not start.
            PolicyError: A rule about hosts that can't be.
        """
        rules = HostRules.parse(own.network.allowed_domains, own.network.denied_domains) if own is not None else None
        wall = await self._current_wall()
        try:
            return await self._start(wall, program, fds, tag, own, rules)
        except ProgramStartError:
            self._check_open()
            if not wall.is_over:
                raise
        return await self._start(wall, program, fds, tag, own, rules)  # the wall died under our hands: a new one

    async def _start(
        self,
        wall: Wall,
        program: Program,
        fds: Sequence[int],
        tag: str,
        own: SandboxPolicy | None,
        rules: HostRules | None,
    ) -> SandboxedProgram:
        async def on_listener(listener: socket.socket) -> None:
            assert self._proxy is not None
            await self._proxy.listen(listener, tag, rules)

        generation = self._generation  # of this wall: nothing has been awaited since it was the current one
        confined = self.confined(program, own=own)
        launched = await wall.launch(confined, fds)
        sandboxed = SandboxedProgram(launched.lead, on_listener if self._proxy is not None else None, launched.why)
        self._programs[sandboxed] = wall
        sandboxed.generation = generation
        sandboxed.memory = memory_limit(_limits(self._policy, own))
        try:
            async with asyncio.timeout(_START_SECONDS):
                await sandboxed.started()
        except BaseException as error:
            await to_the_end(self._abandon(sandboxed))
            if isinstance(error, TimeoutError):
                raise ProgramStartError(f"it was not up within {_START_SECONDS:g} s") from None
            raise
        if wall.first is None and sandboxed.init_pidfd is not None:
            self._placeholders.outlive(sandboxed.init_pidfd)
        return sandboxed

    async def current(self) -> int:
        """Looks again at what a program is to see; returns a number that grows when that has changed.

        Raises:
            ProgramStartError: No program could be started now.
        """
        await self._current_wall()
        return self._generation

    async def _current_wall(self) -> Wall:
        self._check_open()
        assert self._wall is not None
        if self._refresh is None:
            return self._wall
        async with self._renewing:
            try:
                view = self._refresh()
                changed = (
                    view.mounts != self._plan.view.mounts or view.protected_links != self._plan.view.protected_links
                )
                replaced = sorted(self._identities.items() - identities(view).items())
                if changed or replaced:
                    await self._renew(view, [path for path, _ in replaced])
            except (PolicyError, PreloadError, SandboxUnavailableError, OSError) as error:
                raise ProgramStartError(f"what programs are to see is not what it was: {error}") from error
            return self._wall

    async def _renew(self, view: View, replaced: list[str]) -> None:
        """Builds another wall, for what the host has changed. Programs behind the old one stay there."""
        old = self._wall
        assert old is not None
        self._placeholders.make(view.placeholders)
        plan, found = replace(self._plan, view=view), identities(view)
        wall = type(old)(plan)
        try:
            await wall.open()
            await self._try(wall, view)
        except BaseException:
            await to_the_end(
                wall.close()
            )  # and what is known is still what was before: the next program is not to do without
            raise
        self._plan, self._identities, self._wall = plan, found, wall
        self._placeholders.join(found)
        self._generation += 1
        self._retired.add(old)
        self._keep_placeholders()
        if any(home is old for home in self._programs.values()):
            for path in replaced:
                log.warning("%s was replaced; for what runs in a sandbox already, it is an ordinary file now", path)
        self._close_retired()

    async def _abandon(self, sandboxed: SandboxedProgram) -> None:
        """Whatever its start had come to, nothing of it is left after this."""
        try:
            async with asyncio.timeout(_ABANDON_SECONDS):
                await sandboxed.abandon()
        except TimeoutError:
            log.warning("a program whose start was given up is still there after %g s", _ABANDON_SECONDS)
        sandboxed.close()
        self._forget(sandboxed)

    def _keep_placeholders(self) -> None:
        """They must not go before what they are in the way of. For those who make them after us, all of it again."""
        firsts = [wall.first for wall in (self._wall, *self._retired) if wall is not None]
        for pidfd in [*firsts, *(program.init_pidfd for program in self._programs)]:
            if pidfd is not None:
                self._placeholders.outlive(pidfd)

    def _forget(self, sandboxed: SandboxedProgram) -> None:
        self._programs.pop(sandboxed, None)
        self._close_retired()

    def _close_retired(self) -> None:
        for wall in [wall for wall in self._retired if wall not in self._programs.values()]:
            self._retired.discard(wall)
            task = asyncio.get_running_loop().create_task(wall.close())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def guard(self, pid: int, limit: int, on_excess: Callable[[int], None]) -> None:
        """Keeps a process that is not one of ours, and that starts none, within its memory."""
        self._guard.add(Guarded(pid, 0, limit, on_excess))

    async def finish(
        self, sandboxed: SandboxedProgram, tag: str, relieve: Callable[[int], bool] | None = None
    ) -> ExitStatus:
        """Waits for a program's end, keeping it within its memory meanwhile, and says how it ended.

        Args:
            sandboxed: The program.
            tag: What it was started with.
            relieve: Called with the bytes in use when they are too many. True says that something was done about it,
                or is being done, so the program is spared and looked at again.
        """
        verdict: ExitStatus | None = None

        def on_excess(used: int) -> None:
            nonlocal verdict
            if relieve is not None and relieve(used):
                return self._guard.add(guarded)
            limit = f"{used} bytes in use, the limit is {guarded.limit}"
            verdict = ExitStatus("memory", signal=signal.SIGKILL, detail=limit)
            sandboxed.kill()

        # No pid: it was over before anybody could look, and only its end is to be heard.
        guarded = Guarded(sandboxed.pid or 0, sandboxed.init_pid or 0, sandboxed.memory, on_excess)
        if sandboxed.init_pid is not None:
            self._guard.add(guarded)
        try:
            code = await sandboxed.ended()
        finally:
            self._guard.remove(guarded)
            self._forget(sandboxed)
            if self._proxy is not None:
                await self._proxy.forget(tag)
            sandboxed.close()
        if verdict is not None:
            return verdict
        return ExitStatus("signalled", signal=signal.SIGKILL) if code is None else ExitStatus.from_returncode(code)

    def confined(self, program: Program, view: View | None = None, own: SandboxPolicy | None = None) -> Program:
        """The program with what the policy says, whatever was asked for."""
        limits = _limits(self._policy, own)
        network = self._policy.network
        view = self._plan.view if view is None else view
        proxy = self._proxy is not None and (own is None or bool(own.network.allowed_domains))
        return replace(
            program,
            env={**program.env, **(proxy_environment(PROXY_PORT) if proxy else {})},
            private=[_private(path, view.home, limits) for path in view.private],
            pinned_links=view.protected_links,
            covered=[mount.target for mount in _covers(view)],
            processes=limits.processes,
            open_files=limits.open_files,
            cpu_time=limits.cpu_time,
            file_size=limits.file_size,
            data=memory_limit(limits) + _DATA_HEADROOM,
            unix_sockets=network.allow_all_unix_sockets or bool(network.allow_unix_sockets),
            proxy=proxy,
        )

    async def close(self) -> None:
        """Ends all programs and takes the walls down, also when whoever awaits this is cancelled."""
        self._closed = True
        await to_the_end(self._close())

    async def _close(self) -> None:
        await self._guard.close()
        for wall in (self._wall, *self._retired):
            if wall is not None:
                await wall.close()
        await asyncio.gather(*self._tasks)
        for program in list(self._programs):
            program.close()
        if self._proxy is not None:
            await self._proxy.close()
        self._placeholders.remove()
        for name in self._audit.new() if self._audit is not None else ():
            log.warning("sandboxed code made %s, which other programs trust: look at it before you use it", name)

    async def _build(self) -> Wall:
        """The best wall that stands up to a trial."""
        reasons: list[str] = []
        for wall in (NestedWall(self._plan), SeparateWalls(self._plan)):
            try:
                await wall.open()
                await self._try_patiently(wall, after_another=bool(reasons))
                return wall
            except ProgramStartError as error:
                reasons.append(f"{wall.name}: {error}")
                log.info("not possible here: %s", reasons[-1])
                await to_the_end(wall.close())
            except BaseException:
                await to_the_end(wall.close())
                raise
        raise diagnosis.unavailable(reasons)

    async def _try_patiently(self, wall: Wall, *, after_another: bool) -> None:
        """Linux counts the namespaces of the wall before as used for a moment after its end."""
        for _ in range(_PATIENCE if after_another else 0):
            try:
                return await self._try(wall)
            except ProgramStartError as error:
                if "ENOSPC" not in str(error):
                    raise
            await asyncio.sleep(_PATIENCE_SECONDS)
        await self._try(wall)

    async def _try(self, wall: Wall, view: View | None = None) -> None:
        """Runs nothing in a sandbox of its own, with every step that a real program takes."""
        trial = replace(self.confined(Program(argv=(), env={}, cwd="/"), view), proxy=False)
        launched = await wall.launch(trial, [])
        sandboxed = SandboxedProgram(launched.lead, why=launched.why)
        try:
            async with asyncio.timeout(20):
                await sandboxed.started()
                await sandboxed.ended()
        except TimeoutError:
            raise ProgramStartError("a trial did not end") from None
        finally:
            sandboxed.kill()
            sandboxed.close()

    async def _on_event(self, event: EgressEvent) -> None:
        if self.on_egress is not None:
            await self.on_egress(event)


def identities(view: View) -> dict[str, tuple[int, int, int]]:
    """What exactly is covered or bound in writable places: a file that takes its name is another one.

    Its number alone does not tell: it may be given to the next file. So the time of the last change counts as well.
    """
    found = {}
    for mount in _covers(view):
        with suppress(OSError):
            status = os.lstat(mount.target)
            found[mount.target] = status.st_dev, status.st_ino, status.st_ctime_ns
    for mount in view.mounts:
        if mount.kind in ("read", "write") and mount.source is not None and mount.target not in found:
            with suppress(OSError):  # a directory changes with all that is made in it, but stays the one it is
                status = os.lstat(mount.source)
                found[mount.target] = status.st_dev, status.st_ino, 0
    return found


def _covers(view: View) -> list[Mount]:
    """What covers or binds something in writable places."""
    kinds = ("read", "mask_dir", "mask_file")
    return [mount for mount in view.mounts if mount.kind in kinds and is_below(mount.target, view.write_roots)]


def _limits(policy: SandboxPolicy, own: SandboxPolicy | None) -> Limits:
    return policy.limits if own is None else own.limits.within(policy.limits)


def memory_limit(limits: Limits) -> int:
    """Bytes that one program may use with all that it starts."""
    if limits.memory is not None:
        return limits.memory
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def _private(path: str, home: str, limits: Limits) -> tuple[str, int, int]:
    """Path, size and permissions of a private directory."""
    size = limits.shared_memory if path == "/dev/shm" else limits.scratch
    return path, size, 0o700 if path == home else 0o1777
