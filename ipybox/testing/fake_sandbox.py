"""A sandbox that runs nothing and answers with what it was told. Floor: testing."""

from __future__ import annotations

import asyncio
import inspect
import os
import signal
from collections.abc import AsyncIterable, Awaitable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Self

from ipybox import arguments
from ipybox.command.blocking import BlockingSandbox
from ipybox.command.cancellation import Cancellation
from ipybox.command.execution import Listener
from ipybox.command.policy import ExecutionPolicy
from ipybox.command.request import OnBytes, OnOutput, Stdin, checked_argv, checked_stdin
from ipybox.command.result import SIGNALLED, ExecResult
from ipybox.errors import ReplayedError
from ipybox.testing.replay import Replay
from ipybox.testing.responses import Answer, Key, Response, Responses, checked_response
from ipybox.testing.transcript import CANCELLED, Entry, Transcript

_CANCELLED = ExecResult(exit_code=SIGNALLED + signal.SIGTERM, stop_reason="cancelled")


@dataclass(frozen=True, slots=True)
class Call:
    """One call of ``execute``.

    Attributes:
        argv: The command and its arguments.
        stdin: What it was given to read.
    """

    argv: tuple[str, ...]
    stdin: bytes = b""

    def described(self) -> list[str]:
        """The arguments, and ``[stdin=...]`` after them where there was something to read."""
        text = self.stdin.decode("utf-8", "backslashreplace")
        return [*self.argv, f"[stdin={text}]"] if self.stdin else [*self.argv]


