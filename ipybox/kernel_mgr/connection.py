"""A websocket's end in the gateway. Floor: kernel_mgr.

A client of ours names our subprotocol and gets the kernel's journal from the message on that it asks for. Any other
Jupyter client gets the stock connection, with nothing dropped for its rate.
"""

from __future__ import annotations

import asyncio
from typing import Any

from jupyter_server.services.kernels.connection.channels import ZMQChannelsWebsocketConnection
from tornado import web
from tornado.websocket import WebSocketClosedError

from ipybox.errors import KernelStartError
from ipybox.kernel_mgr import wire
from ipybox.kernel_mgr.hub import KernelHub

_HIGH_WATER = 4 * 1024 * 1024
"""Bytes on their way to a client before we wait for it."""

_HEAD = 2048
"""Header and parent header of a message are within this many bytes."""


class JournalConnection(ZMQChannelsWebsocketConnection):
    """Serves one websocket from its kernel's journal, or the way jupyter_server does."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.limit_rate = False
        self.cursor = 0
        self._hub: KernelHub | None = None
        self._execution: str | None = None
        self._said_over = False
        self._in_flight = 0
        self._pumping = False

    async def prepare(self) -> None:
        """Waits until the kernel is ready; refuses what can't be served before the websocket is opened."""
        if not self._is_ours:
            await super().prepare()
            return
        hub: KernelHub | None = self.multi_kernel_manager.hubs.get(self.kernel_id)
        if hub is None:
            raise web.HTTPError(404, f"Kernel does not exist: {self.kernel_id}")
        execution = self._argument("execution")
        after = self._argument("after")
        if after is not None and not after.isdigit():
            raise web.HTTPError(400, f"after must be a number, got {after!r}")
        if execution is not None:
            record = hub.execution(execution)
            if record is None:
                raise web.HTTPError(404, f"No journal of execution {execution}")
            self._execution = execution
            self.cursor = int(after) if after is not None else record.start
        else:
            try:
                await hub.wait_ready(self.kernel_info_timeout)
            except KernelStartError as error:
                raise web.HTTPError(503, str(error)) from error
            self.cursor = int(after) if after is not None else hub.journal.next
        self._hub = hub
        self.websocket_handler.set_header(wire.CURSOR_HEADER, str(self.cursor))

    def connect(self) -> asyncio.Future[None] | None:
        """The websocket is open."""
        self.websocket_handler.set_nodelay(True)
        if self._hub is None:
            connected: asyncio.Future[None] | None = super().connect()
            return connected
        self.session_key = f"{self.kernel_id}:{self.session_id}"
        self.multi_kernel_manager.notify_connect(self.kernel_id)
        if self._execution is None:
            self._hub.greet(self.session_id)
        self._hub.subscribe(self)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done

    def disconnect(self) -> None:
        """The websocket is closed."""
        if self._hub is None:
            super().disconnect()
            return
        self.multi_kernel_manager.notify_disconnect(self.kernel_id)
        self._hub.unsubscribe(self)

    def handle_incoming_message(self, incoming_msg: Any) -> None:
        """A message from the client."""
        if self._hub is None:
            super().handle_incoming_message(incoming_msg)
            return
        try:
            channel, parts = wire.unframe(incoming_msg)
        except (ValueError, TypeError, IndexError) as error:
            self.websocket_handler.close(1002, str(error)[:100])
            return
        self._hub.send(self.session_id, channel, parts)

    def pump(self) -> None:
        """Sends what the client has not got yet, as far as it takes it."""
        hub = self._hub
        if hub is None or self._pumping:
            return
        self._pumping = True
        try:
            while self.cursor < hub.journal.next and self._in_flight < _HIGH_WATER:
                self._send_next(hub)
            if self._execution is not None and not self._said_over:
                record = hub.execution(self._execution)
                if record is not None and record.is_over and self.cursor > record.end:
                    self._said_over = True
                    self._say_over(self._execution)
        finally:
            self._pumping = False

    def _send_next(self, hub: KernelHub) -> None:
        try:
            framed = hub.read(self.cursor)
        except (KeyError, OSError):
            first = max(hub.journal.first, self.cursor + 1)
            lost = first - self.cursor
            gap = wire.request("iopub", wire.GAP, {"lost": lost}, session=wire.HUB_SESSION)
            self._write(wire.numbered(first - 1, wire.frame("iopub", gap.parts())))
            before, self.cursor = self.cursor, first
            for execution in hub.ended_between(before, first):
                self._say_over(execution)
            return
        if self._execution is None or self._concerns_execution(framed):
            self._write(wire.numbered(self.cursor, framed))
        self.cursor += 1

    def _say_over(self, execution: str) -> None:
        """Tells that an execution is over, to a client that may have missed its end."""
        over = wire.request("iopub", wire.OVER, {"execution": execution}, session=wire.HUB_SESSION)
        self._write(wire.numbered(max(self.cursor - 1, 0), wire.frame("iopub", over.parts())))

    def _concerns_execution(self, framed: bytes) -> bool:
        head = framed[:_HEAD]
        return (self._execution or "").encode() in head or wire.HUB_SESSION.encode() in head

    def _write(self, data: bytes) -> None:
        size = len(data)
        try:
            future = self.websocket_handler.write_message(data, binary=True)
        except WebSocketClosedError:
            if self._hub is not None:
                self._hub.unsubscribe(self)
            return
        if isinstance(future, asyncio.Future) and future.done():
            return
        self._in_flight += size
        asyncio.ensure_future(future).add_done_callback(lambda done: self._written(done, size))

    def _written(self, done: asyncio.Future[None], size: int) -> None:
        self._in_flight -= size
        if done.cancelled() or done.exception() is not None or self._hub is None:
            return
        self.pump()
        self._hub.caught_up()

    @property
    def _is_ours(self) -> bool:
        offered = self.websocket_handler.request.headers.get("Sec-WebSocket-Protocol", "")
        return wire.SUBPROTOCOL in [name.strip() for name in offered.split(",")]

    def _argument(self, name: str) -> str | None:
        value: str | None = self.websocket_handler.get_argument(name, None)
        return value
