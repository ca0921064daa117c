"""Follow an execution that somebody started, from the gateway's journal. Floor: kernel_mgr."""

from __future__ import annotations

import asyncio
from types import TracebackType

from ipybox.errors import ExecutionNotFoundError
from ipybox.exit_status import ExitStatus
from ipybox.kernel_mgr import wire
from ipybox.kernel_mgr.channel import KernelChannel
from ipybox.kernel_mgr.execution import Execution
from ipybox.kernel_mgr.execution_state import ExecutionState
from ipybox.kernel_mgr.images import ImageWriter
from ipybox.kernel_mgr.rest import KernelNotFoundError
from ipybox.kernel_mgr.wire import Message


class Attachment:
    """An execution seen from the journal: an async context manager that gives an :class:`Execution`.

    It has a connection of its own, so it disturbs nothing; leaving it leaves the code alone.
    """

    def __init__(
        self,
        address: str,
        headers: dict[str, str],
        kernel_id: str,
        state: ExecutionState,
        images: ImageWriter,
        *,
        cursor: int,
        ping_interval: float,
        open_timeout: float,
        reconnect_timeout: float,
    ) -> None:
        self._kernel_id = kernel_id
        self._execution = Execution(self, state, images)
        self._channel = KernelChannel(
            address,
            headers,
            kernel_id,
            f"attached-{state.execution_id}",
            self._on_message,
            self._execution.deliver,
            execution=state.execution_id,
            cursor=cursor or None,
            ping_interval=ping_interval,
            open_timeout=open_timeout,
            reconnect_timeout=reconnect_timeout,
        )

    async def __aenter__(self) -> Execution:
        self._execution.state.open()
        try:
            await self._channel.open()
            return await self._execution.__aenter__()
        except BaseException as error:
            self._execution.state.close()
            await asyncio.shield(self._channel.close())
            if isinstance(error, KernelNotFoundError):
                raise ExecutionNotFoundError(self._execution.id, self._kernel_id) from None
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self._execution.__aexit__(kind, error, trace)
        finally:
            await asyncio.shield(self._channel.close())

    # ---- what an execution needs of its owner -----------------------------------------------------------------

    @property
    def cursor(self) -> int | None:
        """Number of the next message in the journal."""
        return self._channel.cursor

    async def begin(self, execution: Execution) -> None:
        """Nothing to send: it runs, or ran."""

    async def answer(self, execution: Execution, text: str) -> None:
        """Questions are answered by the client that started the execution."""

    async def stop(self, execution: Execution) -> bool:
        """Watching has no timeout."""
        return True

    def end(self, execution: Execution) -> None:
        """Nothing waits for this."""

    def _on_message(self, message: Message) -> None:
        if message.type == wire.OVER and message.content.get("execution") != self._execution.id:
            return
        if message.type == "status" and message.header.get("session") == wire.HUB_SESSION:
            ours = message.metadata.get(wire.METADATA_KEY) or {}
            self._execution.deliver(ExitStatus.from_dict(ours.get("exit") or {}))
        elif message.type in (wire.GAP, wire.OVER) or message.parent_id == self._execution.id:
            self._execution.deliver(message)