class FakeSandbox:
    """Stands in for every driver of commands: runs nothing, answers with canned responses, and records each command.

    A key is one of these, and the first that matches decides, also when its responses are used up:

    1. A tuple of str: exactly these arguments.
    2. A str: the arguments joined with single spaces. Other arguments that join to the same text are an error.
    3. A compiled pattern, which has to match all of ``shlex.join(argv)``, or a function that gets the tuple of
       arguments and answers True or False; in the order in which they were given.

    A response is one of these:

    - an ``ExecResult``, which is returned as it is: the policy's limits change nothing about it;
    - a mapping, read by ``ExecResult.from_dict``;
    - a str or bytes, which are stdout;
    - an exception, or a class of exceptions, which is raised;
    - a function that gets arguments and stdin (a tuple of str, and bytes) and gives a response or something to await
      for it. Awaiting ends early when the call's ``cancellation`` ends it.

    Args:
        policy: What :attr:`policy` says; None is ``ExecutionPolicy.default()``.
        responses: By key, a list of responses (used first in, first out) or one response.
        default_response: For all other commands, and for those whose responses are used up. Never used up itself.

    Raises:
        TypeError, ValueError: A key or a response makes no sense; the text says which.
    """

    def __init__(
        self,
        policy: ExecutionPolicy | None = None,
        responses: Mapping[Any, Response | Sequence[Response]] | None = None,
        default_response: Response | None = None,
    ) -> None:
        given: Any = ExecutionPolicy.default() if policy is None else policy
        if not isinstance(given, ExecutionPolicy):
            instead = "; responses alone go into FakeSandbox.from_responses()" if isinstance(given, Mapping) else ""
            raise TypeError(f"policy must be an ExecutionPolicy, got {given!r}{instead}")
        self._policy = given
        self._answers: Responses | Replay = Responses(responses, default_response)
        self._calls: list[Call] = []

    @classmethod
    def from_responses(
        cls, responses: Mapping[Any, Response | Sequence[Response]], default_response: Response | None = None
    ) -> Self:
        """One with the default policy."""
        return cls(None, responses, default_response)

    @classmethod
    def replay(
        cls,
        transcript: Transcript | str | os.PathLike[str],
        *,
        strict: bool = True,
        policy: ExecutionPolicy | None = None,
    ) -> Self:
        """One that answers as a :class:`~ipybox.testing.RecordingSandbox` has recorded it, chunk by chunk.

        Errors come again as they were where they are Python's or ours, and else as ``ReplayedError``. A command whose
        awaiting task was cancelled waits for that again; after the policy's timeout it is a ``ReplayedError``.

        Args:
            transcript: What was recorded, or the path of its file.
            strict: Whether the same commands must come with the same stdin in the same order. Otherwise they may come
                in any order and more often: they are told apart by their arguments, and by stdin where the recorded
                ones with these arguments had different ones. The last one of those repeats.
            policy: What :attr:`policy` says.

        Raises:
            OSError, ValueError: The file can't be read, or is no transcript.
        """
        sandbox = cls(policy)
        loaded = transcript if isinstance(transcript, Transcript) else Transcript.load(transcript)
        sandbox._answers = Replay(loaded, strict=arguments.flag("strict", strict))
        return sandbox

    @property
    def policy(self) -> ExecutionPolicy:
        """The policy that was given."""
        return self._policy

    @property
    def commands(self) -> list[list[str]]:
        """The commands so far, also those that raised. Where there was stdin, ``[stdin=...]`` is the last element."""
        return [call.described() for call in self._calls]

    @property
    def calls(self) -> list[Call]:
        """The same exactly: arguments and bytes of stdin apart."""
        return list(self._calls)

    @property
    def unused(self) -> dict[Key, int]:
        """How many responses are left, by key: those with some left, and those that no command matched.

        In a replay, how many commands were not replayed, by their arguments.
        """
        return self._answers.unused

    def enqueue(self, key: Key, *responses: Response) -> None:
        """Adds responses at the end of what a key has.

        Raises:
            TypeError, ValueError: The key or a response makes no sense, so none was added.
            RuntimeError: This fake replays a transcript.
        """
        if isinstance(self._answers, Replay):
            raise RuntimeError("this sandbox replays a transcript, so it takes no responses; make another FakeSandbox")
        if not responses:
            raise ValueError(f"enqueue() needs at least one response for {key!r}")
        self._answers.add(key, responses)

    async def execute(
        self,
        argv: Sequence[str | os.PathLike[str]],
        stdin: Stdin = None,
        on_output: OnOutput | None = None,
        *,
        on_bytes: OnBytes | None = None,
        cancellation: Cancellation | None = None,
    ) -> ExecResult:
        """Records a command and answers it. It refuses the arguments that drivers refuse.

        Args:
            argv: The command and its arguments.
            stdin: What it would read; an asynchronous iterable is read to its end. It is recorded, and is no part of
                a key.
            on_output: Gets stdout and then stderr of the response, as one text each, unless they are empty. In a
                replay it gets the recorded chunks.
            on_bytes: The same with bytes.
            cancellation: Where it is cancelled already, the response is used up and its result is an empty one that
                says ``stop_reason="cancelled"`` with exit code 143. A replay answers as it was recorded.

        Returns:
            The response.

        Raises:
            UnexpectedCommandError: There is no response for it.
            TypeError, ValueError: An argument makes no sense.
        """
        command, text = checked_argv(argv), checked_stdin(stdin)
        listener = Listener(on_output, on_bytes)
        place = len(self._calls)
        self._calls.append(Call(command, text if isinstance(text, bytes) else b""))
        if not isinstance(text, bytes):
            await self._read(place, text)
        call = self._calls[place]
        answer = self._answers.take(call.argv, call.stdin)
        await asyncio.sleep(0)  # as every driver does: who only calls this still lets others run
        if isinstance(answer, Entry):
            return await self._played(answer, listener)
        return await _answered(answer, call, listener, cancellation)

    def blocking(self) -> BlockingSandbox:
        """The same for code that is not asynchronous."""
        return BlockingSandbox(self)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def assert_all_used(self) -> None:
        """Fails unless every response was used, and every key matched.

        In a replay, fails unless every command was replayed.
        """
        __tracebackhide__ = True
        lines = self._answers.unused_text()
        if lines:
            raise AssertionError("\n".join(["not everything was used:", *(f"  {line}" for line in lines)]))

    def assert_called(
        self,
        argv: Sequence[str | os.PathLike[str]],
        times: int | None = None,
        stdin: str | bytes | None = None,
    ) -> None:
        """Fails unless a command was called.

        Args:
            argv: Exactly its arguments.
            times: How often; None is at least once.
            stdin: Counts only calls with exactly this input.
        """
        __tracebackhide__ = True
        if times is not None:
            arguments.count("times", times, 0)
        command = checked_argv(argv)
        found = [call for call in self._calls if call.argv == command]
        what = f"{list(command)!r}"
        if stdin is not None:
            found = [call for call in found if call.stdin == checked_stdin(stdin)]
            what += f" with stdin {stdin!r}"
        if not found if times is None else len(found) != times:
            wanted = "at least once" if times is None else _times(times)
            raise AssertionError(f"{what} was called {_times(len(found))}, expected {wanted}; {self._listed()}")

    def assert_not_called(self, argv: Sequence[str | os.PathLike[str]] | None = None) -> None:
        """Fails when a command was called; without ``argv``, when any was."""
        __tracebackhide__ = True
        if argv is not None:
            self.assert_called(argv, times=0)
        elif self._calls:
            raise AssertionError(f"no command should have been called; {self._listed()}")

    def assert_commands(self, expected: Sequence[Sequence[str]]) -> None:
        """Fails unless :attr:`commands` are exactly these, in this order."""
        __tracebackhide__ = True
        if isinstance(expected, str) or any(isinstance(each, str) for each in expected):
            raise TypeError(f"expected must be a list of lists of str, got {expected!r}")
        wanted, commands = [list(each) for each in expected], self.commands
        if commands == wanted:
            return
        place = next((n for n, pair in enumerate(zip(wanted, commands, strict=False)) if pair[0] != pair[1]), None)
        if place is not None:
            difference = f"command {place + 1} is {commands[place]!r}, not {wanted[place]!r}"
        elif len(commands) < len(wanted):
            difference = f"command {len(commands) + 1} did not come: {wanted[len(commands)]!r}"
        else:
            difference = f"command {len(wanted) + 1} is one too many: {commands[len(wanted)]!r}"
        raise AssertionError(f"{difference}; {self._listed()}")

    def _listed(self) -> str:
        lines = [f"  {n}. {each!r}" for n, each in enumerate(self.commands, 1)]
        return "\n".join(["the commands were:", *lines]) if lines else "there were no commands"

    async def _read(self, place: int, stdin: AsyncIterable[bytes]) -> None:
        read = bytearray()
        try:
            async for chunk in stdin:
                part: Any = chunk
                if not isinstance(part, bytes | bytearray | memoryview):
                    raise TypeError(f"stdin must give bytes, got {part!r}")
                read += part
        finally:
            self._calls[place] = replace(self._calls[place], stdin=bytes(read))

    async def _played(self, entry: Entry, listener: Listener) -> ExecResult:
        for stream, data in entry.chunks:
            await listener.tell(stream, data)
        await listener.tell_rest()
        if entry.result is not None:
            return entry.result
        assert entry.error is not None
        if entry.error.name == CANCELLED:
            await asyncio.sleep(self._policy.timeout)
            raise ReplayedError(CANCELLED, f"its task is not cancelled here within {self._policy.timeout:g} s")
        raise entry.error.again()


