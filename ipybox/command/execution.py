"""Follows one command from its start to its result. Floor: command."""

from __future__ import annotations

import asyncio
import inspect
import os
import signal
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, Protocol

from ipybox.command.cancellation import Cancellation
from ipybox.command.deadlines import Deadlines
from ipybox.command.output import Tail, TextChunks
from ipybox.command.policy import ExecutionPolicy
from ipybox.command.request import OnBytes, OnOutput, StreamName, checked_chunk
from ipybox.command.result import SIGNALLED, TIMED_OUT, ExecResult, StopReason
from ipybox.exit_status import ExitStatus
from ipybox.process.teardown import to_the_end

GRACE_SECONDS = 0.1
"""Between asking a command to end and killing it."""
_CHUNK = 65536
_CLOCK_STEP = 0.001


class RunningCommand(Protocol):
    """What a driver has started."""

    async def ended(self) -> ExitStatus:
        """Waits until it and everything that it started are gone."""

    def terminate(self) -> None:
        """Asks it to end."""

    def kill(self) -> None:
        """Ends it and everything that it started."""

    async def close(self) -> None:
        """Lets go of it, after its end."""


class Pipes:
    """Stdin, stdout and stderr of a command: its ends, which are closed once it has them, and ours.

    Args:
        has_stdin: Whether there is anything for it to read.
    """

    def __init__(self, has_stdin: bool) -> None:
        self._open: set[int] = set()
        self.stdin: int | None = None
        try:
            if has_stdin:
                its_stdin, self.stdin = self._pipe()
                os.set_blocking(self.stdin, False)
            else:
                its_stdin = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
                self._open.add(its_stdin)
            self.stdout, its_stdout = self._pipe()
            self.stderr, its_stderr = self._pipe()
            for fd in (self.stdout, self.stderr):
                os.set_blocking(fd, False)
        except BaseException:
            self.close()
            raise
        self.its = (its_stdin, its_stdout, its_stderr)

    def close_its(self) -> None:
        """Closes the command's ends."""
        for fd in self.its:
            self.close(fd)

    def close(self, fd: int | None = None) -> None:
        """Closes one of them, or all."""
        for each in self._open & {fd} if fd is not None else set(self._open):
            self._open.discard(each)
            os.close(each)

    def _pipe(self) -> tuple[int, int]:
        read, write = os.pipe()
        self._open |= {read, write}
        return read, write


class Listener:
    """Who hears what one command writes, one call at a time.

    Args:
        on_output: Gets it as text.
        on_bytes: Gets it as it is.
    """

    def __init__(self, on_output: OnOutput | None = None, on_bytes: OnBytes | None = None) -> None:
        for name, callback in (("on_output", on_output), ("on_bytes", on_bytes)):
            if callback is not None and not callable(callback):
                raise TypeError(f"{name} must be a function, got {callback!r}")
        self._on_output, self._on_bytes = on_output, on_bytes
        self._telling = asyncio.Lock()
        self._texts: dict[StreamName, TextChunks] = {"out": TextChunks(), "err": TextChunks()}

    async def tell(self, stream: StreamName, data: bytes, *, final: bool = False) -> None:
        """Tells what was written, and waits until that was taken."""
        async with self._telling:
            if self._on_bytes is not None and data:
                await _awaited(self._on_bytes(stream, data))
            if self._on_output is not None and (text := self._texts[stream].feed(data, final=final)):
                await _awaited(self._on_output(stream, text))

    async def tell_rest(self) -> None:
        """Tells what was held back as the beginning of a character."""
        for stream in self._texts:
            await self.tell(stream, b"", final=True)


