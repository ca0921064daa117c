"""Commands for code that is not asynchronous. Floor: command."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Self

from ipybox.command.policy import ExecutionPolicy
from ipybox.command.result import ExecResult

if TYPE_CHECKING:
    import os

    from ipybox.command.request import OnOutput, Stdin


class BlockingSandbox:
    """A sandbox whose ``execute`` returns when the command has ended. A context manager, for one thread.

    In a ``with`` block it keeps ready what the sandbox can keep ready; without one each call stands alone.

    Args:
        sandbox: What runs commands.
    """

    def __init__(self, sandbox: Any) -> None:
        self._sandbox = sandbox
        self._runner: asyncio.Runner | None = None
        self._stack = AsyncExitStack()

    @property
    def policy(self) -> ExecutionPolicy:
        """What each command may use and touch."""
        policy: ExecutionPolicy = self._sandbox.policy
        return policy

    def execute(
        self,
        argv: Sequence[str | os.PathLike[str]],
        stdin: Stdin = None,
        on_output: OnOutput | None = None,
        **options: Any,
    ) -> ExecResult:
        """Runs a command to its end; see :meth:`CommandDriver.execute`, which takes the same arguments.

        Raises:
            RuntimeError: An event loop runs in this thread; await the sandbox's own ``execute`` there.
        """
        _refuse_in_event_loop()
        call = self._sandbox.execute(argv, stdin, on_output, **options)
        result: ExecResult = asyncio.run(call) if self._runner is None else self._runner.run(call)
        return result

    def __enter__(self) -> Self:
        _refuse_in_event_loop()
        if self._runner is not None:
            raise RuntimeError("this sandbox is open already")
        self._runner = asyncio.Runner()
        try:
            self._runner.run(self._open())
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Takes down what was kept ready."""
        if self._runner is not None:
            runner, self._runner = self._runner, None
            with runner:
                runner.run(self._stack.aclose())

    async def _open(self) -> None:
        if hasattr(self._sandbox, "__aenter__"):
            await self._stack.enter_async_context(self._sandbox)


def _refuse_in_event_loop() -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise RuntimeError("an event loop runs in this thread: await the sandbox's own execute()")
