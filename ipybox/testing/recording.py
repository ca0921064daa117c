"""Records what any sandbox does, so that a FakeSandbox can do it again. Floor: testing."""

from __future__ import annotations

import inspect
import os
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Self

from ipybox.command.blocking import BlockingSandbox
from ipybox.command.cancellation import Cancellation
from ipybox.command.driver import CanExecuteCommand
from ipybox.command.policy import ExecutionPolicy
from ipybox.command.request import OnBytes, OnOutput, Stdin, StreamName, checked_argv, checked_stdin
from ipybox.command.result import ExecResult
from ipybox.testing.transcript import Chunk, Entry, RecordedError, Transcript


class RecordingSandbox:
    """Runs commands in another sandbox, and keeps what they were, what they wrote and how they ended.

    All of that stays in memory, and is saved as it is: secrets too, in arguments, input and output. An async context
    manager, which opens and closes the other sandbox where that is one.

    Args:
        inner: What runs the commands. Where its ``execute`` takes ``on_bytes``, as every driver's does, output is
            recorded exactly; where it takes only what :class:`~ipybox.command.driver.CanExecuteCommand` says, output
            is recorded as the text that it tells.

    Commands whose arguments make no sense are refused and not recorded, as nothing was run. All other errors are
    recorded and go on; see :meth:`ipybox.testing.FakeSandbox.replay` for what becomes of them. Any number of commands
    may run at once.
    """

    def __init__(self, inner: CanExecuteCommand) -> None:
        if not isinstance(inner, CanExecuteCommand):
            raise TypeError(f"inner must have a policy and execute(), as drivers have, got {inner!r}")
        self._inner: Any = inner
        self._takes = _parameters(inner.execute)
        self._entries: list[Entry | None] = []
        self._stack = AsyncExitStack()

    @property
    def policy(self) -> ExecutionPolicy:
        """That of the other sandbox."""
        policy: ExecutionPolicy = self._inner.policy
        return policy

    @property
    def transcript(self) -> Transcript:
        """The commands that have ended, in the order in which they were started."""
        return Transcript(tuple(entry for entry in self._entries if entry is not None))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the transcript to a file; see :meth:`Transcript.save`."""
        self.transcript.save(path)

    async def execute(
        self,
        argv: Sequence[str | os.PathLike[str]],
        stdin: Stdin = None,
        on_output: OnOutput | None = None,
        *,
        on_bytes: OnBytes | None = None,
        cancellation: Cancellation | None = None,
    ) -> ExecResult:
        """Runs a command in the other sandbox; see :meth:`CommandDriver.execute`.

        Raises:
            TypeError: An argument makes no sense, or the other sandbox does not take ``on_bytes`` or ``cancellation``.
        """
        command, checked = checked_argv(argv), checked_stdin(stdin)
        tap = _Tap(on_output, on_bytes)
        options: dict[str, Any] = {}
        if "on_bytes" in self._takes:
            hears, options["on_bytes"] = on_output, tap.hear_bytes
        elif on_bytes is None:
            hears = tap.hear_text
        else:
            raise TypeError(f"{type(self._inner).__name__}.execute() takes no on_bytes; use on_output")
        if cancellation is not None:
            if "cancellation" not in self._takes:
                raise TypeError(f"{type(self._inner).__name__}.execute() takes no cancellation; cancel the task")
            options["cancellation"] = cancellation
        heard = _HeardStdin(checked)
        place = len(self._entries)
        self._entries.append(None)
        result: ExecResult | None = None
        error: RecordedError | None = None
        try:
            given = stdin if isinstance(checked, bytes) else heard
            answer: Any = await self._inner.execute(command, given, hears, **options)
            if not isinstance(answer, ExecResult):
                raise TypeError(f"{type(self._inner).__name__}.execute() must give an ExecResult, got {answer!r}")
            result = answer
            return result
        except BaseException as raised:
            error = RecordedError.of(raised)
            raise
        finally:
            self._entries[place] = Entry(
                command, bytes(heard.data), result, error, tuple(tap.chunks), not heard.is_over
            )

    def blocking(self) -> BlockingSandbox:
        """The same for code that is not asynchronous."""
        return BlockingSandbox(self)

    async def __aenter__(self) -> Self:
        if hasattr(self._inner, "__aenter__"):
            await self._stack.enter_async_context(self._inner)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.__aexit__(kind, error, trace)


class _Tap:
    """Takes down what a command writes, and hands it on."""

    def __init__(self, on_output: OnOutput | None, on_bytes: OnBytes | None) -> None:
        self._on_output, self._on_bytes = on_output, on_bytes
        self.chunks: list[Chunk] = []

    def hear_bytes(self, stream: StreamName, data: bytes) -> Awaitable[None] | None:
        self.chunks.append((stream, bytes(data)))
        return None if self._on_bytes is None else self._on_bytes(stream, data)

    def hear_text(self, stream: StreamName, text: str) -> Awaitable[None] | None:
        self.chunks.append((stream, text.encode("utf-8", "surrogateescape")))
        return None if self._on_output is None else self._on_output(stream, text)


class _HeardStdin:
    """Takes down what is read of an input. No generator, as one that is left half-way has to be closed."""

    def __init__(self, stdin: bytes | AsyncIterable[bytes]) -> None:
        self.is_over = isinstance(stdin, bytes)
        self.data = bytearray(stdin if isinstance(stdin, bytes) else b"")
        self._chunks = None if isinstance(stdin, bytes) else aiter(stdin)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._chunks is None:
            raise StopAsyncIteration
        try:
            chunk = await anext(self._chunks)
        except StopAsyncIteration:
            self.is_over = True
            raise
        self.data += memoryview(chunk)  # what is no bytes is refused here as by drivers
        return chunk


def _parameters(function: Any) -> set[str]:
    """Of the keywords that drivers take, those that a function takes."""
    parameters = inspect.signature(function).parameters.values()
    known = {"on_bytes", "cancellation"}
    if any(each.kind is each.VAR_KEYWORD for each in parameters):
        return known
    return known & {each.name for each in parameters}
