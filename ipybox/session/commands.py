"""Commands in a sandbox, from outside. Floor: session."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ipybox import arguments
from ipybox.errors import ProgramStartError
from ipybox.session.answers import command_result
from ipybox.session.connection import Reply
from ipybox.session.files import Ask
from ipybox.session.inside_files import WORKSPACE
from ipybox.session.results import CommandResult

COMMAND_SECONDS = 120.0
"""How long a command may run if nothing else is said."""


class AsyncCommands:
    """Commands in a sandbox, any number of them at the same time, also while code runs."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask

    async def run(
        self,
        command: str | Sequence[str],
        timeout: float = COMMAND_SECONDS,
        env: Mapping[str, str] | None = None,
        working_dir: str = WORKSPACE,
    ) -> CommandResult:
        """Runs a command to its end. It finds ``python``, ``pip`` and whatever else this environment has.

        What it leaves running in the background goes on until the sandbox ends. If this call is cancelled, the command
        is killed.

        Args:
            command: A line for ``/bin/sh``, or a program and its arguments.
            timeout: Seconds after which it is killed, with all that is in its session or below it.
            env: Environment for this command, besides the sandbox's.
            working_dir: Where it runs; relative to ``/workspace``.

        Raises:
            ProgramStartError: There are too many processes in the sandbox, or no such directory.
            SandboxEndedError: The sandbox is gone, or it went meanwhile.
        """
        if isinstance(command, str):
            argv = ["/bin/sh", "-c", arguments.text("command", command)]
        else:
            argv = [str(word) for word in command]
        if not argv or any("\0" in word for word in argv):
            raise ValueError(f"command must be words without NUL characters, at least one, got {command!r}")
        head = {
            "op": "command",
            "argv": argv,
            "env": arguments.environment("env", env),
            "cwd": arguments.path("working_dir", working_dir),
            "timeout": arguments.seconds("timeout", timeout),
        }

        def read(reply: Reply) -> CommandResult:
            if "failed" in reply[0]:
                raise ProgramStartError(str(reply[0]["failed"])[:1000])
            return command_result(*reply)

        result: CommandResult = await self._ask(head, seconds=timeout, read=read)
        return result
