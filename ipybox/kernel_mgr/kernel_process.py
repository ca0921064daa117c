"""One kernel process on this machine, without a sandbox: started, signalled, watched, and ended with its family.
Floor: kernel_mgr."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from typing import Protocol

from ipybox.exit_status import ExitStatus
from ipybox.process import family, memory
from ipybox.process.descriptors import readable

_MEMORY_INTERVAL = 0.05
_FAMILY_EVERY = 20
"""Every so many looks at the kernel's own memory, its children's are added up as well: that is dearer."""


class KernelProcess(Protocol):
    """A kernel's process, wherever it runs."""

    @property
    def pid(self) -> int:
        """Its pid on this machine, or where that can't be known, in its own sandbox."""

    @property
    def is_alive(self) -> bool:
        """Whether it was there when somebody last looked, which may be right now."""

    def signal(self, signum: int) -> None:
        """Signals its process group. Does nothing when it is gone."""

    def kill(self, verdict: ExitStatus | None = None) -> None:
        """Ends it at once, for a reason that its exit status could not tell."""

    async def ended(self) -> ExitStatus:
        """Waits until it and all of its children are gone, and says how it ended."""


class Child(Protocol):
    """A process, and whoever waits for it."""

    pid: int

    @property
    def is_alive(self) -> bool:
        """Whether it is there. Not to be asked when its end was collected."""

    async def ended(self) -> None:
        """Waits for its end, which is not collected yet: nobody else can get its pid."""

    async def collect(self) -> int | None:
        """Lets its pid go; returns its exit code, or minus its signal, or None when nobody knows."""


class ExecutedChild:
    """A child of this process.

    Args:
        command: What to run.
        env: Its complete environment.
        cwd: Its working directory.
        log: Descriptor for what it writes outside of any execution.
        pass_fds: Descriptors that it inherits.
    """

    def __init__(
        self, command: Sequence[str], *, env: Mapping[str, str], cwd: str | None, log: int, pass_fds: Sequence[int]
    ) -> None:
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=env,
            cwd=cwd,
            start_new_session=True,
            pass_fds=pass_fds,
        )
        self.pid = self._process.pid

    @property
    def is_alive(self) -> bool:
        """Whether it is there."""
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None

    async def ended(self) -> None:
        """Waits for its end, which is not collected yet, where the system has pidfds."""
        if not hasattr(os, "pidfd_open"):
            await asyncio.to_thread(self._process.wait)
            return
        pidfd = os.pidfd_open(self.pid)
        try:
            await readable(pidfd)
        finally:
            os.close(pidfd)

    async def collect(self) -> int:
        """Lets its pid go; returns its exit code, or minus its signal."""
        return self._process.wait()


class LocalKernelProcess:
    """A kernel on this machine.

    Args:
        child: Its process, which leads a session of its own.
        kernel_id: By which its children are recognised, whatever they do: see ``process.family``.
        memory_limit: Bytes for all of it together, or None.
    """

    def __init__(self, child: Child, *, kernel_id: str, memory_limit: int | None) -> None:
        self._kernel_id = kernel_id
        self._child = child
        self._verdict: ExitStatus | None = None
        self._killed = False
        self._over = False
        self._oom_kills = _oom_kills()
        loop = asyncio.get_running_loop()
        self._watch = loop.create_task(self._until_gone())
        self._guard = loop.create_task(self._enforce_memory(memory_limit)) if memory_limit is not None else None

    @property
    def pid(self) -> int:
        """Its pid."""
        return self._child.pid

    @property
    def is_alive(self) -> bool:
        """Whether it is there."""
        return not self._over and self._child.is_alive

    def signal(self, signum: int) -> None:
        """Signals its process group."""
        # Until its end was collected nobody else can get its pid; `_over` says that it may have been.
        if not self._over:
            self._killed = self._killed or signum == signal.SIGKILL
            try:
                os.killpg(self._child.pid, signum)
            except ProcessLookupError:
                pass

    def kill(self, verdict: ExitStatus | None = None) -> None:
        """Ends it at once."""
        if not self._over:
            self._verdict = self._verdict or verdict
            self.signal(signal.SIGKILL)

    async def ended(self) -> ExitStatus:
        """Waits until it and all of its children are gone."""
        return await asyncio.shield(self._watch)

    async def _until_gone(self) -> ExitStatus:
        await self._child.ended()
        self._over = True
        # Before its end is collected: until then nobody else can get its pid, which is its session's number.
        await asyncio.to_thread(family.kill, self._child.pid, self._kernel_id)
        code = await self._child.collect()
        if self._guard is not None:
            self._guard.cancel()
        if self._verdict is not None:
            return self._verdict
        if code is None:
            return ExitStatus("unknown", detail="its fork-server is gone")
        status = ExitStatus.from_returncode(code)
        if code == -signal.SIGKILL and not self._killed and _oom_kills() > self._oom_kills:
            return ExitStatus("memory", signal=signal.SIGKILL, detail="the system ran out of memory")
        return status

    async def _enforce_memory(self, limit: int) -> None:
        looks = 0
        pid = self._child.pid
        while not self._over:
            used = memory.used(pid, limit)
            if looks % _FAMILY_EVERY == 0:
                used = max(used, await asyncio.to_thread(family.memory, pid, self._kernel_id))
            if used > limit:
                self.kill(over_limit(used, limit))
                return
            looks += 1
            await asyncio.sleep(_MEMORY_INTERVAL)  # memory use has no event to wait for without a cgroup


def over_limit(used: int, limit: int) -> ExitStatus:
    """The verdict on a kernel that used too much memory."""
    return ExitStatus("memory", signal=signal.SIGKILL, detail=f"{used} bytes in use, the limit is {limit}")


def _oom_kills() -> int:
    try:
        with open("/proc/vmstat", "rb") as file:
            for line in file:
                if line.startswith(b"oom_kill "):
                    return int(line.split()[1])
    except (OSError, ValueError):
        pass
    return 0
