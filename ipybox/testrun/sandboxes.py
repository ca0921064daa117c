"""The sandboxes of a test run. Linux only. Floor: testrun.

What all of them share is built once: the wall, and behind it a Python that has imported the framework. Each sandbox is
a fork of that with namespaces of its own, in which the project can be changed without anybody else seeing it.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import secrets
import signal
import stat
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

from ipybox.errors import ProgramStartError
from ipybox.exit_status import ExitStatus
from ipybox.process import bootstrap
from ipybox.process.descriptors import memory_file
from ipybox.process.late_site import PythonFacts
from ipybox.process.teardown import to_the_end
from ipybox.process.warm import Warmth
from ipybox.sandbox import bubblewrap, staging
from ipybox.sandbox.launcher import Program
from ipybox.sandbox.program import SandboxedProgram
from ipybox.sandbox.python_paths import site_packages
from ipybox.sandbox.supervisor import Supervisor
from ipybox.sandbox.wall import WallPlan
from ipybox.testrun import channel, harness
from ipybox.testrun.harness import HarnessSettings
from ipybox.testrun.project import environment_for, policy_for, view_for
from ipybox.testrun.request import ARCHIVE_FD, REPORT_FD, REQUEST_FD, Request
from ipybox.testrun.settings import RunSettings

TAIL = 64 * 1024
"""Bytes that are kept of what a sandbox writes to stdout and to stderr, each."""
_READ_ONLY = "the project can't be changed by tests: this system has no overlay file systems for plain users"
_ABORT_SECONDS = 1.0


class Sandboxes:
    """Opens what sandboxes share, and starts them.

    Args:
        settings: What tests may do and find.
        root: The project's directory, resolved.
        executed: A module of this package and its arguments, which a Python of its own runs in each sandbox; empty for
            a fork of the Python with the framework.
    """

    def __init__(self, settings: RunSettings, root: str, *, executed: Sequence[str] = ()) -> None:
        self.notes: tuple[str, ...] = ()
        self._settings, self._root = settings, root
        self._cwd = os.path.realpath(settings.cwd)
        self._env = environment_for(settings)
        self._policy = policy_for(settings)
        self._overlays: tuple[tuple[str, int], ...] = ((root, settings.scratch),)
        self._supervisor: Supervisor | None = None
        self._uid = staging.sandbox_uid() if os.geteuid() == 0 else None
        self._tags = itertools.count(1)
        self._executed = tuple(executed)
        self._harness = HarnessSettings(
            framework=settings.framework,
            preload=settings.preload,
            python=PythonFacts.of_this_one(site_packages()),
        )

    async def __aenter__(self) -> Self:
        view = view_for(self._policy, self._root, self._uid)
        path = tuple(site_packages())
        warmth = Warmth(
            module=harness.MODULE,
            settings=self._harness.to_json(),
            path=path,
            more_path=(self._root, f"{self._root}/src"),
            env={name: self._env[name] for name in ("HOME", "LANG", "LC_ALL", "PYTHONHASHSEED", "TMPDIR", "TZ")},
        )
        plan = WallPlan(
            bubblewrap=bubblewrap.find(),
            view=view,
            uid=self._uid,
            python=sys.executable,
            warmth=None if self._executed else warmth,
        )
        learn = self._settings.network is True
        self._supervisor = await Supervisor(self._policy, plan, learn=learn, kept=True).__aenter__()
        try:
            await self._try_overlay()
        except BaseException:
            await self._supervisor.close()
            raise
        if self._supervisor.cold is not None and not self._executed:
            self.notes += (f"each sandbox starts a Python of its own, which is slower: {self._supervisor.cold}",)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._supervisor is not None:
            await self._supervisor.close()

    async def _try_overlay(self) -> None:
        assert self._supervisor is not None
        if self._supervisor.cold is not None:
            self._overlays = ()
        trial = Program(argv=(), env={}, cwd="/", overlays=self._overlays)
        try:
            program = await self._supervisor.start(trial, (), "trial")
        except ProgramStartError as error:
            if "overlay" not in error.reason:
                raise
            self._overlays = ()
        else:
            await self._supervisor.finish(program, "trial")
        if not self._overlays:
            self.notes += (_READ_ONLY,)

    @property
    def data_limit(self) -> int:
        """Bytes of private memory at which an allocation fails in a sandbox."""
        return self._settings.memory

    @asynccontextmanager
    async def start(self, request: Request, archive: int | None = None) -> AsyncIterator[Sandbox]:
        """Starts one, which is gone when the block is left.

        Args:
            request: What it is to do; the secret is put in here.
            archive: A file with compiled modules, or for them; stays the caller's.

        Raises:
            ProgramStartError: It could not be had.
        """
        assert self._supervisor is not None
        key = secrets.token_bytes(channel.KEY_BYTES)
        request = replace(
            request, key=key.hex(), data_limit=self.data_limit, root=self._root, has_archive=archive is not None
        )
        tag = f"test-{next(self._tags)}"
        if self._executed:
            argv = bootstrap.command(sys.executable, *self._executed)
        else:
            argv = bootstrap.command(
                sys.executable,
                harness.MODULE,
                self._harness.to_json(),
                sites=site_packages(),
                ignore_environment=False,
            )
        ours: list[int] = []
        theirs: list[int] = []
        try:
            theirs.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
            for make in (os.pipe, os.pipe, _one_way):
                read, write = make()
                os.set_blocking(read, False)
                ours.append(read)
                theirs.append(write)
                if self._uid is not None and stat.S_ISFIFO(os.fstat(write).st_mode):
                    os.fchown(write, self._uid, self._uid)  # it may be opened once more, by its name in /dev
            theirs.insert(3, memory_file(request.to_json()))
            program = Program(
                argv=argv,
                env=self._env,
                cwd=self._cwd,
                fds=(0, 1, 2, REQUEST_FD, REPORT_FD, *(() if archive is None else (ARCHIVE_FD,))),
                overlays=self._overlays,
                warm=not self._executed,
            )
            inherited = theirs if archive is None else [*theirs, archive]
            started = await self._supervisor.start(program, inherited, tag)
        except BaseException:
            _close(ours)
            raise
        finally:
            _close(theirs)
        sandbox = Sandbox(self._supervisor, started, tag, ours, key)
        try:
            yield sandbox
        finally:
            await sandbox.close()


class Sandbox:
    """One sandbox, and what it tells."""

    def __init__(
        self, supervisor: Supervisor, program: SandboxedProgram, tag: str, fds: Sequence[int], key: bytes
    ) -> None:
        self._program = program
        self._loop = asyncio.get_running_loop()
        self._reader = channel.Reader(key)
        self._messages: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        self._tails = {fd: bytearray() for fd in fds[:2]}
        self._stdout, self._stderr, self._report = fds
        self._open = set(fds)
        for fd in fds:
            self._loop.add_reader(fd, self._read, fd)
        self._code: asyncio.Future[int | None] = asyncio.ensure_future(program.ended())
        self._finish = asyncio.ensure_future(supervisor.finish(program, tag))
        self._finish.add_done_callback(lambda _: self._drain())

    @property
    def is_tampered_with(self) -> bool:
        """Whether something else than reports came on the private line."""
        return self._reader.is_broken

    @property
    def stdout(self) -> str:
        """The last that it wrote there."""
        return self._tails[self._stdout].decode("utf-8", "replace")

    @property
    def stderr(self) -> str:
        """The last that it wrote there."""
        return self._tails[self._stderr].decode("utf-8", "replace")

    async def message(self) -> dict[str, Any] | None:
        """The next message; None when nothing of the sandbox is left, and for ever after."""
        message = await self._messages.get()
        if message is None:
            self._messages.put_nowait(None)
        return message

    async def ended(self) -> tuple[ExitStatus, bool]:
        """Waits until nothing of it is left; returns how it ended, and whether somebody outside saw to that."""
        status = await asyncio.shield(self._finish)
        return status, status.reason != "memory" and await asyncio.shield(self._code) is None

    async def abort(self) -> None:
        """Ends it; has Python say where it is before, if it still listens."""
        self._program.signal(signal.SIGABRT)
        await asyncio.wait([self._finish], timeout=_ABORT_SECONDS)
        self._program.kill()

    def kill(self) -> None:
        """Ends it."""
        self._program.kill()

    async def close(self) -> None:
        """Ends it, and waits for that."""
        self._program.kill()
        await to_the_end(self._wait())

    async def _wait(self) -> None:
        await asyncio.wait([self._finish])
        self._drain()

    def _read(self, fd: int) -> None:
        """Takes what is there, and lets others have their turn."""
        for _ in range(4):
            if fd not in self._open or not self._take(fd):
                return

    def _take(self, fd: int) -> bool:
        try:
            data = os.read(fd, 65536)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self._shut(fd)
            return False
        if fd == self._report:
            for message in self._reader.feed(data):
                self._messages.put_nowait(message)
            if self._reader.is_broken:
                self._program.kill()
                self._shut(fd)
        else:
            tail = self._tails[fd]
            tail += data
            del tail[:-TAIL]
        return True

    def _drain(self) -> None:
        """Nobody writes any more: what there is is all."""
        for fd in list(self._open):
            while fd in self._open and self._take(fd):
                pass
            if fd in self._open:
                self._shut(fd)
        self._messages.put_nowait(None)

    def _shut(self, fd: int) -> None:
        self._open.discard(fd)
        self._loop.remove_reader(fd)
        os.close(fd)


def _one_way() -> tuple[int, int]:
    """A pipe that whoever has the end to write to can't just open once more by its name in ``/proc``, and read.

    No socket: one that is made here would show what this machine's network is.
    """
    ours, theirs = os.pipe()
    os.fchmod(theirs, 0o200)
    return ours, theirs


def _close(fds: Sequence[int]) -> None:
    for fd in fds:
        with suppress(OSError):
            os.close(fd)
