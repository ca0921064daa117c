"""A client's websocket to one kernel, which comes back by itself. Floor: kernel_mgr."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from urllib.parse import urlencode

import websockets.exceptions
from websockets.asyncio.client import ClientConnection, connect

from ipybox.errors import GatewayConnectionError
from ipybox.kernel_mgr import wire
from ipybox.kernel_mgr.rest import KernelNotFoundError, KernelNotReadyError
from ipybox.kernel_mgr.wire import Message

log = logging.getLogger("ipybox.client")

_FIRST_PAUSE = 0.02
_LONGEST_PAUSE = 0.5


class KernelChannel:
    """Sends requests to a kernel and hands over what comes back, once and in order.

    After a broken connection it connects again and asks for what it has not got yet, for as long as
    ``reconnect_timeout``; a port that nobody listens on ends that early, because then the gateway is gone.

    Args:
        address: The gateway, ``http://host:port``.
        headers: For each handshake.
        kernel_id: Which kernel.
        session_id: Who we are for the kernel: replies and questions go to this session.
        on_message: Called with each message.
        on_lost: Called once when the connection is lost for good.
        execution: Only this execution's messages, from its beginning or from ``cursor``.
        cursor: Number of the first message to get; None is whatever comes from now on.
        ping_interval: Seconds between pings; a connection that does not answer one within the same time is dead.
        open_timeout: Seconds for one handshake, which includes waiting for the kernel.
        reconnect_timeout: Seconds to try to connect again.
    """

    def __init__(
        self,
        address: str,
        headers: dict[str, str],
        kernel_id: str,
        session_id: str,
        on_message: Callable[[Message], None],
        on_lost: Callable[[Exception], None],
        *,
        execution: str | None = None,
        cursor: int | None = None,
        ping_interval: float,
        open_timeout: float,
        reconnect_timeout: float,
    ) -> None:
        self.cursor = cursor
        self._address = address
        self._headers = headers
        self._kernel_id = kernel_id
        self._session_id = session_id
        self._on_message = on_message
        self._on_lost = on_lost
        self._execution = execution
        self._ping_interval = ping_interval
        self._open_timeout = open_timeout
        self._reconnect_timeout = reconnect_timeout
        self._ws: ClientConnection | None = None
        self._reader: asyncio.Task[None] | None = None
        self._connected = asyncio.Event()
        self._closing = False
        # Requests of which nothing was heard yet, and answers to questions: sent again after a broken connection.
        # The gateway takes each message id once.
        self._outstanding: dict[str, tuple[str, bytes]] = {}
        self.is_lost = False
        self._progress = asyncio.Event()

    async def open(self) -> None:
        """Connects. Raises GatewayConnectionError, KernelNotFoundError or KernelNotReadyError."""
        self._ws = await self._handshake()
        self._connected.set()
        self._reader = asyncio.create_task(self._read())

    async def send(self, message: Message) -> None:
        """Sends a request; waits while a broken connection is being made again. Raises ConnectionError."""
        data = wire.frame(message.channel, message.parts())
        about = message.parent_id or message.id
        await self._connected.wait()
        if self.is_lost or self._closing or self._ws is None:
            raise ConnectionError("the connection is closed")
        self._outstanding[message.id] = about, data
        try:
            await self._ws.send(data)
        except websockets.exceptions.ConnectionClosed:
            pass  # the reader sees it as well, and sends it again

    async def arrived(self, cursor: int) -> None:
        """Waits until every message before ``cursor`` is here, or the connection is lost."""
        while not self.is_lost and not self._closing and self.cursor is not None and self.cursor < cursor:
            self._progress.clear()
            await self._progress.wait()

    async def close(self) -> None:
        """Closes the connection."""
        self._closing = True
        self._connected.set()
        self._progress.set()
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.wait([self._reader])
        await self._drop()

    async def drop(self) -> None:
        """Breaks the connection as a network would; for tests of what happens then."""
        if self._ws is not None:
            self._ws.transport.abort()

    async def _read(self) -> None:
        try:
            while True:
                assert self._ws is not None
                try:
                    async for data in self._ws:
                        self._receive(data)
                except (websockets.exceptions.ConnectionClosed, ValueError) as error:
                    log.debug("connection to kernel %s broke: %s", self._kernel_id, error)
                self._connected.clear()
                await self._drop()
                await self._reconnect()
                self._connected.set()
                await self._send_again()
        except asyncio.CancelledError:
            raise
        except Exception as error:
            self.is_lost = True
            self._connected.set()
            self._progress.set()
            self._on_lost(error)

    def _receive(self, data: str | bytes) -> None:
        if isinstance(data, str):
            raise ValueError("a text frame where only binary ones are sent")
        self.cursor = wire.sequence_of(data) + 1
        self._progress.set()
        try:
            message = wire.decode(data)
        except ValueError as error:  # kernel code can send what it likes; asking again would bring the same
            log.warning("kernel %s sent something that is no Jupyter message: %s", self._kernel_id, error)
            return
        if self._outstanding and message.parent_id:
            self._outstanding.pop(message.parent_id, None)
            if message.type == "execute_reply":
                over = message.parent_id
                self._outstanding = {k: v for k, v in self._outstanding.items() if v[0] != over}
        try:
            self._on_message(message)
        except Exception:  # no message that kernel code makes up may cost the connection
            log.warning("a message of kernel %s could not be handled", self._kernel_id, exc_info=True)

    async def _send_again(self) -> None:
        try:
            for _, data in list(self._outstanding.values()):
                if self._ws is not None:
                    await self._ws.send(data)
        except websockets.exceptions.ConnectionClosed:
            pass  # the reader comes to that

    async def _reconnect(self) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._reconnect_timeout
        pause = _FIRST_PAUSE
        refused = 0
        while True:
            try:
                async with asyncio.timeout_at(deadline):
                    self._ws = await self._handshake()
                return
            except TimeoutError:
                raise ConnectionError("it could not be made again in time") from None
            except GatewayConnectionError as error:
                refused += isinstance(error.__cause__, ConnectionRefusedError)
                if refused > 5 or loop.time() + pause > deadline:
                    raise ConnectionError(error.reason) from error
            await asyncio.sleep(pause)  # a gateway that is about to listen again gives no sign of it
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def _handshake(self) -> ClientConnection:
        query: dict[str, str] = {"session_id": self._session_id}
        if self.cursor is not None:
            query["after"] = str(self.cursor)
        if self._execution is not None:
            query["execution"] = self._execution
        url = f"ws{self._address[4:]}/api/kernels/{self._kernel_id}/channels?{urlencode(query)}"
        try:
            ws = await connect(
                url,
                additional_headers=self._headers,
                subprotocols=[wire.SUBPROTOCOL],  # type: ignore[list-item]
                compression=None,
                max_size=None,
                ping_interval=self._ping_interval,
                ping_timeout=self._ping_interval,
                open_timeout=self._open_timeout,
                close_timeout=1,
                proxy=None,
            )
        except websockets.exceptions.InvalidStatus as error:
            status = error.response.status_code
            if status == 404:
                raise KernelNotFoundError(self._kernel_id) from error
            if status == 503:
                raise KernelNotReadyError(self._kernel_id) from error
            detail = (error.response.body or b"").decode("utf-8", "replace")[:500]
            raise GatewayConnectionError(self._address, f"it answered {status}: {detail}") from error
        except TimeoutError as error:
            raise GatewayConnectionError(self._address, "it did not answer in time") from error
        except (OSError, websockets.exceptions.WebSocketException) as error:
            raise GatewayConnectionError(self._address, str(error) or type(error).__name__) from error
        if ws.subprotocol != wire.SUBPROTOCOL:
            await ws.close()
            raise GatewayConnectionError(self._address, "the server there is not an ipybox gateway")
        if self.cursor is None and ws.response is not None:
            self.cursor = int(ws.response.headers.get(wire.CURSOR_HEADER, "0"))
        return ws

    async def _drop(self) -> None:
        ws, self._ws = self._ws, None
        if ws is not None:
            await ws.close()
