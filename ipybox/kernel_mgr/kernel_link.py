"""One client's hold on its kernel: get one, lose it, get it back, and know which of these happened.
Floor: kernel_mgr."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from ipybox.errors import GatewayConnectionError, IpyboxError, KernelDiedError, KernelStartError
from ipybox.exit_status import ExitStatus
from ipybox.kernel_mgr import wire
from ipybox.kernel_mgr.channel import KernelChannel
from ipybox.kernel_mgr.rest import GatewayApi, KernelNotFoundError, KernelNotReadyError
from ipybox.kernel_mgr.wire import Message

log = logging.getLogger("ipybox.client")


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkSettings:
    """How a client gets and keeps its kernel; the meanings are those of :class:`KernelClient`'s arguments."""

    host: str
    port: int
    auth_token: str | None
    kernel_id: str | None
    kernel_name: str | None
    keep_kernel: bool
    connect_timeout: float
    ping_interval: float
    reconnect_timeout: float

    @property
    def owns_kernel(self) -> bool:
        """Whether the kernel ends with the client."""
        return self.kernel_id is None and not self.keep_kernel

    @property
    def joins(self) -> bool:
        """Whether the kernel is somebody else's."""
        return self.kernel_id is not None


class KernelLink:
    """A kernel and the connection to it.

    Args:
        settings: See there.
        on_message: Called with each message of the kernel.
        on_death: Called when the kernel is gone, or was replaced by somebody else.
        on_lost: Called when the connection is lost for good.
    """

    def __init__(
        self,
        settings: LinkSettings,
        on_message: Callable[[Message], None],
        on_death: Callable[[ExitStatus], None],
        on_lost: Callable[[Exception], None],
    ) -> None:
        self.settings = settings
        self.kernel_id = ""
        self.kernel_name = ""
        self.session_id = ""
        self.is_dead = False
        self.api = GatewayApi(settings.host, settings.port, settings.auth_token, settings.connect_timeout)
        self._on_message = on_message
        self._on_death = on_death
        self._on_lost = on_lost
        self._channel: KernelChannel | None = None
        self._change = asyncio.Lock()
        self._incarnation = 0
        self._replacing = False
        self._meanwhile: list[Message] = []
        self._unreported: ExitStatus | None = None

    @property
    def cursor(self) -> int | None:
        """Number of the next message in the kernel's journal."""
        return self._channel.cursor if self._channel is not None else None

    async def open(self) -> None:
        """Gets a kernel and connects to it. Raises GatewayConnectionError and KernelStartError."""
        try:
            async with asyncio.timeout(self.settings.connect_timeout) as limit:
                await self.api.check()
                await self._acquire()
        except BaseException as error:
            await self.close()
            if isinstance(error, TimeoutError) and limit.expired():
                reason = f"no kernel answered within {self.settings.connect_timeout:g} s"
                raise GatewayConnectionError(self.api.address, reason) from error
            raise

    async def close(self) -> None:
        """Ends the kernel, if it is ours to end, and closes the connection."""
        channel, self._channel = self._channel, None
        kernel_id, self.kernel_id = self.kernel_id, ""
        try:
            if channel is not None:
                await channel.close()
            if kernel_id and self.settings.owns_kernel:
                await self.api.delete_kernel(kernel_id)
        except IpyboxError as error:
            log.debug("kernel %s was not ended: %s", kernel_id, error)  # its gateway is gone, and it with it
        finally:
            await self.api.close()

    async def send(self, message: Message) -> None:
        """Sends a request to the kernel. Raises ``ConnectionError``."""
        if self._channel is None:
            raise ConnectionError("the client is not connected")
        await self._channel.send(message)

    async def interrupt(self) -> None:
        """Interrupts what the kernel runs; returns when the signal was delivered."""
        await self.api.interrupt(self.kernel_id)

    def report_later(self, status: ExitStatus) -> None:
        """The kernel lost its state and nobody was told; the next :meth:`make_usable` tells."""
        self._unreported = self._unreported or status

    async def make_usable(self) -> None:
        """Sees to a live connection to a live kernel.

        Raises KernelDiedError for a death that nobody was told of, before anything is done on the fresh kernel.
        """
        async with self._change:
            if self._unreported is not None:
                status, self._unreported = self._unreported, None
                raise KernelDiedError(status, during_execution=False)
            if self._channel is None:
                raise RuntimeError("the client is not connected")
            if self._channel.is_lost:
                await self._connect_again(self._channel)
            if self.is_dead and not await self._somebody_replaced_it():
                await self._replace()

    async def replace(self) -> None:
        """Replaces the kernel's process by a fresh one, dead or alive."""
        async with self._change:
            if self._channel is not None and self._channel.is_lost:
                await self._connect_again(self._channel)
            await self._replace()

    async def _acquire(self) -> None:
        self.session_id = uuid4().hex
        if self.settings.kernel_id is not None:
            try:
                model = await self.api.kernel(self.settings.kernel_id)
            except KernelNotFoundError:
                raise KernelStartError(f"the gateway has no kernel {self.settings.kernel_id}") from None
        else:
            model = await self._create()
        self.kernel_id = str(model["id"])
        self.kernel_name = str(model.get("name", ""))
        self._incarnation = int(model.get("incarnation", 0))
        await self._open_channel(None)
        self.is_dead = False

    async def _create(self) -> dict[str, Any]:
        creating = asyncio.ensure_future(self.api.create_kernel(self.settings.kernel_name))
        try:
            return await asyncio.shield(creating)
        except asyncio.CancelledError:
            # The gateway starts a kernel whether we wait for it or not; we must learn its id to end it.
            await asyncio.wait([creating])
            if not creating.cancelled() and creating.exception() is None:
                self.kernel_id = str(creating.result()["id"])
            raise

    async def _open_channel(self, cursor: int | None) -> None:
        channel = KernelChannel(
            self.api.address,
            self.api.headers,
            self.kernel_id,
            self.session_id,
            self._receive,
            self._on_lost,
            cursor=cursor,
            ping_interval=self.settings.ping_interval,
            open_timeout=self.settings.connect_timeout,
            reconnect_timeout=self.settings.reconnect_timeout,
        )
        try:
            await channel.open()
        except KernelNotFoundError as error:
            raise KernelStartError(f"the gateway has no kernel {self.kernel_id}") from error
        except KernelNotReadyError as error:
            raise await self._start_failure() from error
        self._channel = channel

    async def _start_failure(self) -> KernelStartError:
        """Why the kernel does not answer, in the gateway's words."""
        model = await self.api.kernel(self.kernel_id)
        return KernelStartError(model.get("reason") or "it does not answer", model.get("log") or "")

    async def _connect_again(self, channel: KernelChannel) -> None:
        await channel.close()
        try:
            await self._open_channel(channel.cursor)
        except KernelStartError:
            # The gateway lives and does not know our kernel: it is another gateway by now.
            await self.api.check()
            if self.settings.joins:
                raise
            await self._acquire()
            status = ExitStatus("unknown", detail="its gateway was replaced")
            raise KernelDiedError(status, during_execution=False) from None

    async def _somebody_replaced_it(self) -> bool:
        """Whether another client of this kernel has put a fresh process in the dead one's place already."""
        try:
            model = await self.api.kernel(self.kernel_id)
        except KernelNotFoundError:
            return False
        incarnation = int(model.get("incarnation", 0))
        if incarnation <= self._incarnation or model.get("execution_state") == "dead":
            return False
        self._incarnation = incarnation
        self.is_dead = False
        return True

    async def _replace(self) -> None:
        self._replacing = True
        try:
            model = await self.api.restart(self.kernel_id)
            self._incarnation = int(model.get("incarnation", 0))
            if self._channel is not None:  # what the old process had printed belongs to whoever waits for this
                await self._channel.arrived(int(model.get("journal", 0)))
        except KernelStartError as error:
            raise await self._start_failure() from error
        except KernelNotFoundError:
            if self.settings.joins:
                raise KernelStartError(f"the gateway has no kernel {self.kernel_id} any more") from None
            if self._channel is not None:
                await self._channel.close()
            await self._acquire()
        finally:
            self._replacing = False
        self.is_dead = False
        self._unreported = None
        # What was said meanwhile about the new process counts; the rest was about the one that we replaced.
        meanwhile, self._meanwhile = self._meanwhile, []
        for message in meanwhile:
            self._receive_status(message)

    def _receive(self, message: Message) -> None:
        if message.type == "status" and message.header.get("session") == wire.HUB_SESSION:
            self._receive_status(message)
        else:
            self._on_message(message)

    def _receive_status(self, message: Message) -> None:
        if self._replacing:
            self._meanwhile.append(message)
            return
        ours = message.metadata.get(wire.METADATA_KEY) or {}
        if int(ours.get("incarnation", self._incarnation)) < self._incarnation:
            return  # about a process that we had replaced
        if message.content.get("execution_state") == "dead":
            self.is_dead = True
        self._on_death(ExitStatus.from_dict(ours.get("exit") or {}))
