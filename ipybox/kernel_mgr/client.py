"""Run code in a stateful kernel and lose nothing of what it says. Floor: kernel_mgr."""

from __future__ import annotations

import asyncio
import logging
import os
from collections import OrderedDict
from collections.abc import AsyncIterator, Coroutine, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any
from uuid import uuid4

from ipybox import arguments
from ipybox.errors import (
    ConnectionLostError,
    ExecutionError,
    GatewayConnectionError,
    IpyboxError,
    KernelDiedError,
    KernelStartError,
)
from ipybox.exit_status import ExitStatus
from ipybox.kernel_mgr import wire
from ipybox.kernel_mgr.attachment import Attachment
from ipybox.kernel_mgr.channel import KernelChannel
from ipybox.kernel_mgr.execution import Execution, InputCallback
from ipybox.kernel_mgr.execution_state import ExecutionState
from ipybox.kernel_mgr.images import ImageWriter
from ipybox.kernel_mgr.late_output import LateOutput
from ipybox.kernel_mgr.options import checked as options_of
from ipybox.kernel_mgr.rest import GatewayApi, KernelNotFoundError
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
        self.on_input = on_input
        self.output_limit = output_limit
        self.keep_kernel = keep_kernel
        self.connect_timeout = arguments.seconds("connect_timeout", connect_timeout)
        self.interrupt_grace = arguments.seconds("interrupt_grace", interrupt_grace)
        self.ping_interval = arguments.seconds("ping_interval", ping_interval)
        self.reconnect_timeout = arguments.seconds("reconnect_timeout", reconnect_timeout)
        self._kernel_name = kernel_name
        self._joined = kernel_id
        self._auth_token = auth_token
        self._kernel_id: str | None = None
        self._session_id = ""
        self._api: GatewayApi | None = None
        self._channel: KernelChannel | None = None
        self._images = ImageWriter(self.images_dir)
        self._turn = asyncio.Lock()
        self._interrupting = asyncio.Lock()
        self._executions: OrderedDict[str, Execution] = OrderedDict()
        self._stops: dict[str, asyncio.Task[bool]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._late = LateOutput()
        self._death: ExitStatus | None = None
        self._unreported: ExitStatus | None = None
        self._incarnation = 0
        self._spec = ""
        self._restarting = False
        self._while_restarting: list[Message] = []

    # ---- lifetime ---------------------------------------------------------------------------------------------

    @property
    def kernel_id(self) -> str:
        """Id of the kernel. Raises ``RuntimeError`` when not connected."""
        if self._kernel_id is None:
            raise RuntimeError("not connected to a kernel; use 'async with KernelClient(...)' or connect()")
        return self._kernel_id

    @property
    def is_connected(self) -> bool:
        """Whether :meth:`connect` was called and :meth:`disconnect` was not yet."""
        return self._kernel_id is not None

    async def connect(self) -> None:
        """Starts a kernel, or joins the one that was named, and returns when it answers.

        Raises:
            GatewayConnectionError: Nothing usable answers at the address, or the token is wrong.
            KernelStartError: The kernel did not come up, or the one to join does not exist.
        """
        if self._kernel_id is not None:
            raise RuntimeError(f"already connected to kernel {self._kernel_id}")
        self._prepare_images()
        self._api = GatewayApi(self.host, self.port, self._auth_token, self.connect_timeout)
        try:
            async with asyncio.timeout(self.connect_timeout) as limit:
                await self._api.check()
                await self._acquire_kernel()
        except BaseException as error:
            await self._give_up_connecting()
            if isinstance(error, TimeoutError) and limit.expired():
                reason = f"no kernel answered within {self.connect_timeout:g} s"
                raise GatewayConnectionError(self._address, reason) from error
            raise

    async def disconnect(self) -> None:
        """Ends the kernel, unless it was joined or is to be kept, and closes the connection."""
        tasks: list[asyncio.Task[Any]] = [*self._stops.values(), *self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        channel, self._channel = self._channel, None
        api, self._api = self._api, None
        kernel_id, self._kernel_id = self._kernel_id, None
        for execution in list(self._executions.values()):
            execution.deliver(ConnectionError("the client disconnected"))
        self._executions.clear()
        try:
            if channel is not None:
                await channel.close()
            if api is not None and kernel_id is not None and self._owns_kernel:
                await api.delete_kernel(kernel_id)
        except GatewayConnectionError as error:
            log.debug("kernel %s was not ended: %s", kernel_id, error)  # its gateway is gone, and it with it
        finally:
            if api is not None:
                await api.close()
            self._images.close()

    async def reset(self) -> None:
        """Replaces the kernel by a fresh one with the same id. Code that runs is ended."""
        async with self._turn:
            await self._revive()

    async def interrupt(self) -> None:
        """Interrupts what is running: it raises ``KeyboardInterrupt`` in the kernel. Without a running execution,
        nothing happens."""
        async with self._interrupting:
            if self._executions:
                await self._connected_api().interrupt(self.kernel_id)

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
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | str | None = None,
        file_name: str | None = None,
        argv: list[str] | None = None,
        on_input: InputCallback | None = None,
        output_limit: OutputLimit | None = None,
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
        run = self.run(
            code,
            timeout,
            env=env,
            cwd=cwd,
            file_name=file_name,
            argv=argv,
            on_input=on_input,
            output_limit=output_limit,
        )
        async with run as execution:
            return await execution.result()

    async def stream(
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
    ) -> AsyncIterator[str | ExecutionResult]:
        """Runs code and yields its text as it comes, then the :class:`ExecutionResult`.

        Arguments and errors are those of :meth:`execute`. Leaving early interrupts the code as soon as the generator
        is closed: at once with ``contextlib.aclosing``, else when Python gets to it. :meth:`run` does not have that
        wrinkle.
        """
        run = self.run(
            code,
            timeout,
            env=env,
            cwd=cwd,
            file_name=file_name,
            argv=argv,
            on_input=on_input,
            output_limit=output_limit,
        )
        async with run as execution:
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
        limit = output_limit if output_limit is not None else self.output_limit
        ask = on_input if on_input is not None else self.on_input
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
            session=self._session_id,
            message_id=execution_id,
            metadata={wire.METADATA_KEY: options} if options else {},
        )
        state = ExecutionState(execution_id, limit, self._spill_directory(limit))
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
        state = ExecutionState(execution_id, output_limit, self._spill_directory(output_limit))
        return Attachment(
            self._address,
            self._connected_api().headers,
            self.kernel_id,
            state,
            self._images,
            cursor=after,
            ping_interval=self.ping_interval,
            open_timeout=self.connect_timeout,
            reconnect_timeout=self.reconnect_timeout,
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
        return self._channel.cursor if self._channel is not None else None

    async def begin(self, execution: Execution) -> None:
        """Waits for an execution's turn and sends its request."""
        self.kernel_id  # noqa: B018 - raises when not connected
        await self._turn.acquire()
        try:
            async with self._interrupting:
                pass  # an interrupt on its way is meant for what ran before
            await self._make_usable()
            if self._channel is None or execution.message is None:
                raise RuntimeError("not connected to a kernel")
            if execution.message.metadata and self._spec != OWN_KERNEL:
                raise ValueError(f"env, cwd, file_name and argv need ipybox's own kernel, and this is {self._spec!r}")
            execution.message.header["session"] = self._session_id
        except BaseException:
            self._turn.release()
            raise
        self._executions[execution.id] = execution
        sending = asyncio.ensure_future(self._channel.send(execution.message))
        try:
            await asyncio.shield(sending)
        except ConnectionError as error:
            self._forget(execution)
            raise ConnectionLostError(str(error), execution.id, self.cursor) from error
        except BaseException:
            # Cancelled while the request was on its way: it will run, so it has to be stopped.
            self._keep(self._end_later(execution, sending))
            raise

    async def answer(self, execution: Execution, text: str) -> None:
        """Sends the answer to a question of the code."""
        if self._channel is None or execution.message is None:
            return
        reply = wire.request(
            "stdin",
            "input_reply",
            {"value": text, "status": "ok"},
            session=self._session_id,
            parent=execution.message.header,
        )
        try:
            await self._channel.send(reply)
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

    @property
    def _address(self) -> str:
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    @property
    def _owns_kernel(self) -> bool:
        return self._joined is None and not self.keep_kernel

    def _connected_api(self) -> GatewayApi:
        if self._api is None:
            raise RuntimeError("not connected to a kernel; use 'async with KernelClient(...)' or connect()")
        return self._api

    def _prepare_images(self) -> None:
        self._images = ImageWriter(self.images_dir)
        try:
            self._images.directory.open()
        except OSError as error:
            raise ValueError(f"images_dir can't be used: {error}") from error

    def _spill_directory(self, limit: OutputLimit | None) -> PinnedDirectory | None:
        if limit is None:
            return None
        return self._images.directory if limit.directory is None else PinnedDirectory(limit.directory)

    async def _acquire_kernel(self) -> None:
        api = self._connected_api()
        self._session_id = uuid4().hex
        if self._joined is not None:
            self._kernel_id = self._joined
            try:
                model = await api.kernel(self._joined)
            except KernelNotFoundError:
                raise KernelStartError(f"the gateway has no kernel {self._joined}") from None
        else:
            model = await api.create_kernel(self._kernel_name)
            self._kernel_id = str(model["id"])
        self._incarnation = int(model.get("incarnation", 0))
        self._spec = str(model.get("name", ""))
        await self._open_channel(None)
        self._death = self._unreported = None

    async def _open_channel(self, cursor: int | None) -> None:
        channel = KernelChannel(
            self._address,
            self._connected_api().headers,
            self.kernel_id,
            self._session_id,
            self._on_message,
            self._on_lost,
            cursor=cursor,
            ping_interval=self.ping_interval,
            open_timeout=self.connect_timeout,
            reconnect_timeout=self.reconnect_timeout,
        )
        try:
            await channel.open()
        except KernelNotFoundError as error:
            raise KernelStartError(f"the gateway has no kernel {self.kernel_id}") from error
        self._channel = channel

    async def _give_up_connecting(self) -> None:
        api, kernel_id = self._api, self._kernel_id
        self._api = self._kernel_id = None
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close()
        if api is not None:
            try:
                if kernel_id is not None and self._owns_kernel:
                    await api.delete_kernel(kernel_id)
            except IpyboxError as error:
                log.debug("kernel %s was not ended: %s", kernel_id, error)
            finally:
                await api.close()
        self._images.close()

    async def _make_usable(self) -> None:
        """A live connection to a live kernel; a death that nobody was told of is told now."""
        if self._unreported is not None:
            status, self._unreported = self._unreported, None
            raise KernelDiedError(status, during_execution=False)
        if self._channel is not None and self._channel.is_lost:
            await self._connect_again()
        if self._death is not None:
            await self._revive()

    async def _connect_again(self) -> None:
        assert self._channel is not None
        cursor = self._channel.cursor
        await self._channel.close()
        try:
            await self._open_channel(cursor)
        except KernelStartError:
            # The gateway lives and does not know our kernel: it is another gateway by now.
            await self._connected_api().check()
            if self._joined is not None:
                raise
            await self._acquire_kernel()
            status = ExitStatus("unknown", detail="its gateway was replaced")
            raise KernelDiedError(status, during_execution=False) from None

    async def _revive(self) -> None:
        self._restarting = True
        try:
            model = await self._connected_api().restart(self.kernel_id)
            self._incarnation = int(model.get("incarnation", 0))
        except KernelNotFoundError:
            if self._joined is not None:
                raise KernelStartError(f"the gateway has no kernel {self._joined} any more") from None
            if self._channel is not None:
                await self._channel.close()
            await self._acquire_kernel()
        finally:
            self._restarting = False
        self._death = self._unreported = None
        # What was said meanwhile about the new process counts; the rest was about the one that we replaced.
        meanwhile, self._while_restarting = self._while_restarting, []
        for message in meanwhile:
            self._on_kernel_status(message)

    async def _bring_to_rest(self, execution: Execution) -> bool:
        api = self._connected_api()
        for _ in range(2):
            # Twice: the first one can vanish in a callback that can't raise.
            if execution.over.is_set():
                return self._death is None
            async with self._interrupting:
                await api.interrupt(self.kernel_id)
            try:
                async with asyncio.timeout(self.interrupt_grace / 2):
                    await execution.over.wait()
                return self._death is None
            except TimeoutError:
                continue
        await self._revive()
        execution.over.set()
        return False

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
                self._unreported = self._unreported or ExitStatus(
                    "restarted", detail="abandoned code ignored its interrupt"
                )
        except (IpyboxError, ConnectionError) as error:
            log.debug("kernel %s could not be brought to rest: %s", self._kernel_id, error)
        finally:
            self._forget(execution)

    def _forget(self, execution: Execution) -> None:
        self._stops.pop(execution.id, None)
        if self._executions.pop(execution.id, None) is not None:
            self._turn.release()

    def _on_message(self, message: Message) -> None:
        if message.type == "status" and message.header.get("session") == wire.HUB_SESSION:
            self._on_kernel_status(message)
            return
        if message.type == wire.GAP:
            for execution in self._executions.values():
                execution.deliver(message)
            return
        running = self._executions.get(message.parent_id)
        if running is not None:
            running.deliver(message)
        elif message.type == "stream":
            self._late.add(message.parent_id, str(message.content.get("text", "")))

    def _on_kernel_status(self, message: Message) -> None:
        if self._restarting:
            self._while_restarting.append(message)
            return
        ours = message.metadata.get(wire.METADATA_KEY) or {}
        if int(ours.get("incarnation", self._incarnation)) < self._incarnation:
            return  # about a process that we had replaced
        status = ExitStatus.from_dict(ours.get("exit") or {})
        if message.content.get("execution_state") == "dead":
            self._death = status
        elif message.content.get("execution_state") != "restarting":
            return
        if self._executions:
            for execution in list(self._executions.values()):
                execution.deliver(status)
        else:
            self._unreported = status

    def _on_lost(self, error: Exception) -> None:
        for execution in list(self._executions.values()):
            execution.deliver(error)


def _images_dir(value: Path | str | None) -> Path:
    if value is not None and not isinstance(value, str | os.PathLike):
        raise TypeError(f"images_dir must be a path, got {value!r}")
    path = Path("images") if value is None else Path(value)
    if path.exists() and not path.is_dir():
        raise ValueError(f"images_dir must be a directory, got the file {str(path)!r}")
    return path