class Execution:
    """A command that runs.

    Args:
        running: The command.
        pipes: What it is connected with; closed by whoever made them, after :meth:`result`.
        policy: Its limits.
        stdin: What it reads.
        listener: Who hears what it writes.
        cancellation: What may end it.
    """

    def __init__(
        self,
        running: RunningCommand,
        pipes: Pipes,
        policy: ExecutionPolicy,
        *,
        stdin: bytes | AsyncIterable[bytes],
        listener: Listener,
        cancellation: Cancellation | None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._running, self._pipes = running, pipes
        self._stdin, self._listener, self._cancellation = stdin, listener, cancellation
        self._deadlines = Deadlines(self._loop.time(), policy.timeout, policy.idle_timeout)
        self._cancelled = asyncio.Event()
        self._tails = {"out": Tail(policy.stdout_cap), "err": Tail(policy.stderr_cap)}
        self._readers = (
            _Reader(pipes.stdout, lambda data: self._take("out", data)),
            _Reader(pipes.stderr, lambda data: self._take("err", data)),
        )

    async def result(self) -> ExecResult:
        """Waits for the end, which comes in time whatever the command does, and says what it gave."""
        if self._cancellation is not None:
            self._cancellation.add(self._on_cancel)
        ended = asyncio.ensure_future(self._running.ended())
        readers = [asyncio.ensure_future(reader.run()) for reader in self._readers]
        writer = asyncio.ensure_future(self._write())
        cancelled = asyncio.ensure_future(self._cancelled.wait())
        tasks: list[asyncio.Task[Any]] = [*readers, writer, cancelled]
        try:
            stop = await self._until_stopped(ended, cancelled, [*readers, writer])
            if stop is not None:
                self._running.terminate()
                await asyncio.wait([ended], timeout=GRACE_SECONDS)
                self._running.kill()
            status = await ended
            seconds = self._loop.time() - self._deadlines.started
            for reader in self._readers:
                reader.finish()
            # However long the listener takes, it gets all of it; unless somebody has had enough of that.
            rest = asyncio.ensure_future(self._all_told(readers))
            tasks.append(rest)
            await asyncio.wait([rest, cancelled], return_when=asyncio.FIRST_COMPLETED)
            if rest.done():
                rest.result()
            return self._result(status, stop, seconds)
        finally:
            if self._cancellation is not None:
                self._cancellation.remove(self._on_cancel)
            for task in tasks:
                task.cancel()
            await to_the_end(self._end(ended, tasks))

    async def _all_told(self, readers: list[asyncio.Task[None]]) -> None:
        await asyncio.gather(*readers)
        await self._listener.tell_rest()

    async def _end(self, ended: asyncio.Task[ExitStatus], tasks: list[asyncio.Task[Any]]) -> None:
        """Whatever happened, nothing of the command is left after this."""
        self._running.kill()
        await asyncio.wait([ended])
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._running.close()

    def _on_cancel(self) -> None:
        with suppress(RuntimeError):  # the loop is closed, so it is over
            self._loop.call_soon_threadsafe(self._cancelled.set)

    async def _until_stopped(
        self, ended: asyncio.Task[ExitStatus], cancelled: asyncio.Task[Any], failing: list[asyncio.Task[None]]
    ) -> StopReason | None:
        """Waits for the end, or until there is a reason for one. What goes wrong in ``failing`` is raised."""
        while not ended.done():
            if cancelled.done():
                return "cancelled"
            if expired := self._deadlines.expired(self._loop.time()):
                return expired
            pending = [each for each in failing if not each.done()]
            left = self._deadlines.left(self._loop.time()) + _CLOCK_STEP
            await asyncio.wait([ended, cancelled, *pending], timeout=left, return_when=asyncio.FIRST_COMPLETED)
            for each in failing:
                if each.done():
                    each.result()
        return None

    async def _take(self, stream: StreamName, data: bytes) -> None:
        self._deadlines.heard(self._loop.time())
        self._tails[stream].feed(data)
        self._deadlines.hold()  # who is silent because nobody listens is not idle
        try:
            await self._listener.tell(stream, data)
        finally:
            self._deadlines.release(self._loop.time())

    async def _write(self) -> None:
        fd = self._pipes.stdin
        if fd is None:
            return
        try:
            if isinstance(self._stdin, bytes):
                await _write_all(fd, self._stdin)
            else:
                async with _closing(self._stdin):
                    async for chunk in self._stdin:
                        await _write_all(fd, checked_chunk(chunk))
        except (BrokenPipeError, ConnectionResetError):
            pass  # it has read as much as it wanted
        finally:
            self._pipes.close(fd)

    def _result(self, status: ExitStatus, stop: StopReason | None, seconds: float) -> ExecResult:
        timed_out = stop in ("wall", "idle")
        if stop is None and status.reason == "memory":
            stop = "memory"
        elif stop is None and status.code is None:
            stop = "signal"
        code = status.code
        if code is None:
            code = SIGNALLED + (status.signal or signal.SIGKILL)
        if timed_out:
            code = TIMED_OUT
        elif stop == "cancelled" and code == 0:
            code = SIGNALLED + signal.SIGTERM  # it was asked to end and did; that is no success
        return ExecResult(
            stdout=self._tails["out"].value(),  # type: ignore[arg-type]  # bytes become text there
            stderr=self._tails["err"].value(),  # type: ignore[arg-type]
            exit_code=code,
            duration=seconds,
            timed_out=timed_out,
            truncated_stdout=self._tails["out"].truncated,
            truncated_stderr=self._tails["err"].truncated,
            stop_reason=stop,
        )


class _Reader:
    """Reads all that a descriptor gives."""

    def __init__(self, fd: int, take: Callable[[bytes], object]) -> None:
        self._fd, self._take = fd, take
        self._over = False
        self._woken: asyncio.Future[None] | None = None

    async def run(self) -> None:
        """Reads until the end, or until nothing comes any more after :meth:`finish`."""
        while True:
            over = self._over  # first, as what was written before it is in the pipe
            try:
                data = os.read(self._fd, _CHUNK)
            except BlockingIOError:
                if over:
                    return
                await self._wait()
                continue
            if not data:
                return
            await _awaited(self._take(data))
            await asyncio.sleep(0)  # a flood must not hold up the clock

    def finish(self) -> None:
        """Nobody is left who writes. Whoever else holds the other end is none of the command."""
        self._over = True
        self._wake()

    async def _wait(self) -> None:
        loop = asyncio.get_running_loop()
        self._woken = loop.create_future()
        loop.add_reader(self._fd, self._wake)
        try:
            await self._woken
        finally:
            loop.remove_reader(self._fd)

    def _wake(self) -> None:
        if self._woken is not None and not self._woken.done():
            self._woken.set_result(None)


async def _awaited(answer: object) -> None:
    if inspect.isawaitable(answer):
        await answer


@asynccontextmanager
async def _closing(source: AsyncIterable[bytes]) -> AsyncIterator[None]:
    """Lets a generator clean up now, and not when it is found to be garbage."""
    try:
        yield
    finally:
        if isinstance(source, AsyncGenerator):
            await source.aclose()


async def _write_all(fd: int, data: bytes) -> None:
    loop = asyncio.get_running_loop()
    view = memoryview(data)
    await asyncio.sleep(0)  # also for nothing: a source without end must not hold up the clock
    while view:
        try:
            view = view[os.write(fd, view[:_CHUNK]) :]
            await asyncio.sleep(0)
        except BlockingIOError:
            ready = asyncio.Event()
            loop.add_writer(fd, ready.set)
            try:
                await ready.wait()
            finally:
                loop.remove_writer(fd)
