"""Commands in the sandbox that kernels get as well. Linux only. Floor: command."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import stat
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from types import TracebackType
from typing import ClassVar, Self

from ipybox.command.binaries import find_binary
from ipybox.command.driver import CommandDriver, Field
from ipybox.command.environment import command_environment
from ipybox.command.policy import ExecutionPolicy
from ipybox.errors import PolicyError, ProgramStartError
from ipybox.exit_status import ExitStatus
from ipybox.process.command import ExecError
from ipybox.process.teardown import to_the_end
from ipybox.sandbox import bubblewrap, staging
from ipybox.sandbox.access import SANDBOX_HOME, HostFacts
from ipybox.sandbox.launcher import Program
from ipybox.sandbox.path_patterns import is_below
from ipybox.sandbox.policy import LOWEST, FilesystemPolicy, Limits, NetworkPolicy, SandboxPolicy
from ipybox.sandbox.program import SandboxedProgram
from ipybox.sandbox.python_paths import python_paths
from ipybox.sandbox.supervisor import Supervisor, proxy_environment
from ipybox.sandbox.view import View, kernel_view
from ipybox.sandbox.wall import WallPlan

SCRATCH = 64 * 1024 * 1024
"""Bytes of the private home, in which a command runs, and of its private ``/tmp``."""
_NOWHERE = "/usr"
"""Stands in for a working directory of the host, which a command has none of: readable in every sandbox."""
_PROXIES = frozenset(proxy_environment(0))
_VARIABLE = "BWRAP_BIN"
_PRIVATE = ("/tmp", "/var/tmp", "/dev/shm", SANDBOX_HOME)
_KEYS = {"filesystem.allowRead": "readable_paths", "filesystem.allowWrite": "writable_paths"}


class BubblewrapDriver(CommandDriver):
    """Runs each command in a sandbox of its own: namespaces, a root built from nothing, no capabilities, seccomp.

    A command runs in an empty private home, kept in memory (64 MiB), which is gone with it. It can read the system,
    this Python, and what the policy names. Hosts are reached through a proxy that the environment names, never
    directly: with ``network=True`` any public one.

    In an ``async with`` block what commands share is built once, and each takes a few milliseconds; without one it is
    built for every command.
    """

    name: ClassVar[str] = "bubblewrap"
    enforces: ClassVar[frozenset[Field]] = frozenset(
        ("cpu_time", "hosts", "memory", "network", "processes", "readable_paths", "writable_paths")
    )

    def __init__(
        self, policy: ExecutionPolicy, *, waive: str | Iterable[str] = (), binary: str | os.PathLike[str] | None = None
    ) -> None:
        super().__init__(policy, waive=waive)
        if policy.memory < LOWEST["memory"]:
            raise PolicyError(
                "memory", f"{policy.memory} bytes are too few to start anything", f"at least {LOWEST['memory']}"
            )
        set_twice = sorted(_PROXIES & policy.env.keys()) if policy.network else []
        if set_twice:
            reason = "is what a command finds the way out with, so it can't be set"
            raise PolicyError(f"env[{set_twice[0]!r}]", reason, "leave it out")
        if binary is not None or os.environ.get(_VARIABLE):
            remedy = f"unset {_VARIABLE}, or name an installed one"
            binary = find_binary("bwrap", _VARIABLE, remedy=remedy, binary=binary, outside=policy.writable_paths)
        # Whoever may write the system itself is told so when that is looked at.
        outside = [path for path in policy.writable_paths if not is_below(_NOWHERE, [path])]
        self._binary = bubblewrap.find(binary=binary, outside=outside)
        self._open: Supervisor | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._uid = staging.sandbox_uid() if os.geteuid() == 0 else None
        self._tags = itertools.count(1)
        self._running: set[_SandboxedCommand] = set()

    async def __aenter__(self) -> Self:
        if self._loop is not None:
            raise RuntimeError("this sandbox is open already")
        self._loop = asyncio.get_running_loop()
        try:
            self._open = await self._supervisor().__aenter__()
        except BaseException:
            self._loop = None
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        opened, self._open = self._open, None
        try:
            if opened is not None:
                await to_the_end(self._close(opened))
        finally:
            self._loop = None

    async def _close(self, opened: Supervisor) -> None:
        for command in self._running:
            command.kill()
        await asyncio.gather(*(command.ended() for command in self._running))
        await opened.close()

    async def _start(self, argv: Sequence[str], stdio: tuple[int, int, int]) -> _SandboxedCommand:
        if self._open is not None:
            if self._loop is not asyncio.get_running_loop():
                raise RuntimeError("this sandbox was opened in another event loop")
            command = await self._run(self._open, argv, stdio, is_own=False)
            self._running.add(command)
            command.finish.add_done_callback(lambda _: self._running.discard(command))
            return command
        supervisor = await self._supervisor().__aenter__()
        try:
            return await self._run(supervisor, argv, stdio, is_own=True)
        except BaseException:
            await supervisor.close()
            raise

    async def _run(
        self, supervisor: Supervisor, argv: Sequence[str], stdio: tuple[int, int, int], *, is_own: bool
    ) -> _SandboxedCommand:
        tag = f"command-{next(self._tags)}"
        program = Program(argv=argv, env=self._environment(), cwd=SANDBOX_HOME, fds=(0, 1, 2))
        if self._uid is not None:
            for fd in stdio:  # a command may open its streams once more, by their names in /dev
                if stat.S_ISFIFO(os.fstat(fd).st_mode):
                    os.fchown(fd, self._uid, self._uid)
        try:
            sandboxed = await supervisor.start(program, stdio, tag)
        except ProgramStartError as error:
            if error.errno is not None:
                raise ExecError(error.errno, error.reason) from None
            raise
        return _SandboxedCommand(supervisor, sandboxed, tag, is_own=is_own)

    def _environment(self) -> dict[str, str]:
        own = {
            "HOME": SANDBOX_HOME,
            "LOGNAME": "sandbox",
            "PWD": SANDBOX_HOME,
            "SHELL": "/bin/sh",
            "TMPDIR": "/tmp",
            "USER": "sandbox",
        }
        inherited = os.environ if self.policy.inherit_env else None
        return command_environment(self.policy.env, inherited=inherited, own=own)

    def _check_base_dir(self) -> None:
        directory = self.policy.base_dir
        if not os.path.isdir(directory):  # unused here, but a policy is for any driver
            raise ProgramStartError(f"base_dir {directory} is no directory; create it, or name another one")

    def _supervisor(self) -> Supervisor:
        self._check_base_dir()
        policy = sandbox_policy(self.policy)
        uid = self._uid
        facts = HostFacts(
            home=os.path.realpath(os.path.expanduser("~")),
            working_dir=_NOWHERE,
            python_paths=python_paths(),
            uid=os.getuid() if uid is None else uid,
            gid=os.getgid() if uid is None else uid,
        )

        def look() -> View:
            return _view(self.policy, policy, facts)

        plan = WallPlan(bubblewrap=self._binary, view=look(), uid=uid, python=sys.executable)
        return Supervisor(policy, plan, refresh=look, learn=self.policy.network is True, kept=True)


class _SandboxedCommand:
    def __init__(self, supervisor: Supervisor, program: SandboxedProgram, tag: str, *, is_own: bool) -> None:
        self._supervisor, self._program, self._is_own = supervisor, program, is_own
        self.finish = asyncio.ensure_future(supervisor.finish(program, tag))

    async def ended(self) -> ExitStatus:
        return await asyncio.shield(self.finish)

    def terminate(self) -> None:
        self._program.signal(signal.SIGTERM)

    def kill(self) -> None:
        self._program.kill()

    async def close(self) -> None:
        if self._is_own:
            await self._supervisor.close()


def sandbox_policy(policy: ExecutionPolicy) -> SandboxPolicy:
    """The policy of a command in the terms of the sandbox."""
    hosts = policy.network if isinstance(policy.network, tuple) else ()
    limits = Limits(memory=policy.memory, cpu_time=policy.cpu_time, scratch=SCRATCH, shared_memory=SCRATCH)
    # What is to be read only stays so in what may be written.
    fixed = tuple(path for path in policy.readable_paths if is_below(path, policy.writable_paths))
    return SandboxPolicy(
        network=NetworkPolicy(allowed_domains=hosts),
        filesystem=FilesystemPolicy(
            deny_read=(),
            allow_read=policy.readable_paths,
            allow_write=policy.writable_paths,
            deny_write=tuple(path for path in fixed if path not in policy.writable_paths),
        ),
        limits=limits if policy.processes is None else replace(limits, processes=policy.processes),
    )


def _view(asked: ExecutionPolicy, policy: SandboxPolicy, facts: HostFacts) -> View:
    """What a command sees: all that was asked for, or an error that names what can't be."""
    for name in ("readable_paths", "writable_paths"):
        for index, path in enumerate(getattr(asked, name)):
            if not os.path.lexists(path):
                raise PolicyError(f"{name}[{index}]", f"{path} does not exist", "create it first, or leave it out")
            real = os.path.realpath(path)
            if real != path and is_below(path, _PRIVATE):
                reason = f"{path} is a link to {real}, and its place is private to each sandbox"
                raise PolicyError(f"{name}[{index}]", reason, f"name {real}")
    try:
        view = kernel_view(policy, facts)
    except PolicyError as error:
        hint = "name the directories in it that are needed" if "allow" in error.hint else error.hint
        raise PolicyError(_in_our_terms(error.where), error.reason, hint) from None
    for note in view.notes:
        where, _, reason = note.partition(": ")
        if where.startswith("filesystem."):  # what a gateway warns of is no surprise that a command should have
            raise PolicyError(_in_our_terms(where), reason)
    return view


def _in_our_terms(where: str) -> str:
    key, bracket, rest = where.partition("[")
    return f"{_KEYS.get(key, key)}{bracket}{rest}"
