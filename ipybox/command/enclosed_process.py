"""A command behind a program that encloses it and hands its exit code on. Floor: command."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Mapping, Sequence

from ipybox.command.host_process import HostProcess
from ipybox.command.result import SIGNALLED
from ipybox.command.workspace import remove_workspace
from ipybox.exit_status import ExitStatus


class EnclosedProcess(HostProcess):
    """A program that runs a command in a work directory of its own. See :class:`HostProcess`.

    Args:
        workspace: The work directory; removed when all of it is gone, also when this process was killed.
        prepare: Makes the work directory.
        memory: Bytes that the program and the command may use; None where something else sees to that.
        undo: A command that ends what is not below the program.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        workspace: str,
        prepare: Callable[[], None],
        stdio: tuple[int, int, int],
        memory: int | None = None,
        undo: Sequence[str] | None = None,
    ) -> None:
        super().__init__(
            argv, env=env, cwd=workspace, stdio=stdio, memory=memory, remove=workspace, prepare=prepare, undo=undo
        )
        self._workspace = workspace

    async def ended(self) -> ExitStatus:
        """Waits until all of it is gone, and its work directory."""
        status = await super().ended()
        await asyncio.to_thread(remove_workspace, self._workspace)  # what its warden could not
        return _as_of_command(status)


def _as_of_command(status: ExitStatus) -> ExitStatus:
    """The end of a command that was handed on as an exit code: one above 128 stands for a signal."""
    if status.code is not None and SIGNALLED < status.code < SIGNALLED + signal.NSIG:
        return ExitStatus("signalled", signal=status.code - SIGNALLED)
    return status
