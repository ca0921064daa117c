"""A kernel that runs nothing: it answers requests by a script, and so does the link to it. Floor: testing."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Any
from uuid import uuid4

from ipybox.errors import ExecutionNotFoundError, KernelDiedError, UnexpectedExecutionError
from ipybox.exit_status import ExitStatus
from ipybox.kernel_mgr import wire
from ipybox.kernel_mgr.attachment import Attachment
from ipybox.kernel_mgr.execution import Execution
from ipybox.kernel_mgr.execution_state import ExecutionState
from ipybox.kernel_mgr.images import ImageWriter
from ipybox.kernel_mgr.kernel_link import KernelLink, LinkSettings
from ipybox.kernel_mgr.wire import Message
from ipybox.outputs import ErrorOutput, Event, InputRequest
from ipybox.testing.script import INTERRUPTED, Response, Script, event_of, nobody_to_ask, script_of, told
from ipybox.testing.scripted_messages import Call, CallMessage, ScriptedReply, error_content, message_of

OWN_KERNEL = "ipybox"
"""Name of the kernelspec that a kernel has of which nobody says which."""
_END_PATIENCE = 1.0
"""Seconds for functions of responses to end when they are cancelled."""

log = logging.getLogger("ipybox.testing")

Listener = Callable[[Message | ExitStatus], None]


@dataclass(slots=True)
class _Run:
    """One execution, and what was said about it."""

    request: CallMessage
    count: int
    messages: list[Message] = field(default_factory=list)
    followers: list[Listener] = field(default_factory=list)
    answer: asyncio.Future[str] | None = None
    is_over: bool = False

    @property
    def has_somebody_to_ask(self) -> bool:
        """Whether somebody answers questions."""
        return bool(self.request.content["allow_stdin"])

    async def ask(self) -> str:
        """Waits for the answer to the question that was just asked."""
        self.answer = asyncio.get_running_loop().create_future()
        answer = await self.answer
        self.request.call.answers.append(answer)
        return answer

    def answered(self, text: str) -> None:
        """The answer to the question that the code asks, if it still does."""
        if self.answer is not None and not self.answer.done():
            self.answer.set_result(text)


class ScriptedLink(KernelLink):
    """A kernel that answers by a script, and the connection to it.

    Args:
        settings, on_message, on_death, on_lost: As for :class:`KernelLink`.
        respond: Gives the response to a call, or raises what the call is to raise.
    """

    def __init__(
        self,
        settings: LinkSettings,
        on_message: Callable[[Message], None],
        on_death: Callable[[ExitStatus], None],
        on_lost: Callable[[Exception], None],
        respond: Callable[[Call], Response],
    ) -> None:
        super().__init__(settings, on_message, on_death, on_lost)
        self._tell = on_message
        self._respond = respond
        self._kernel_session = uuid4().hex
        self._is_open = False
        self._runs: dict[str, _Run] = {}
        self._running: _Run | None = None
        self._playing: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._count = 0
        self._next = 1
        self._untold: ExitStatus | None = None

    @property
    def cursor(self) -> int | None:
        """Number of the next message."""
        return self._next if self._is_open else None

    async def open(self) -> None:
        """Makes up a kernel."""
        self.session_id = uuid4().hex
        self.kernel_id = self.settings.kernel_id or str(uuid4())
        self.kernel_name = self.settings.kernel_name or OWN_KERNEL
        self._is_open = True

    async def close(self) -> None:
        """Ends the kernel, and with it what runs."""
        self._is_open = False
        self._abandon(ExitStatus("unknown", detail="the client disconnected"))
        if self._tasks:
            _, pending = await asyncio.wait(self._tasks, timeout=_END_PATIENCE)
            if pending:
                log.warning("functions of responses that go on although they were cancelled: %d", len(pending))
        self.kernel_id = ""

    async def send(self, message: Message) -> None:
        """Takes a request. Raises ``ConnectionError``, and what comes before code runs."""
        if not self._is_open:
            raise ConnectionError("the client is not connected")
        if isinstance(message, CallMessage):
            self._start(message)
        elif message.type == "input_reply" and self._running is not None:
            self._running.answered(str(message.content.get("value", "")))

    async def interrupt(self) -> None:
        """Interrupts what runs: a function of a response is cancelled, and so is a question."""
        if self._playing is not None:
            self._playing.cancel()

    def report_later(self, status: ExitStatus) -> None:
        """The kernel lost its state and nobody was told; the next :meth:`make_usable` tells."""
        self._untold = self._untold or status

    async def make_usable(self) -> None:
        """Tells of a death that nobody was told of. Raises KernelDiedError."""
        status, self._untold = self._untold, None
        if status is not None:
            raise KernelDiedError(status, during_execution=False)

    async def replace(self) -> None:
        """Replaces the kernel by a fresh one, which counts executions from the beginning."""
        self._abandon(ExitStatus("restarted"))
        self._untold = None
        self._count = 0

    def follow(self, execution_id: str, listener: Listener, after: int) -> Callable[[], None]:
        """Tells a listener all about an execution, from a message on. What is returned ends that.

        Raises:
            ExecutionNotFoundError: There was no such execution.
        """
        run = self._runs.get(execution_id)
        if run is None:
            raise ExecutionNotFoundError(execution_id, self.kernel_id)
        for message in run.messages:
            if message.sequence is not None and message.sequence >= after:
                listener(message)
        if run.is_over:
            listener(wire.request("iopub", wire.OVER, {"execution": execution_id}, session=wire.HUB_SESSION))
            return lambda: None
        run.followers.append(listener)
        return partial(run.followers.remove, listener)

    def _start(self, request: CallMessage) -> None:
        call = request.call
        response: Any
        try:
            response = self._respond(call)
            if callable(response) and not isinstance(response, type):
                response = response(call.code)
        except (UnexpectedExecutionError, KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # pytest.fail() is no Exception
            response = error
        script: Script | None = None
        if not (inspect.isawaitable(response) or isinstance(response, AsyncGenerator)):
            script = _script(response, call)
            if script.error is not None and not script.runs:
                self._count = 0 if script.ends_kernel else self._count
                raise told(script.error)
        self._count += 1
        run = self._running = self._runs[request.id] = _Run(request, self._count)
        self._say(run, "status", {"execution_state": "busy"})
        self._say(run, "execute_input", {"code": call.code, "execution_count": run.count})
        task = self._playing = asyncio.create_task(self._play(run, script, response))
        self._tasks.add(task)
        task.add_done_callback(partial(self._played, run, response))

    async def _play(self, run: _Run, script: Script | None, response: Any) -> None:
        if isinstance(response, AsyncGenerator):
            script = await self._play_live(run, response)
        else:
            script = await self._play_script(run, script or await _awaited(response, run.request.call))
        failure = script.failure
        if failure is not None and failure not in script.events:
            self._happens(run, failure)
        self._finish(run, script, failure)

    async def _play_script(self, run: _Run, script: Script) -> Script:
        for event in script.events:
            if isinstance(event, InputRequest) and not run.has_somebody_to_ask:
                return nobody_to_ask(event)
            self._happens(run, event, saves_images=script.result is None)
            if isinstance(event, InputRequest):
                await run.ask()
        return script

    async def _play_live(self, run: _Run, steps: AsyncGenerator[Any, str | None]) -> Script:
        events: list[Event | BaseException] = []
        name = _name(run.request.call)
        async with aclosing(steps):
            answer: str | None = None
            while True:
                try:
                    event = event_of(name, await steps.asend(answer))
                except StopAsyncIteration:
                    break
                except Exception as error:
                    events.append(error)
                    break
                if isinstance(event, InputRequest) and not run.has_somebody_to_ask:
                    return nobody_to_ask(event)
                events.append(event)
                self._happens(run, event)
                answer = await run.ask() if isinstance(event, InputRequest) else None
        return _script(events, run.request.call)

    def _played(self, run: _Run, response: Any, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if inspect.iscoroutine(response):
            response.close()  # of a task that was cancelled before its first step
        if self._playing is task:
            self._playing = None
        if task.cancelled():
            self._happens(run, INTERRUPTED)
            self._finish(run, Script(), INTERRUPTED)
        else:
            error = task.exception()
            if error is not None:
                self._finish(run, Script(error=error), None)

    def _finish(self, run: _Run, script: Script, failure: ErrorOutput | None) -> None:
        content: dict[str, Any] = {"status": "ok", "execution_count": run.count, "payload": []}
        if failure is not None:
            content |= {"status": "error", **error_content(failure)}
        reply = wire.request("shell", "execute_reply", content, session=self._kernel_session, parent=run.request.header)
        self._emit(
            run,
            ScriptedReply(
                reply.channel, reply.header, reply.parent, content=content, error=script.error, result=script.result
            ),
        )
        self._say(run, "status", {"execution_state": "idle"})
        if self._running is run:
            self._running = None
            if script.ends_kernel:
                self._count = 0
        run.is_over = True

    def _happens(self, run: _Run, event: Event, saves_images: bool = True) -> None:
        self._emit(run, message_of(event, run.request, self._kernel_session, saves_images))

    def _say(self, run: _Run, kind: str, content: dict[str, Any]) -> None:
        parent = run.request.header
        self._emit(run, wire.request("iopub", kind, content, session=self._kernel_session, parent=parent))

    def _emit(self, run: _Run, message: Message) -> None:
        if run.is_over:
            return
        message.sequence = self._next
        self._next += 1
        run.messages.append(message)
        self._tell(message)
        for follower in list(run.followers):
            follower(message)

    def _abandon(self, status: ExitStatus) -> None:
        """Forgets what runs; whoever follows it is told how the kernel ended."""
        run, self._running = self._running, None
        for task in self._tasks:
            task.cancel()
        if run is not None and not run.is_over:
            run.is_over = True
            for follower in list(run.followers):
                follower(status)


class ScriptedAttachment(Attachment):
    """An execution of a fake kernel, seen from its journal.

    Args:
        link: The fake kernel.
        state, images: As for :class:`Attachment`.
        cursor: Number of the first message to get.
    """

    def __init__(self, link: ScriptedLink, state: ExecutionState, images: ImageWriter, *, cursor: int) -> None:
        self._link = link
        self._first = cursor
        self._execution = Execution(self, state, images)
        self._leave: Callable[[], None] = lambda: None

    async def __aenter__(self) -> Execution:
        self._leave = self._link.follow(self._execution.id, self._execution.deliver, self._first)
        return await self._execution.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()
        await self._execution.__aexit__(kind, error, trace)

    @property
    def cursor(self) -> int | None:
        """Number of the next message."""
        return self._link.cursor


async def _awaited(response: Any, call: Call) -> Script:
    try:
        response = await response
    except Exception as error:
        response = error
    return _script(response, call)


def _script(response: Any, call: Call) -> Script:
    if callable(response) and not isinstance(response, type):
        error = TypeError(f"{_name(call)} is a function that returned a function, {response!r}; one is enough")
        return Script(error=error)
    try:
        return script_of(_name(call), response, call.timeout)
    except (TypeError, ValueError) as wrong:
        return Script(error=wrong)


def _name(call: Call) -> str:
    return f"the response to {call.code!r}"
