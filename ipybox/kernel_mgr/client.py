"""Run code in a stateful kernel and lose nothing of what it says. Floor: kernel_mgr."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Coroutine, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TypedDict, Unpack
from uuid import uuid4

from ipybox import arguments
from ipybox.errors import ConnectionLostError, ExecutionError, IpyboxError
from ipybox.exit_status import ExitStatus
from ipybox.kernel_mgr import wire
from ipybox.kernel_mgr.attachment import Attachment
from ipybox.kernel_mgr.execution import Execution, InputCallback
from ipybox.kernel_mgr.execution_state import ExecutionState
from ipybox.kernel_mgr.images import ImageWriter
from ipybox.kernel_mgr.kernel_link import KernelLink, LinkSettings
from ipybox.kernel_mgr.late_output import LateOutput
from ipybox.kernel_mgr.options import checked as options_of
from ipybox.kernel_mgr.wire import Message
from ipybox.output_limit import OutputLimit
from ipybox.outputs import DisplayOutput, ExecutionResult, StreamOutput
from ipybox.paths import PinnedDirectory

__all__ = [
    "Execution",
    "ExecutionError",
    "ExecutionResult",
    "KernelClient",
]

OWN_KERNEL = "ipybox"
"""Name of the kernelspec that knows per-execution options."""

log = logging.getLogger("ipybox.client")


class RunOptions(TypedDict, total=False):
    """Keyword arguments that ``run``, ``execute`` and ``stream`` share; ``execute`` explains them."""

    env: Mapping[str, str] | None
    cwd: Path | str | None
    file_name: str | None
    argv: list[str] | None
    on_input: InputCallback | None
    output_limit: OutputLimit | None


class KernelClient:
    """One stateful IPython kernel behind a gateway, as an async context manager.

    Entering starts a kernel and returns when it answers; leaving ends it. Calls made at the same time run one after
    the other, in order. A client belongs to the event loop in which it was connected.

    Args:
        host: Where the gateway listens.
        port: Its port.
        images_dir: Where images that code shows are saved. Made when needed, removed again if it stays empty. It may
            be a directory that kernel code can write to. Default: ``images`` in the current directory.
        auth_token: The gateway's token, if it wants one.
        kernel_id: Join this running kernel in place of starting one. It is not ended on leaving.
        kernel_name: Kernelspec to start; None is the gateway's default.
        keep_kernel: Leave the kernel running on leaving, for somebody to join it.
        on_input: Answers questions of the code (``input()``); without it they raise in the kernel.
        output_limit: Limit of the text in results; None keeps everything.
        connect_timeout: Seconds to connect, the kernel's start included.
        interrupt_grace: Seconds that code gets to react to an interrupt, at a timeout or a cancellation, before the
            kernel is restarted.
        ping_interval: Seconds between pings. A connection that does not answer one in the same time counts as broken.
        reconnect_timeout: Seconds to try to make a broken connection again before a call gives up.

    Raises:
        ValueError, TypeError: For an argument that makes no sense.
    """

    def __init__(
        self,
        host: str = "localhost",
        port: int = 8888,
        *,
        images_dir: Path | str | None = None,
        auth_token: str | None = None,
        kernel_id: str | None = None,
        kernel_name: str | None = None,
        keep_kernel: bool = False,
        on_input: InputCallback | None = None,
        output_limit: OutputLimit | None = None,
        connect_timeout: float = 60.0,
        interrupt_grace: float = 5.0,
        ping_interval: float = 20.0,
        reconnect_timeout: float = 1.5,
    ) -> None:
        self.host = arguments.text("host", host)
        self.port = arguments.port(port)
        self.images_dir = _images_dir(images_dir)
        self.on_input = _callback(on_input)
        self.output_limit = _limit(output_limit)
        self.interrupt_grace = arguments.seconds("interrupt_grace", interrupt_grace)
        self._settings = LinkSettings(
            host=self.host,
            port=self.port,
            auth_token=None if auth_token is None else arguments.token("auth_token", auth_token),
            kernel_id=None if kernel_id is None else arguments.identifier("kernel_id", kernel_id),
            kernel_name=None if kernel_name is None else arguments.identifier("kernel_name", kernel_name),
            keep_kernel=arguments.flag("keep_kernel", keep_kernel),
            connect_timeout=arguments.seconds("connect_timeout", connect_timeout),
            ping_interval=arguments.seconds("ping_interval", ping_interval),
            reconnect_timeout=arguments.seconds("reconnect_timeout", reconnect_timeout),
        )
        self._link: KernelLink | None = None
        self._images = ImageWriter(self.images_dir)
        self._turn = asyncio.Lock()
        self._interrupting = asyncio.Lock()
        self._executions: dict[str, Execution] = {}
        self._stops: dict[str, asyncio.Task[bool]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._late = LateOutput()

    # ---- lifetime ---------------------------------------------------------------------------------------------

    @property
    def kernel_id(self) -> str:
        """Id of the kernel. Raises ``RuntimeError`` when not connected."""
        return self._connected().kernel_id

    @property
    def is_connected(self) -> bool:
        """Whether :meth:`connect` was called and :meth:`disconnect` was not yet."""
        return self._link is not None

    async def connect(self) -> None:
        """Starts a kernel, or joins the one that was named, and returns when it answers.

        Raises:
            GatewayConnectionError: Nothing usable answers at the address, or the token is wrong.
            KernelStartError: The kernel did not come up, or the one to join does not exist.
        """
        if self._link is not None:
            raise RuntimeError(f"already connected to kernel {self._link.kernel_id}")
        self._images = ImageWriter(self.images_dir)
        try:
            self._images.directory.open()
        except OSError as error:
            raise ValueError(f"images_dir can't be used: {error}") from error
        link = KernelLink(self._settings, self._on_message, self._on_death, self._on_lost)
        try:
            await link.open()
        except BaseException:
            self._images.close()
            raise
        self._link = link

    async def disconnect(self) -> None:
        """Ends the kernel, unless it was joined or is to be kept, and closes the connection."""
        link, self._link = self._link, None
        for execution in list(self._executions.values()):
            execution.deliver(ConnectionError("the client disconnected"))
        tasks: list[asyncio.Task[Any]] = [*self._stops.values(), *self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        try:
            if link is not None:
                await link.close()
        finally:
            self._images.close()

    async def reset(self) -> None:
        """Replaces the kernel by a fresh one with the same id. Code that runs is ended with a KernelDiedError."""
        link = self._connected()
        async with self._interrupting:
            for execution in list(self._executions.values()):
                execution.deliver(ExitStatus("restarted", detail="reset() was called"))
            await link.replace()

    async def interrupt(self) -> None:
        """Interrupts what is running: it raises ``KeyboardInterrupt`` in the kernel. Without a running execution,
        nothing happens."""
        link = self._connected()
        async with self._interrupting:
            if self._executions:
                await link.interrupt()

    async def __aenter__(self) -> KernelClient:
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.disconnect()

    # ---- running code -----------------------------------------------------------------------------------------

    async def execute(
        self,
        code: str,
        timeout: float | None = None,
        **options: Unpack[RunOptions],
    ) -> ExecutionResult:
        """Runs code and returns what it produced.

        Args:
            code: Python, as in a notebook cell: the value of the last expression is shown, ``await`` works.
            timeout: Seconds that it may run, counted from when it is sent. None is no limit.
            env: Environment variables for this execution only.
            cwd: Working directory for this execution only.
            file_name: What tracebacks call the code.
            argv: ``sys.argv`` for this execution only.
            on_input: As in the constructor, for this execution.
            output_limit: As in the constructor, for this execution.

        Raises:
            ExecutionError: The code raised.
            ExecutionTimeoutError: It ran too long. Says whether variables survived.
            KernelDiedError: The kernel is gone; with ``during_execution`` False it was so before, and nothing ran.
            ConnectionLostError: The connection broke and could not be made again.
            OutputLostError: Some output can't be delivered any more.
            ImageWriteError: An image could not be saved without risk.

            All of them carry what was produced until then in ``result``.
        """
        async with self.run(code, timeout, **options) as execution:
            return await execution.result()

    async def stream(
        self,
        code: str,
        timeout: float | None = None,
        **options: Unpack[RunOptions],
    ) -> AsyncIterator[str | ExecutionResult]:
        """Runs code and yields its text as it comes, then the :class:`ExecutionResult`.

        Arguments and errors are those of :meth:`execute`. Leaving early interrupts the code as soon as the generator
        is closed: at once with ``contextlib.aclosing``, else when Python gets to it. :meth:`run` does not have that
        wrinkle.
        """
        async with self.run(code, timeout, **options) as execution:
            async for event in execution:
                if isinstance(event, StreamOutput) or (isinstance(event, DisplayOutput) and event.text):
                    yield event.text
            yield execution.partial()

    def run(
        self,
        code: str,
        timeout: float | None = None,
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | str | None = None,
        file_name: str | None = None,
        argv: list[str] | None = None,
        on_input: InputCallback | None = None,
        output_limit: OutputLimit | None = None,
    ) -> Execution:
        """Runs code under full control: ``async with client.run(code) as execution``, then iterate over its events.

        Arguments and errors are those of :meth:`execute`; the errors come at the end of the iteration.
        """
        if not isinstance(code, str):
            raise TypeError(f"code must be a str, got {code!r}")
        if timeout is not None:
            timeout = arguments.seconds("timeout", timeout)
        options = options_of(env=env, cwd=cwd, file_name=file_name, argv=argv)
        limit = _limit(output_limit) or self.output_limit
        ask = _callback(on_input) or self.on_input
        execution_id = uuid4().hex
        content = {
            "code": code,
            "silent": False,
            "store_history": True,
            "user_expressions": {},
            "allow_stdin": ask is not None,
            "stop_on_error": False,
        }
        request = wire.request(
            "shell",
            "execute_request",
            content,
            session="",
            message_id=execution_id,
            metadata={wire.METADATA_KEY: options} if options else {},
        )
        state = ExecutionState(execution_id, limit, *self._spill(limit))
        return Execution(self, state, self._images, code=code, timeout=timeout, on_input=ask, content=request)

    def attach(self, execution_id: str, after: int = 0, *, output_limit: OutputLimit | None = None) -> Attachment:
        """Follows an execution of this client's kernel from the gateway's journal, whoever started it.

        ``async with client.attach(execution_id) as execution`` gives what :meth:`run` gives: its events from the
        beginning, or from the cursor ``after``, as far as the journal keeps them, and then live. Leaving early does
        not interrupt the code.

        Raises:
            ExecutionNotFoundError: On entering, when the gateway keeps no journal of it.
            OutputLostError: At the end, when some of it had left the journal.
        """
        arguments.identifier("execution_id", execution_id)
        arguments.position("after", after)
        limit = _limit(output_limit) or self.output_limit
        state = ExecutionState(execution_id, limit, *self._spill(limit))
        link = self._connected()
        return Attachment(
            link.api.address,
            link.api.headers,
            link.kernel_id,
            state,
            self._images,
            cursor=after,
            ping_interval=self._settings.ping_interval,
            open_timeout=self._settings.connect_timeout,
            reconnect_timeout=self._settings.reconnect_timeout,
        )

    def late_output(self, execution_id: str | None = None) -> str:
        """Text that code wrote after its execution had ended, from threads, tasks and child processes.

        Args:
            execution_id: Of which execution; None is all of them, in the order of arrival.

        The newest 4 MiB are kept; all of it is in the gateway's journal.
        """
        return self._late.text(execution_id)

    # ---- what an execution needs of us ------------------------------------------------------------------------

    @property
    def cursor(self) -> int | None:
        """Number of the next message in the kernel's journal."""
        return self._link.cursor if self._link is not None else None

    async def begin(self, execution: Execution) -> None:
        """Waits for an execution's turn and sends its request."""
        await self._turn.acquire()
        try:
            link = self._connected()
            async with self._interrupting:
                pass  # an interrupt on its way is meant for what ran before
            execution.state.open()
            await link.make_usable()
            assert execution.message is not None
            if execution.message.metadata and link.kernel_name != OWN_KERNEL:
                name = link.kernel_name
                raise ValueError(f"env, cwd, file_name and argv need ipybox's own kernel, and this is {name!r}")
            execution.message.header["session"] = link.session_id
        except BaseException:
            execution.state.close()
            self._turn.release()
            raise
        self._executions[execution.id] = execution
        self._late.expect(execution.id)
        sending = asyncio.ensure_future(link.send(execution.message))
        try:
            await asyncio.shield(sending)
        except ConnectionError as error:
            execution.state.close()
            self._forget(execution)
            raise ConnectionLostError(str(error), execution.id, self.cursor) from error
        except BaseException:
            # Cancelled while the request was on its way: it will run, so it has to be stopped.
            self._keep(self._end_later(execution, sending))
            raise

    async def answer(self, execution: Execution, text: str) -> None:
        """Sends the answer to a question of the code."""
        if self._link is None or execution.message is None:
            return
        reply = wire.request(
            "stdin",
            "input_reply",
            {"value": text, "status": "ok"},
            session=self._link.session_id,
            parent=execution.message.header,
        )
        try:
            await self._link.send(reply)
        except ConnectionError as error:
            log.debug("answer not sent: %s", error)  # the execution hears of the lost connection as well

    async def stop(self, execution: Execution) -> bool:
        """Brings the kernel to rest: interrupts, and restarts it when that does not help. False for the latter."""
        task = self._stops.get(execution.id)
        if task is None:
            task = self._stops[execution.id] = asyncio.create_task(self._bring_to_rest(execution))
        return await asyncio.shield(task)

    def end(self, execution: Execution) -> None:
        """An execution is over, or nobody waits for it any more. The next one's turn comes when the kernel rests."""
        stopping = self._stops.get(execution.id)
        if (stopping is None or stopping.done()) and execution.over.is_set():
            self._forget(execution)
            return
        self._keep(self._end_later(execution))

    # ---- inside -----------------------------------------------------------------------------------------------

    def _connected(self) -> KernelLink:
        if self._link is None:
            raise RuntimeError("not connected to a kernel; use 'async with KernelClient(...)' or connect()")
        return self._link

    def _spill(self, limit: OutputLimit | None) -> tuple[PinnedDirectory | None, bool]:
        """Where all of the text goes, and whether that is the execution's own to close."""
        if limit is None:
            return None, False
        if limit.directory is None:
            return self._images.directory, False
        return PinnedDirectory(limit.directory), True

    async def _bring_to_rest(self, execution: Execution) -> bool:
        link = self._connected()
        try:
            # Before the kernel has begun with it, an interrupt would hit nothing, or somebody else's code.
            async with asyncio.timeout(self.interrupt_grace):
                await execution.started.wait()
        except TimeoutError:
            log.debug("execution %s has not begun; interrupting all the same", execution.id)
        for _ in range(2):
            # Twice: the first one can vanish in a callback that can't raise.
            if execution.over.is_set():
                return not link.is_dead
            async with self._interrupting:
                await link.interrupt()
            try:
                async with asyncio.timeout(self.interrupt_grace / 2):
                    await execution.over.wait()
                return not link.is_dead
            except TimeoutError:
                if await self._is_only_talking(execution):
                    return not link.is_dead
        await link.replace()
        execution.over.set()
        return False

    async def _is_only_talking(self, execution: Execution) -> bool:
        """Whether the code has ended and only its output, of which there is much, is still on its way."""
        loop = asyncio.get_running_loop()
        while execution.answered.is_set() and not execution.over.is_set():
            if loop.time() - execution.heard_at > self.interrupt_grace:
                return False
            try:
                async with asyncio.timeout(self.interrupt_grace / 10):
                    await execution.over.wait()
            except TimeoutError:
                continue
        return execution.over.is_set()

    def _keep(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _end_later(self, execution: Execution, sending: asyncio.Future[None] | None = None) -> None:
        try:
            if sending is not None:
                await sending
            preserved = await self.stop(execution)
            if not preserved and not execution.told_of_loss:
                # The caller went away before this, so the next one hears of it.
                link = self._connected()
                link.report_later(ExitStatus("restarted", detail="abandoned code ignored its interrupt"))
        except (IpyboxError, ConnectionError) as error:
            log.debug("the kernel could not be brought to rest: %s", error)
        finally:
            self._forget(execution)

    def _forget(self, execution: Execution) -> None:
        self._stops.pop(execution.id, None)
        if self._executions.pop(execution.id, None) is not None:
            self._turn.release()

    def _on_message(self, message: Message) -> None:
        if message.type == wire.OVER:
            missed = self._executions.get(str(message.content.get("execution")))
            if missed is not None:
                missed.deliver(message)
            return
        if message.type == wire.GAP:
            for execution in self._executions.values():
                execution.deliver(message)
            return
        running = self._executions.get(message.parent_id)
        if running is not None:
            running.deliver(message)
        elif message.type == "stream" and message.parent_id in self._late:
            self._late.add(message.parent_id, str(message.content.get("text", "")))

    def _on_death(self, status: ExitStatus) -> None:
        if not self._executions and self._link is not None:
            self._link.report_later(status)
        for execution in list(self._executions.values()):
            execution.deliver(status)

    def _on_lost(self, error: Exception) -> None:
        for execution in list(self._executions.values()):
            execution.deliver(error)


def _callback(value: InputCallback | None) -> InputCallback | None:
    if value is not None and not callable(value):
        raise TypeError(f"on_input must be callable, got {value!r}")
    return value


def _limit(value: OutputLimit | None) -> OutputLimit | None:
    if value is not None and not isinstance(value, OutputLimit):
        raise TypeError(f"output_limit must be an OutputLimit, got {value!r}")
    return value


def _images_dir(value: Path | str | None) -> Path:
    if value is not None and not isinstance(value, str | os.PathLike):
        raise TypeError(f"images_dir must be a path, got {value!r}")
    path = Path("images") if value is None else Path(value)
    if path.exists() and not path.is_dir():
        raise ValueError(f"images_dir must be a directory, got the file {str(path)!r}")
    return path
