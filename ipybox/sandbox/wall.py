"""The walls that sandboxed programs run behind, as bubblewrap builds them. Linux only. Floor: sandbox.

Two ways, chosen by trying (see ``supervisor``): one outer wall in which a launcher gives each program namespaces of
its own, which takes a few milliseconds per program; or one bubblewrap per program, for systems that let only
bubblewrap make user namespaces.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import subprocess
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

from ipybox.errors import PreloadError, ProgramStartError
from ipybox.process import bootstrap, liveness, warden
from ipybox.process.descriptors import memory_file, readable, writable
from ipybox.process.warm import Warmth
from ipybox.sandbox import confine, staging
from ipybox.sandbox.bubblewrap import Bubblewrap
from ipybox.sandbox.launcher import PACKET, Program
from ipybox.sandbox.path_patterns import is_below
from ipybox.sandbox.view import Mount, View

log = logging.getLogger("ipybox.sandbox")

_SYSTEM = ("/usr", "/etc", "/opt", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix", "/gnu", "/dev")
"""Readable for everybody on any machine, so nothing that root has to stage."""
_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}
_START_SECONDS = 20.0
_SILENCE_SECONDS = 2.0
_STOP_SECONDS = 10.0
_STOP_STEP = 0.0005


@dataclass(frozen=True, slots=True, kw_only=True)
class WallPlan:
    """How to build a wall.

    Attributes:
        bubblewrap: The program that builds it.
        view: What is seen behind it.
        uid: The user that root becomes for it; None when we are not root.
        python: Interpreter for the launcher.
        warmth: What programs go on from that are forked and not executed, where the wall can do that.
    """

    bubblewrap: Bubblewrap
    view: View
    uid: int | None
    python: str
    warmth: Warmth | None = None


class Launched(NamedTuple):
    """A program that is being started.

    Attributes:
        lead: The socket to its pid 1.
        why: Tells what was said last, should it not come up.
    """

    lead: socket.socket
    why: Callable[[], str]


class Wall(Protocol):
    """Where programs are started."""

    name: str
    cold: str | None
    """Why programs can't be forked from what is imported already; None when they can."""

    def __init__(self, plan: WallPlan) -> None: ...

    @property
    def is_over(self) -> bool:
        """Whether it fell, so that the next program needs another one."""

    @property
    def first(self) -> int | None:
        """The pidfd of the process that everything behind it ends with; None when each program has its own."""

    async def open(self) -> None:
        """Builds what is built once; raises :class:`ProgramStartError`."""

    async def launch(self, program: Program, fds: Sequence[int]) -> Launched:
        """Starts a program; the descriptors stay the caller's."""

    async def close(self) -> None:
        """Ends everything behind it."""


