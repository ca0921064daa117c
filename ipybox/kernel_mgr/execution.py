"""One execution on a kernel, as its caller holds it. Floor: kernel_mgr."""

from __future__ import annotations

import asyncio
import inspect
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import NoReturn, Protocol

from ipybox.errors import (
    ConnectionLostError,
    ExecutionError,
    ExecutionTimeoutError,
    ImageWriteError,
    IpyboxError,
    KernelDiedError,
    OutputLostError,
)
from ipybox.exit_status import ExitStatus
from ipybox.kernel_mgr import wire
from ipybox.kernel_mgr.execution_state import ExecutionState
from ipybox.kernel_mgr.images import ImageWriter, has_image
from ipybox.kernel_mgr.wire import Message
from ipybox.outputs import DisplayOutput, Event, ExecutionResult, InputRequest

InputCallback = Callable[[str, bool], str | Awaitable[str]]
"""Answers ``input(prompt)``; the flag says that it is a password. May be a coroutine function."""

_REPLY_PATIENCE = 10.0
"""Seconds between a kernel's "idle" and its reply, or the other way round, before one of them counts as missing."""
_EXIT_PATIENCE = 3.0
"""Seconds for a kernel to end after ``exit()``."""


class ExecutionOwner(Protocol):
    """What an execution needs of the client or attachment that it belongs to."""

    @property
    def cursor(self) -> int | None:
        """Number of the next message in the journal."""

    async def begin(self, execution: Execution) -> None:
        """Waits for the execution's turn and sends its request."""

    async def answer(self, execution: Execution, text: str) -> None:
        """Sends the answer to a question."""

    async def stop(self, execution: Execution) -> bool:
        """Brings the kernel to rest; False when its variables did not survive that."""

    def end(self, execution: Execution) -> None:
        """The execution is over; the next one's turn."""