async def _answered(answer: Answer, call: Call, listener: Listener, cancellation: Cancellation | None) -> ExecResult:
    while not isinstance(answer, ExecResult):
        if isinstance(answer, BaseException):
            raise answer.with_traceback(None)  # or it would grow with each time
        if isinstance(answer, type):
            raise answer()
        if cancellation is not None and cancellation.is_cancelled:
            return _CANCELLED
        given: Any = answer(call.argv, call.stdin)
        if inspect.isawaitable(given):
            given = await _unless_cancelled(given, cancellation)
        answer = checked_response(f"the response that a function gave for {list(call.argv)!r}", given)
    if cancellation is not None and cancellation.is_cancelled:
        return _CANCELLED
    await listener.tell("out", answer.stdout_bytes, final=True)
    await listener.tell("err", answer.stderr_bytes, final=True)
    return answer


async def _unless_cancelled(given: Awaitable[Any], cancellation: Cancellation | None) -> Any:
    """What an awaitable gives; the result of a cancelled command when that comes first."""
    if cancellation is None:
        return await given
    loop = asyncio.get_running_loop()
    waiting = asyncio.ensure_future(given)

    def stop() -> None:
        loop.call_soon_threadsafe(waiting.cancel)

    cancellation.add(stop)
    try:
        return await waiting
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if not cancellation.is_cancelled or (task is not None and task.cancelling()):
            raise
        return _CANCELLED
    finally:
        cancellation.remove(stop)


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
