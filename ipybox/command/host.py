"""Commands without a sandbox. Floor: command."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import ClassVar

from ipybox.command.driver import CommandDriver, Field
from ipybox.command.environment import command_environment
from ipybox.command.host_process import IS_MEMORY_GUARDED, HostProcess
from ipybox.errors import ProgramStartError


class HostDriver(CommandDriver):
    """Runs commands as the caller, in the policy's ``base_dir``, **without any isolation**: they may read, write and
    reach whatever the caller may. So it takes ``waive="isolation"`` to make one. Times, memory (on Linux), processor
    time, environment and output are kept within the policy, and nothing that a command starts outlives it.
    """

    name: ClassVar[str] = "host"
    enforces: ClassVar[frozenset[Field]] = frozenset(("cpu_time", "memory") if IS_MEMORY_GUARDED else ("cpu_time",))

    async def _start(self, argv: Sequence[str], stdio: tuple[int, int, int]) -> HostProcess:
        policy = self.policy
        process = HostProcess(
            argv,
            env=self._environment(),
            cwd=policy.base_dir,
            stdio=stdio,
            memory=policy.memory,
            cpu_time=policy.cpu_time,
        )
        await process.started()
        return process

    def _environment(self) -> dict[str, str]:
        directory = self.policy.base_dir
        if not os.path.isdir(directory):
            raise ProgramStartError(f"base_dir {directory} is no directory; create it, or name another one")
        if not os.access(directory, os.X_OK):
            raise ProgramStartError(f"base_dir {directory} can't be entered; change its permissions, or name another")
        own = {"HOME": os.path.expanduser("~"), "PWD": directory}
        inherited = os.environ if self.policy.inherit_env else None
        return command_environment(self.policy.env, inherited=inherited, own=own)