class WallProcess:
    """A bubblewrap and what runs in it.

    Args:
        plan: How to build the wall.
        argv: The command behind it.
        pass_fds: Descriptors that it inherits under the same numbers.
        as_pid_1: Whether the command is pid 1 there, instead of bubblewrap's own.
        read_only_proc: Whether nothing in ``/proc`` can be written.
        name: For the log; an empty one for what writes its own.
        env: Bubblewrap's environment, and the command's.
        inner_env: The command's, in place of that.
    """

    def __init__(
        self,
        plan: WallPlan,
        argv: Sequence[str],
        pass_fds: Sequence[int] = (),
        *,
        as_pid_1: bool = False,
        read_only_proc: bool = False,
        name: str,
        env: dict[str, str] | None = None,
        inner_env: Mapping[str, str] | None = None,
    ) -> None:
        self._lines: deque[str] = deque(maxlen=30)
        self._prefix = f"{name}: " if name else ""
        self._loop = asyncio.get_running_loop()
        command, fds = _command(plan, argv, as_pid_1=as_pid_1, env=inner_env, read_only_proc=read_only_proc)
        read, write = os.pipe()
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=write,
                env=_ENVIRONMENT if env is None else env,
                cwd="/",
                pass_fds=[*fds, *pass_fds],
                start_new_session=True,
            )
        except OSError as error:
            os.close(read)
            raise ProgramStartError(f"can't run {command[0]}: {error}") from error
        finally:
            os.close(write)
            for fd in fds:
                os.close(fd)
        os.set_blocking(read, False)
        self._stderr = read
        self._silent: asyncio.Future[None] = self._loop.create_future()
        self._loop.add_reader(read, self._read)
        self._pidfd = os.pidfd_open(self._process.pid)
        self._ended: asyncio.Future[int] = self._loop.create_future()
        self._loop.add_reader(self._pidfd, self._gone)

    @property
    def pid(self) -> int:
        """Pid of bubblewrap."""
        return self._process.pid

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        return self._ended.done()

    @property
    def last_lines(self) -> str:
        """What it wrote to stderr last."""
        self._read()
        return "\n".join(self._lines)

    async def ended(self) -> int:
        """Waits for its end; returns its exit code."""
        return await asyncio.shield(self._ended)

    def terminate(self) -> None:
        """Ends it and everything behind it, and does not wait. Only once the wall stands."""
        for pidfd in self._kill_all():
            os.close(pidfd)

    async def kill(self) -> None:
        """Ends it and everything behind it, and waits for that."""
        if not self.is_over:
            await self._stop()
            below = self._kill_all()
            try:
                await self.ended()
                for pidfd in below:  # the first behind it ends last, when it has reaped the others
                    await readable(pidfd)
            finally:
                for pidfd in below:
                    os.close(pidfd)
        # What it had started is gone when nobody is left who could write here.
        await asyncio.wait([self._silent], timeout=_SILENCE_SECONDS)
        self._close_stderr()

    async def _stop(self) -> None:
        """Has bubblewrap start nothing any more. A stop takes effect when the system call under way is over, which may
        be the one that makes a child."""
        signal.pidfd_send_signal(self._pidfd, signal.SIGSTOP)  # Popen would reap it, should it have ended
        deadline = self._loop.time() + _STOP_SECONDS
        while not (self.is_over or _is_stopped(self.pid)):
            if self._loop.time() > deadline:
                log.warning("bubblewrap, pid %d, does not stop; what it starts now may stay", self.pid)
                return
            await asyncio.sleep(_STOP_STEP)

    def _kill_all(self) -> list[int]:
        """Bubblewrap's pid 1 dies with it, and all behind it with that: but not before it has come so far as to ask
        for that. So what there is below is killed by name as well.

        Returns descriptors of the processes below, that the caller closes."""
        if self.is_over:
            return []
        below = warden.descendants(self.pid, warden.parents())
        watched = [pidfd for pid in below if (pidfd := _pidfd(pid)) is not None]
        for pid in (*below, self.pid):
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        return watched

    def _read(self) -> None:
        for _ in range(4):  # what writes without end must not hold up everybody else
            if self._stderr < 0:
                return
            try:
                data = os.read(self._stderr, 65536)
            except BlockingIOError:
                return
            if not data:
                return self._close_stderr()
            for line in data.decode("utf-8", "replace").splitlines():
                self._lines.append(line[:2000])
                log.info("%s%s", self._prefix, line[:2000])

    def _close_stderr(self) -> None:
        if self._stderr >= 0:
            self._loop.remove_reader(self._stderr)
            os.close(self._stderr)
            self._stderr = -1
        if not self._silent.done():
            self._silent.set_result(None)

    def _gone(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._read()
        self._ended.set_result(self._process.wait())


class NestedWall:
    """One outer wall; a launcher inside it gives each program namespaces of its own."""

    name = "nested user namespaces"

    def __init__(self, plan: WallPlan) -> None:
        self._plan = plan
        self.cold: str | None = None
        self._process: WallProcess | None = None
        self._control: socket.socket | None = None
        self._opening = asyncio.Lock()
        self._sending = asyncio.Lock()
        self._vital: list[int] = []
        self._closed = False

    @property
    def is_over(self) -> bool:
        """Whether the launcher is gone, or about to be."""
        return self._process is None or self._process.is_over or self._launcher_is_gone()

    def _launcher_is_gone(self) -> bool:
        """Whether it or pid 1 is ending, or it has let go of its socket: bubblewrap follows it, but not at once.

        A program behind the wall may be seen to end before the socket does."""
        if not all(_is_alive(pidfd) for pidfd in self._vital):
            return True
        if self._control is None:
            return False
        try:
            return not self._control.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True

    @property
    def first(self) -> int | None:
        """The pidfd of pid 1 behind the wall."""
        return self._vital[0] if self._vital else None

    @property
    def pid(self) -> int | None:
        """Pid of the outer bubblewrap."""
        return self._process.pid if self._process is not None else None

    async def open(self) -> None:
        """Starts the launcher, unless it runs."""
        async with self._opening:
            if self._closed:
                raise ProgramStartError("the sandbox was closed")
            if not self.is_over:
                return
            await self._close()
            ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            ours.setblocking(False)
            try:
                self._process = self._launcher(its.fileno())
            except BaseException:
                ours.close()
                raise
            finally:
                its.close()
            self._control = ours
            await self._wait_ready(self._process, ours)

    async def launch(self, program: Program, fds: Sequence[int]) -> Launched:
        """Starts a program."""
        await self.open()
        control, process = self._control, self._process
        assert control is not None
        assert process is not None
        lead, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        request = memory_file(program.to_json())
        try:
            async with self._sending:  # two that wait for one socket would not both be woken
                while True:
                    try:
                        socket.send_fds(control, [b"start"], [request, its.fileno(), *fds])
                        return Launched(lead, lambda: process.last_lines)
                    except BlockingIOError:
                        await writable(control)
        except OSError as error:
            lead.close()
            raise ProgramStartError(f"the launcher is gone: {error}") from error
        except BaseException:
            lead.close()
            raise
        finally:
            its.close()
            os.close(request)

    def _launcher(self, control: int) -> WallProcess:
        python, warmth, module = self._plan.python, self._plan.warmth, "ipybox.sandbox.launcher"
        if warmth is None:
            command = bootstrap.command(python, module, str(control))
            return WallProcess(self._plan, command, [control], name="launcher")
        settings = memory_file(warmth.to_json())
        try:
            arguments = ("--warm", str(settings), str(control))
            command = bootstrap.command(python, module, *arguments, sites=warmth.path, ignore_environment=False)
            # As pid 1: no kernel has that pid in its own namespace, so libraries that notice a fork by it do.
            return WallProcess(
                self._plan,
                command,
                [settings, control],
                as_pid_1=True,
                name="launcher",
                inner_env={**_ENVIRONMENT, **warmth.env},
            )
        finally:
            os.close(settings)

    async def close(self) -> None:
        """Ends everything behind the wall, for good."""
        self._closed = True
        async with self._opening:
            await self._close()

    async def _close(self) -> None:
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._process is not None:
            await self._process.kill()
            self._process = None
        if self._vital:
            vital, self._vital = self._vital, []
            try:
                await readable(vital[0])  # all behind the wall is gone when its pid 1 is
            finally:
                for pidfd in vital:
                    os.close(pidfd)

    async def _wait_ready(self, process: WallProcess, control: socket.socket) -> None:
        try:
            async with asyncio.timeout(_START_SECONDS):
                importing: str | None = None
                while True:
                    await readable(control.fileno())
                    said, fds, _, _ = socket.recv_fds(control, PACKET, 2)
                    facts = json.loads(said or b"{}")
                    if "importing" not in facts:
                        break
                    importing = str(facts["importing"])
                if "ready" in facts and fds:
                    self._vital = fds
                    self.cold = facts.get("cold")
                    return
                code = await process.ended()
                if "preload" in facts:
                    raise PreloadError(*facts["preload"])
                if importing is not None:
                    raise PreloadError(importing, f"importing it ended the process, with {code}")
        except TimeoutError:
            await process.kill()
            raise ProgramStartError(f"the launcher did not come up within {_START_SECONDS:g} s") from None
        except OSError:
            await process.ended()
        raise ProgramStartError(process.last_lines or "bubblewrap ended without a word")


class SeparateWalls:
    """A bubblewrap for each program."""

    name = "one bubblewrap per kernel"
    cold: str | None = "here every kernel needs a bubblewrap of its own"

    def __init__(self, plan: WallPlan) -> None:
        # In the other kind of wall each program mounts a /proc of its own; here bubblewrap's is what it gets.
        self._plan = replace(plan, view=replace(plan.view, mounts=(*plan.view.mounts, *_masked_proc())))
        self._processes: set[WallProcess] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def is_over(self) -> bool:
        """There is nothing that could fall."""
        return False

    @property
    def first(self) -> int | None:
        """Nothing is shared between programs."""
        return None

    async def open(self) -> None:
        """Nothing is shared between programs."""
        links = self._plan.view.protected_links
        if links:
            raise ProgramStartError(
                f"bubblewrap alone can't keep symbolic links from being replaced: {', '.join(links)}"
            )

    async def launch(self, program: Program, fds: Sequence[int]) -> Launched:
        """Starts a program."""
        lead, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        request = memory_file(program.to_json())
        inherited = [request, its.fileno(), *fds]
        try:
            command = bootstrap.command(self._plan.python, "ipybox.sandbox.launcher")
            process = WallProcess(
                _rearranged(self._plan, program),
                [*command, "--single", *(str(fd) for fd in inherited)],
                inherited,
                as_pid_1=True,
                read_only_proc=True,
                name="sandbox",
            )
        except BaseException:
            lead.close()
            raise
        finally:
            its.close()
            os.close(request)
        self._processes.add(process)
        task = asyncio.get_running_loop().create_task(self._forget(process))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return Launched(lead, lambda: process.last_lines)

    async def close(self) -> None:
        """Ends all of them, and waits until nothing of them is left."""
        await asyncio.gather(*(process.kill() for process in list(self._processes)))

    async def _forget(self, process: WallProcess) -> None:
        await process.ended()
        self._processes.discard(process)


def _is_stopped(child: int) -> bool:
    """Whether it is stopped, or has ended; does not wait."""
    return os.waitid(os.P_PID, child, os.WSTOPPED | os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None


def _is_alive(pidfd: int) -> bool:
    pid = liveness.pid_of(pidfd)
    return pid is not None and liveness.is_alive(pid, pidfd)


def _pidfd(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None


def _rearranged(plan: WallPlan, program: Program) -> WallPlan:
    """The plan of a wall behind which there is only this program, with what it sees otherwise than others would."""
    sizes = {path: size for path, size, _ in program.private}
    shared = [replace(m, size=sizes.get(m.target, m.size)) if m.kind == "tmpfs" else m for m in plan.view.mounts]
    mounts: list[Mount] = []
    roots: list[str] = []
    for source, target, can_write in program.binds:
        around = next(m for m in reversed(plan.view.mounts) if m.source is not None and is_below(source, [m.target]))
        assert around.source is not None
        path = around.source + source[len(around.target) :]
        mounts.append(Mount("write" if can_write else "read", target, path))
        roots.append(around.source)  # what lies below is opened part by part
    mounts += (Mount("mask_dir", path, mode=0) for path in program.hidden)
    view = replace(plan.view, mounts=(*shared, *mounts), write_roots=(*plan.view.write_roots, *dict.fromkeys(roots)))
    return replace(plan, view=view)


def _masked_proc() -> Iterator[Mount]:
    for name in confine.MASKED:
        path = f"/proc/{name}"
        if os.path.isdir(path):
            yield Mount("mask_dir", path, mode=0)
        elif os.path.exists(path):
            yield Mount("mask_file", path)


def _command(
    plan: WallPlan, argv: Sequence[str], *, as_pid_1: bool, read_only_proc: bool, env: Mapping[str, str] | None
) -> tuple[list[str], list[int]]:
    """The command that builds a wall, and descriptors that it needs and that the caller closes."""
    if plan.uid is None:
        command = plan.bubblewrap.command(
            plan.view, argv=argv, env=env, as_pid_1=as_pid_1, read_only_proc=read_only_proc
        )
        return list(command.argv), list(command.pass_fds)
    read, write = _to_stage(plan.view)
    places = staging.staged([*read, *write])
    sources = {
        m.source: staging.locate(m.source, places) for m in plan.view.mounts if m.kind in ("read", "write") and m.source
    }
    command = plan.bubblewrap.command(
        plan.view, argv=argv, env=env, as_pid_1=as_pid_1, read_only_proc=read_only_proc, sources=sources
    )
    steps = staging.Staging(read=read, write=write, uid=plan.uid, argv=command.argv, opened=command.opened)
    fd = memory_file(steps.to_json())
    return bootstrap.command(plan.python, "ipybox.sandbox.staging", str(fd)), [*command.pass_fds, fd]


def _to_stage(view: View) -> tuple[list[str], list[str]]:
    """The outermost sources of a view that root has to lend to somebody else: to read, and to write."""
    wanted = {m.source: m.kind for m in reversed(view.mounts) if m.kind in ("read", "write") and m.source}
    read: list[str] = []
    write: list[str] = []
    for path in sorted(wanted):
        if any(path == each or path.startswith(f"{each}/") for each in (*_SYSTEM, *write)):
            continue
        # What can be written lies in a mount of its own, so that the one around it is read-only for everybody.
        if wanted[path] == "write":
            write.append(path)
        elif not any(path.startswith(f"{each}/") for each in read):
            read.append(path)
    return read, write
