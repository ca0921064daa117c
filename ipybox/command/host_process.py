"""A command on the host itself, kept within its memory. Floor: command."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable, Mapping, Sequence

from ipybox.command.execution import GRACE_SECONDS
from ipybox.errors import ProgramStartError
from ipybox.exit_status import ExitStatus
from ipybox.process.command import WardedCommand
from ipybox.process.teardown import to_the_end
from ipybox.sandbox.memory_guard import Guarded, MemoryGuard

_START_SECONDS = 30.0
IS_MEMORY_GUARDED = sys.platform.startswith("linux")
"""Whether memory is limited here, by looking at it."""


class HostProcess:
    """A running command below a warden. See :class:`WardedCommand` for the arguments.

    Args:
        memory: Bytes that all of it may use; None is no limit.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: str,
        stdio: tuple[int, int, int],
        memory: int | None,
        remove: str | None = None,
        prepare: Callable[[], None] | None = None,
        cpu_time: int | None = None,
        undo: Sequence[str] | None = None,
    ) -> None:
        self._memory = memory
        self._excess: ExitStatus | None = None
        self._guard = MemoryGuard()
        self._command = WardedCommand(
            argv,
            env=env,
            cwd=cwd,
            stdio=stdio,
            grace=GRACE_SECONDS,
            remove=remove,
            prepare=prepare,
            cpu_time=cpu_time,
            undo=undo,
        )

    async def started(self) -> None:
        """Waits until it runs.

        Raises:
            OSError: It could not be executed; nothing of it is left.
            ProgramStartError: It did not say so in time.
        """
        try:
            async with asyncio.timeout(_START_SECONDS):
                await self._command.started()
        except BaseException as error:
            self._command.kill()
            await to_the_end(self._command.ended())  # whoever is cancelled again still leaves nothing behind
            if isinstance(error, TimeoutError):
                raise ProgramStartError(f"it was not up within {_START_SECONDS:g} s") from None
            raise
        if self._memory is not None and IS_MEMORY_GUARDED:
            pid, root = self._command.pid or 0, self._command.warden_pid
            self._guard.add(Guarded(pid, root, self._memory, self._on_excess))

    async def ended(self) -> ExitStatus:
        """Waits until it and everything that it started are gone."""
        status = await self._command.ended()
        return self._excess or status

    def terminate(self) -> None:
        """Asks it to end; it is killed when it has not in a moment."""
        self._command.terminate()

    def kill(self) -> None:
        """Ends it and everything that it started."""
        self._command.kill()

    async def close(self) -> None:
        """Watches it no more."""
        await self._guard.close()

    def _on_excess(self, used: int) -> None:
        detail = f"{used} bytes in use, the limit is {self._memory}"
        self._excess = ExitStatus("memory", signal=signal.SIGKILL, detail=detail)
        self._command.kill()
