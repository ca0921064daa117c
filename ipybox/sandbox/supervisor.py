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
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ipybox.errors import ProgramStartError
from ipybox.exit_status import ExitStatus
from ipybox.sandbox import diagnosis
from ipybox.sandbox.audit import Audit
from ipybox.sandbox.launcher import PROXY_PORT, Program
from ipybox.sandbox.memory_guard import Guarded, MemoryGuard
from ipybox.sandbox.policy import Limits, SandboxPolicy
from ipybox.sandbox.program import SandboxedProgram
from ipybox.sandbox.wall import NestedWall, SeparateWalls, Wall, WallPlan

if TYPE_CHECKING:
    from ipybox.sandbox.egress import EgressEvent, EgressProxy

log = logging.getLogger("ipybox.sandbox")

_DATA_HEADROOM = 512 * 1024 * 1024
"""Room for the stacks of threads, which count as data though they are hardly used."""
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
        learn: Whether hosts that are not allowed are let through and noted.
    """

    def __init__(self, policy: SandboxPolicy, plan: WallPlan, *, learn: bool = False) -> None:
        self.on_egress: Any = None
        self._policy = policy
        self._plan = plan
        self._guard = MemoryGuard()
        self._programs: set[SandboxedProgram] = set()
        self._placeholders: list[Path] = []
        self._audit: Audit | None = None
        self._proxy: EgressProxy | None = None
        self._wall: Wall | None = None
        if policy.network.allowed_domains or learn:
            from ipybox.sandbox.egress import EgressProxy  # most sandboxes have no network

            self._proxy = EgressProxy(policy.network, environment=os.environ, learn=learn, on_event=self._on_event)

    async def __aenter__(self) -> Supervisor:
        try:
            self._make_placeholders()
            self._audit = Audit(self._plan.view.write_roots)
            self._wall = await self._build()
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

    async def start(self, program: Program, fds: Sequence[int], tag: str) -> SandboxedProgram:
        """Starts a program.

        Args:
            program: What to run; its limits and walls are set here.
            fds: What it inherits; closed by the caller.
            tag: Whose it is, for the proxy's events.

        Raises:
            ProgramStartError: It did not start.
        """
        assert self._wall is not None
        lead = await self._wall.launch(self.confined(program), fds)

        async def on_listener(listener: socket.socket) -> None:
            assert self._proxy is not None
            await self._proxy.listen(listener, tag)

        sandboxed = SandboxedProgram(lead, on_listener if self._proxy is not None else None)
        self._programs.add(sandboxed)
        try:
            await sandboxed.started()
        except BaseException:
            sandboxed.close()
            self._programs.discard(sandboxed)
            raise
        return sandboxed

    async def finish(self, sandboxed: SandboxedProgram, tag: str) -> ExitStatus:
        """Waits for a program's end, keeping it within its memory meanwhile, and says how it ended."""
        verdict: ExitStatus | None = None

        def on_excess(used: int) -> None:
            nonlocal verdict
            limit = f"{used} bytes in use, the limit is {guarded.limit}"
            verdict = ExitStatus("memory", signal=signal.SIGKILL, detail=limit)
            sandboxed.kill()

        assert sandboxed.pid is not None
        assert sandboxed.init_pid is not None
        guarded = Guarded(sandboxed.pid, sandboxed.init_pid, memory_limit(self._policy), on_excess)
        self._guard.add(guarded)
        try:
            code = await sandboxed.ended()
        finally:
            self._guard.remove(guarded)
            self._programs.discard(sandboxed)
            if self._proxy is not None:
                await self._proxy.forget(tag)
            sandboxed.close()
        if verdict is not None:
            return verdict
        return ExitStatus("signalled", signal=signal.SIGKILL) if code is None else ExitStatus.from_returncode(code)

    def confined(self, program: Program) -> Program:
        """The program with what the policy says, whatever was asked for."""
        limits = self._policy.limits
        network = self._policy.network
        return replace(
            program,
            env={**program.env, **(proxy_environment(PROXY_PORT) if self._proxy is not None else {})},
            private=[_private(path, self._plan.view.home, limits) for path in self._plan.view.private],
            pinned_links=self._plan.view.protected_links,
            processes=limits.processes,
            open_files=limits.open_files,
            cpu_time=limits.cpu_time,
            file_size=limits.file_size,
            data=memory_limit(self._policy) + _DATA_HEADROOM,
            unix_sockets=network.allow_all_unix_sockets or bool(network.allow_unix_sockets),
            proxy=self._proxy is not None,
        )

    async def close(self) -> None:
        """Ends all programs and takes the walls down."""
        await self._guard.close()
        if self._wall is not None:
            await self._wall.close()
        for program in list(self._programs):
            program.close()
        if self._proxy is not None:
            await self._proxy.close()
        for path in self._placeholders:
            with suppress(OSError):
                path.unlink()
        for name in self._audit.new() if self._audit is not None else ():
            log.warning("sandboxed code made %s, which other programs trust: look at it before you use it", name)

    async def _build(self) -> Wall:
        """The best wall that stands up to a trial."""
        reasons = []
        for wall in (NestedWall(self._plan), SeparateWalls(self._plan)):
            try:
                await wall.open()
                await self._try(wall)
                return wall
            except ProgramStartError as error:
                reasons.append(f"{wall.name}: {error}")
                log.info("not possible here: %s", reasons[-1])
                await wall.close()
        raise diagnosis.unavailable(reasons)

    async def _try(self, wall: Wall) -> None:
        """Runs nothing in a sandbox of its own, with every step that a real program takes."""
        trial = replace(self.confined(Program(argv=(), env={}, cwd="/")), proxy=False)
        sandboxed = SandboxedProgram(await wall.launch(trial, []))
        try:
            async with asyncio.timeout(20):
                await sandboxed.started()
                await sandboxed.ended()
        except TimeoutError:
            raise ProgramStartError("a trial did not end") from None
        finally:
            sandboxed.kill()
            sandboxed.close()

    def _make_placeholders(self) -> None:
        for name in self._plan.view.placeholders:
            path = Path(name)
            if not os.path.lexists(path):
                path.touch(mode=0o600)
                self._placeholders.append(path)

    async def _on_event(self, event: EgressEvent) -> None:
        if self.on_egress is not None:
            await self.on_egress(event)


def memory_limit(policy: SandboxPolicy) -> int:
    """Bytes that one program may use with all that it starts."""
    if policy.limits.memory is not None:
        return policy.limits.memory
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def _private(path: str, home: str, limits: Limits) -> tuple[str, int, int]:
    """Path, size and permissions of a private directory."""
    size = limits.shared_memory if path == "/dev/shm" else limits.scratch
    return path, size, 0o700 if path == home else 0o1777
