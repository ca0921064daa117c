"""Read a ZMQ socket in an asyncio loop, many messages per wake-up, with a pause button. Floor: kernel_mgr.

pyzmq's ``ZMQStream`` handles one message per turn of the loop and can't be paused without losing its place. ZMQ's
descriptor is edge-triggered: it wakes us once, and whatever is there must be read until there is no more, also after
each send on the same socket.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import zmq

_BUDGET = 200
"""Messages handled before the loop gets a turn, so that one kernel's flood does not starve the others."""
_BUDGET_BYTES = 4 * 1024 * 1024


class ZmqReader:
    """Calls ``on_message`` with the frames of each message that arrives at ``socket``; owns neither."""

    def __init__(
        self,
        socket: zmq.Socket[bytes],
        on_message: Callable[[list[bytes]], None],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._socket = socket
        self._on_message = on_message
        self._loop = loop
        self._fd = int(socket.getsockopt(zmq.FD))
        self._paused = False
        self._closed = False
        self._scheduled: asyncio.Handle | None = None
        loop.add_reader(self._fd, self.read)
        self.kick()

    def kick(self) -> None:
        """Looks again soon; needed after each send on the socket."""
        if self._scheduled is None and not self._closed:
            self._scheduled = self._loop.call_soon(self._run)

    def pause(self) -> None:
        """Leaves messages in the socket until :meth:`resume`."""
        self._paused = True

    def resume(self) -> None:
        """Goes on reading."""
        self._paused = False
        self.kick()

    def read(self) -> int:
        """Handles what is there, up to a budget; returns how many messages that was."""
        handled = size = 0
        while not self._paused and not self._closed:
            if handled >= _BUDGET or size >= _BUDGET_BYTES:
                self.kick()
                break
            try:
                frames = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                break
            except zmq.ZMQError:
                self.close()
                break
            handled += 1
            size += sum(map(len, frames))
            try:
                self._on_message(frames)
            except BaseException:
                self.kick()  # nothing else would wake us for the messages behind this one
                raise
        return handled

    def close(self) -> None:
        """Stops reading."""
        if not self._closed:
            self._closed = True
            self._loop.remove_reader(self._fd)
            if self._scheduled is not None:
                self._scheduled.cancel()

    def _run(self) -> None:
        self._scheduled = None
        self.read()
