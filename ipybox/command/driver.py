"""What every driver of commands does and says. Floor: command."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import ClassVar, Literal, Protocol, Self, get_args, runtime_checkable

from ipybox.command.blocking import BlockingSandbox
from ipybox.command.cancellation import Cancellation
from ipybox.command.execution import Execution, Listener, Pipes, RunningCommand
from ipybox.command.policy import ExecutionPolicy
from ipybox.command.request import OnBytes, OnOutput, Stdin, checked_argv, checked_stdin
from ipybox.command.result import NOT_EXECUTABLE, NOT_FOUND, SIGNALLED, ExecResult
from ipybox.errors import PolicyNotEnforcedError, ProgramStartError
from ipybox.process.command import ExecError
from ipybox.process.teardown import to_the_end

Field = Literal["memory", "cpus", "cpu_time", "processes", "readable_paths", "writable_paths", "network", "hosts"]
"""What of a policy not every driver can enforce: fields, and ``hosts`` for a network of named hosts. All the others
(times, environment, output caps) are enforced by every driver."""

ISOLATION: tuple[Field, ...] = ("readable_paths", "writable_paths", "network", "hosts")
"""What ``waive="isolation"`` stands for."""


@runtime_checkable
class CanExecuteCommand(Protocol):
    """What runs a command: every driver, and :class:`ipybox.testing.FakeSandbox`."""

    @property
    def policy(self) -> ExecutionPolicy:
        """What a command may use and touch."""

    async def execute(
        self, argv: Sequence[str | os.PathLike[str]], stdin: Stdin = None, on_output: OnOutput | None = None
    ) -> ExecResult:
        """Runs a command to its end; see :meth:`CommandDriver.execute`."""


class CommandDriver(ABC):
    """Runs commands under a policy. An async context manager, which keeps ready what can be kept ready.

    Args:
        policy: What each command may use and touch.
        waive: Fields of the policy that the driver can't enforce and that it need not; ``"isolation"`` is all about
            files and network. Naming what it does enforce changes nothing.

    Raises:
        PolicyNotEnforcedError: The driver can't enforce some of it, and that is not waived.
        SandboxUnavailableError: What the driver needs is not on this machine.
    """

    name: ClassVar[str]
    enforces: ClassVar[frozenset[Field]]
    """What of :data:`Field` it enforces."""

    def __init__(self, policy: ExecutionPolicy, *, waive: str | Iterable[str] = ()) -> None:
        if not isinstance(policy, ExecutionPolicy):
            raise TypeError(f"policy must be an ExecutionPolicy, got {policy!r}")
        self._policy = policy
        self.waived = _waived(waive)
        missing = [each for each in _asked_for(policy) if each not in self.enforces and each not in self.waived]
        if missing:
            raise PolicyNotEnforcedError(self.name, missing)

    @property
    def policy(self) -> ExecutionPolicy:
        """What each command may use and touch."""
        return self._policy

    async def execute(
        self,
        argv: Sequence[str | os.PathLike[str]],
        stdin: Stdin = None,
        on_output: OnOutput | None = None,
        *,
        on_bytes: OnBytes | None = None,
        cancellation: Cancellation | None = None,
    ) -> ExecResult:
        """Runs a command to its end. Any number of them may run at once.

        Args:
            argv: The command and its arguments; no shell is involved.
            stdin: What it reads: text (as UTF-8), bytes, or an asynchronous iterable of bytes. None and nothing are
                an empty input.
            on_output: Called with ``"out"`` or ``"err"`` and text, as it comes, all of it, whatever the caps are; one
                call at a time. An awaitable that it returns is awaited, and the command waits for that when its pipe
                is full. What it raises ends the command and is raised here.
            on_bytes: The same with bytes, exactly as they were written.
            cancellation: Ends the command from elsewhere, with a result.

        Returns:
            What it gave. A command that is not found gives exit code 127, one that can't be executed 126.

        Raises:
            ProgramStartError: It could not be started, for a reason that is not the command's.
            PolicyError, SandboxUnavailableError: What the policy asks for can't be had here.
            TypeError, ValueError: An argument makes no sense.

        When the awaiting task is cancelled, the command is ended before ``CancelledError`` goes on. Times count from
        when the command runs, and limit the command: this returns when callbacks have taken what it wrote before.
        """
        command, text = checked_argv(argv), checked_stdin(stdin)
        listener = Listener(on_output, on_bytes)
        try:
            pipes = Pipes(has_stdin=not isinstance(text, bytes) or bool(text))
        except OSError as error:
            raise ProgramStartError(f"there can be no pipes to the command: {error}") from error
        try:
            try:
                running = await self._started(command, pipes.its, cancellation)
            except ExecError as error:
                return await _not_started(command, error, listener)
            except OSError as error:
                raise ProgramStartError(f"the driver {self.name!r} could not start it: {error}") from error
            finally:
                pipes.close_its()
            if running is None:
                return ExecResult(exit_code=SIGNALLED + signal.SIGTERM, stop_reason="cancelled")
            execution = Execution(
                running, pipes, self._policy, stdin=text, listener=listener, cancellation=cancellation
            )
            return await self._finished(await execution.result())
        finally:
            pipes.close()

    async def _started(
        self, argv: Sequence[str], stdio: tuple[int, int, int], cancellation: Cancellation | None
    ) -> RunningCommand | None:
        """Starts a command; None when that was cancelled before it ran."""
        if cancellation is None:
            return await self._start(argv, stdio)
        if cancellation.is_cancelled:
            return None
        loop = asyncio.get_running_loop()
        starting = asyncio.ensure_future(self._start(argv, stdio))

        def on_cancel() -> None:
            with suppress(RuntimeError):  # the loop is closed, so it is over
                loop.call_soon_threadsafe(starting.cancel)

        cancellation.add(on_cancel)
        try:
            return await starting
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():  # it is we who are cancelled
                starting.cancel()
                await to_the_end(_give_up(starting))
                raise
            return None
        finally:
            cancellation.remove(on_cancel)

    def blocking(self) -> BlockingSandbox:
        """The same for code that is not asynchronous."""
        return BlockingSandbox(self)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    @abstractmethod
    async def _start(self, argv: Sequence[str], stdio: tuple[int, int, int]) -> RunningCommand:
        """Starts a command.

        Raises:
            ExecError: The command itself could not be executed.
            OSError, ProgramStartError: Anything else.
        """

    async def _finished(self, result: ExecResult) -> ExecResult:
        """What to make of a result."""
        return result


def _asked_for(policy: ExecutionPolicy) -> list[Field]:
    """What a policy restricts."""
    asked: list[Field] = ["memory", "readable_paths", "writable_paths"]
    asked += [name for name in ("cpus", "cpu_time", "processes") if getattr(policy, name) is not None]
    if policy.network is False:
        asked.append("network")
    elif policy.network is not True:
        asked.append("hosts")
    return asked


def _waived(waive: str | Iterable[str]) -> frozenset[str]:
    names = [waive] if isinstance(waive, str) else list(waive)
    known = (*get_args(Field), "isolation")
    for name in names:
        if name not in known:
            raise ValueError(f"waive must be of {', '.join(known)}, got {name!r}")
    return frozenset([*names, *(ISOLATION if "isolation" in names else ())])


async def _give_up(starting: asyncio.Task[RunningCommand]) -> None:
    """Whatever a start has come to, nothing of it is left after this."""
    await asyncio.wait([starting])
    if not starting.cancelled() and starting.exception() is None:  # it was up before it heard of it
        running = starting.result()
        running.kill()
        await running.ended()
        await running.close()


async def _not_started(argv: Sequence[str], error: ExecError, listener: Listener) -> ExecResult:
    """The result that a shell gives for a command that it can't execute."""
    is_missing = error.errno in (errno.ENOENT, errno.ENOTDIR)
    reason = "command not found" if is_missing and "/" not in argv[0] else os.strerror(error.errno or 0)
    result = ExecResult(stderr=f"ipybox: {argv[0]}: {reason}\n", exit_code=NOT_FOUND if is_missing else NOT_EXECUTABLE)
    await listener.tell("err", result.stderr_bytes)
    return result