class Execution:
    """A running execution: an async context manager, and an async iterator over its events.

    Leaving the context before the end interrupts the code. Iterating ends with the execution; ``result`` gathers
    what is left. Both raise :class:`ExecutionError` and the other errors of an execution at its end.

    Attributes:
        id: Names the execution in the gateway's journal, for :meth:`KernelClient.attach`.
        code: What runs.
        timeout: Seconds the code may run, counted from when it is sent; None is no limit.
    """

    def __init__(
        self,
        owner: ExecutionOwner,
        state: ExecutionState,
        images: ImageWriter,
        *,
        code: str = "",
        timeout: float | None = None,
        on_input: InputCallback | None = None,
        content: Message | None = None,
    ) -> None:
        self.id = state.execution_id
        self.code = code
        self.timeout = timeout
        self.message = content
        self.state = state
        self._owner = owner
        self._images = images
        self._on_input = on_input
        self._inbox: asyncio.Queue[Message | ExitStatus | Exception | None] = asyncio.Queue()
        self._events: deque[Event] = deque()
        self._failure: IpyboxError | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._stopping: asyncio.Future[bool] | None = None
        self._begun = False
        self._ended = False
        self._image_error: ImageWriteError | None = None
        self._lost = 0
        self._replied = self._idled = False
        self._end_missed = False
        self.started = asyncio.Event()
        self.answered = asyncio.Event()
        self.over = asyncio.Event()
        self.heard_at = 0.0
        self.told_of_loss = False

    @property
    def cursor(self) -> int | None:
        """Where :meth:`KernelClient.attach` would pick up this execution's output."""
        return self._owner.cursor

    def partial(self) -> ExecutionResult:
        """What has been produced so far."""
        return self.state.result()

    async def result(self) -> ExecutionResult:
        """Waits for the end and returns the result. Raises the errors of an execution."""
        async for _ in self:
            pass
        return self.state.result()

    async def __aenter__(self) -> Execution:
        await self._owner.begin(self)
        self._begun = True
        if self.timeout is not None:
            # The code is stopped in time also when whoever iterates here takes its own time.
            self._timer = asyncio.get_running_loop().call_later(self.timeout, self._time_is_up)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._ended:
            self._end()

    def __aiter__(self) -> AsyncIterator[Event]:
        return self

    async def __anext__(self) -> Event:
        while not self._events:
            if self._failure is not None:
                failure, self._failure = self._failure, None
                raise failure
            if self._ended:
                raise StopAsyncIteration
            try:
                await self._advance()
            except IpyboxError as error:
                self._failure = error  # after what was said before it
        return self._events.popleft()

    def deliver(self, item: Message | ExitStatus | Exception) -> None:
        """A message for this execution, or the news that its kernel is dead or its connection lost."""
        self._inbox.put_nowait(item)
        if isinstance(item, Message):
            self.heard_at = asyncio.get_running_loop().time()
            if item.type == "execute_reply":
                self._replied = True
                self.answered.set()
            elif item.type == "status" and item.content.get("execution_state") == "idle":
                self._idled = True
            self.started.set()
            if (self._replied and self._idled) or item.type == wire.OVER:
                self.over.set()
        else:
            self.over.set()

    async def _advance(self) -> None:
        """Takes one message, or finds that the time is up."""
        if self._stopping is not None:
            await self._out_of_time(self._stopping)
        waits_for_other_half = self.state.is_idle != (self.state.reply is not None)
        try:
            async with asyncio.timeout(_REPLY_PATIENCE if waits_for_other_half else None):
                item = await self._inbox.get()
        except TimeoutError:
            self._give_up_waiting()
        await self._take(item)

    def _time_is_up(self) -> None:
        if not self.over.is_set():
            self._stopping = asyncio.ensure_future(self._owner.stop(self))
            self._stopping.add_done_callback(_retrieve)
            self._inbox.put_nowait(None)

    async def _take(self, item: Message | ExitStatus | Exception | None) -> None:
        if isinstance(item, Message):
            await self._take_message(item)
        elif isinstance(item, ExitStatus):
            self._end()
            raise KernelDiedError(item, self.state.result())
        elif isinstance(item, Exception):
            cursor = self._owner.cursor
            self._end()
            raise ConnectionLostError(str(item), self.id, cursor, self.state.result()) from item
        if (self.state.is_over or self._end_missed) and not self._ended:
            await self._finish()

    async def _take_message(self, message: Message) -> None:
        if message.type == wire.GAP:
            self._lost += int(message.content.get("lost", 0))
            return
        if message.type == wire.OVER:
            self._end_missed = True
            return
        for event in self.state.feed(message):
            if isinstance(event, DisplayOutput) and has_image(event.data):
                event = await self._save_image(event)
            elif isinstance(event, InputRequest):
                await self._ask(event)
            self._events.append(event)

    async def _save_image(self, display: DisplayOutput) -> DisplayOutput:
        try:
            path = await self._images.save(display.data)
        except ImageWriteError as error:
            self._image_error = self._image_error or error
            return display
        return display if path is None else self.state.attach_image(display, path)

    async def _ask(self, question: InputRequest) -> None:
        answer: str | Awaitable[str] | None = ""
        if self._on_input is not None:
            answer = self._on_input(question.prompt, question.password)
            if inspect.isawaitable(answer):
                answer = await self._wait_for_answer(answer)
                if answer is None:
                    return
        if not isinstance(answer, str):
            raise TypeError(f"on_input must return a str, got {answer!r}")
        await self._owner.answer(self, answer)

    async def _wait_for_answer(self, answer: Awaitable[str]) -> str | None:
        """Waits for whoever answers; None when there is nobody to answer any more."""
        answering = asyncio.ensure_future(answer)
        ending = asyncio.ensure_future(self.over.wait())
        try:
            # A timeout stops the code, and that ends the execution.
            await asyncio.wait([answering, ending], return_when=asyncio.FIRST_COMPLETED)
            return answering.result() if answering.done() else None
        finally:
            ending.cancel()
            if not answering.done():
                answering.cancel()
                await asyncio.wait([answering])

    async def _out_of_time(self, stopping: asyncio.Future[bool]) -> NoReturn:
        assert self.timeout is not None
        try:
            preserved = await asyncio.shield(stopping)
        except IpyboxError as error:  # the gateway is gone as well
            await self._take_what_is_there()
            cursor = self._owner.cursor
            self._end()
            raise ConnectionLostError(str(error), self.id, cursor, self.state.result()) from error
        await self._take_what_is_there()
        self.told_of_loss = True
        self._end()
        raise ExecutionTimeoutError(self.timeout, self.state.result(), preserved)

    def _give_up_waiting(self) -> NoReturn:
        """Reply and idle belong together. One of them will not come: user code broke the kernel's own machinery."""
        missing = "reply" if self.state.reply is None else "idle status"
        self._end()
        raise ExecutionError(
            "KernelProtocolError", f"the kernel finished without its {missing}", "", self.state.result()
        )

    async def _take_what_is_there(self) -> None:
        while not self._inbox.empty():
            item = self._inbox.get_nowait()
            if isinstance(item, Message):
                await self._take_message(item)

    async def _finish(self) -> None:
        if self.state.asked_to_exit:
            await self._wait_for_exit()
        self._end()
        if self._lost:
            raise OutputLostError(
                f"{self._lost} messages of execution {self.id} left the gateway's journal before they were fetched; "
                "raise journal_bytes, or read faster",
                self.id,
                self._lost,
                self.state.result(),
            )
        failure = self.state.failure()
        if failure is not None:
            raise ExecutionError(failure.name, failure.value, failure.traceback, self.state.result())
        if self._image_error is not None:
            raise ImageWriteError(self._image_error.path, self._image_error.reason, self.state.result())

    async def _wait_for_exit(self) -> None:
        """``exit()`` was called: the kernel is about to end, and to call that success would hide it."""
        try:
            async with asyncio.timeout(_EXIT_PATIENCE):
                while True:
                    item = await self._inbox.get()
                    if isinstance(item, ExitStatus | Exception):
                        await self._take(item)
        except TimeoutError:
            pass

    def _end(self) -> None:
        self._ended = True
        if self._timer is not None:
            self._timer.cancel()
        self.state.close()
        if self._begun:
            self._begun = False
            self._owner.end(self)


def _retrieve(future: asyncio.Future[bool]) -> None:
    """Takes notice of a result that nobody may wait for any more."""
    if not future.cancelled():
        future.exception()
