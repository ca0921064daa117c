"""Real walls for the tests: how to build them, and programs behind them that are followed to their end."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from ipybox.exit_status import ExitStatus
from ipybox.sandbox import bubblewrap, staging
from ipybox.sandbox.launcher import Program
from ipybox.sandbox.policy import SandboxPolicy
from ipybox.sandbox.program import SandboxedProgram
from ipybox.sandbox.python_paths import python_paths
from ipybox.sandbox.supervisor import Supervisor
from ipybox.sandbox.unix_sockets import with_sockets
from ipybox.sandbox.view import HostFacts, kernel_view
from ipybox.sandbox.wall import NestedWall, SeparateWalls, Wall, WallPlan

HANG = 20.0
"""Seconds after which something counts as hung."""
PATH = "/usr/bin:/bin"
WALLS: dict[str, Callable[[WallPlan], Wall]] = {"nested": NestedWall, "separate": SeparateWalls}


def plan_for(policy: SandboxPolicy, working_dir: Path) -> WallPlan:
    """How a supervisor's process would build a wall for this policy."""
    uid = staging.sandbox_uid() if os.geteuid() == 0 else None
    home = os.path.realpath(os.path.expanduser("~"))
    facts = HostFacts(
        home=home,
        working_dir=str(working_dir),
        python_paths=python_paths(),
        uid=os.getuid() if uid is None else uid,
        gid=os.getgid() if uid is None else uid,
    )
    view = kernel_view(policy, facts)
    mounts = tuple(with_sockets(view, policy.network, home))
    return WallPlan(
        bubblewrap=bubblewrap.find(outside=view.write_roots),
        view=replace(view, mounts=mounts),
        uid=uid,
        python=sys.executable,
    )


class OneKind(Supervisor):
    """A supervisor that builds one kind of wall, instead of the best one."""

    def __init__(self, kind: str, policy: SandboxPolicy, plan: WallPlan) -> None:
        super().__init__(policy, plan)
        self.wall: Wall = WALLS[kind](plan)

    async def _build(self) -> Wall:
        await self.wall.open()
        await self._try(self.wall)
        return self.wall


@dataclass
class Ran:
    """A program that ended."""

    status: ExitStatus
    output: str


class Programs:
    """Starts programs with a supervisor, and reads what they say through a pipe."""

    def __init__(self, supervisor: Supervisor, working_dir: Path) -> None:
        self.supervisor = supervisor
        self.working_dir = working_dir
        self._count = 0

    async def start(
        self,
        argv: Sequence[str],
        fds: Mapping[int, int],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
    ) -> tuple[SandboxedProgram, asyncio.Task[ExitStatus]]:
        """Starts one that inherits descriptors, by the numbers that they have inside; and follows it."""
        program = Program(
            argv=argv,
            env={"PATH": PATH} if env is None else env,
            cwd=str(self.working_dir) if cwd is None else cwd,
            fds=list(fds),
        )
        self._count += 1
        tag = f"program {self._count}"
        async with asyncio.timeout(HANG):
            sandboxed = await self.supervisor.start(program, list(fds.values()), tag)
        return sandboxed, asyncio.ensure_future(self.supervisor.finish(sandboxed, tag))

    async def run(self, *argv: str, env: Mapping[str, str] | None = None, cwd: str | None = None) -> Ran:
        """Runs one to its end."""
        read, write = os.pipe()
        try:
            _, ended = await self.start(argv, {1: write, 2: write}, env=env, cwd=cwd)
        except BaseException:
            os.close(read)
            raise
        finally:
            os.close(write)
        async with asyncio.timeout(HANG):
            output, status = await asyncio.gather(text_of(read), ended)
        return Ran(status, output)

    async def shell(self, script: str) -> Ran:
        """Runs a shell script to its end."""
        return await self.run("/bin/sh", "-c", script)

    async def python(self, code: str) -> Ran:
        """Runs Python code to its end."""
        return await self.run(sys.executable, "-I", "-S", "-c", code)


@asynccontextmanager
async def programs(
    working_dir: Path, policy: SandboxPolicy | None = None, kind: str | None = None
) -> AsyncIterator[Programs]:
    """A supervisor of this or of the best kind, with its walls up."""
    policy = policy or SandboxPolicy()
    plan = plan_for(policy, working_dir)
    async with Supervisor(policy, plan) if kind is None else OneKind(kind, policy, plan) as supervisor:
        yield Programs(supervisor, working_dir)


async def text_of(fd: int) -> str:
    """All that comes from a pipe, which is closed then."""
    return (await asyncio.to_thread(_read_all, fd)).decode("utf-8", "replace")


async def line_of(fd: int) -> str:
    """The next line that comes from a pipe."""
    async with asyncio.timeout(HANG):
        return (await asyncio.to_thread(_read_line, fd)).decode("utf-8", "replace")


def _read_all(fd: int) -> bytes:
    with os.fdopen(fd, "rb") as pipe:
        return pipe.read()


def _read_line(fd: int) -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        data = os.read(fd, 1)
        if not data:
            break
        line += data
    return line
