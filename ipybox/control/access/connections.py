"""Connections on which no request comes, or whose client does not read: they end after a while. Floor: control.

uvicorn waits for the head of a request as long as a byte of it comes now and then, so that one client can hold all the
connections that a process may have. And a connection that it has closed stays for as long as there is something to be
sent on it, which is for ever if nobody reads. For ``uvicorn.Config(http=PromptHttp)``.

Half of the descriptors of the process are for connections: databases and sandboxes need some as well. When there are
more, those make room on which nothing was asked yet, then those on which nothing has been asked for longest.
"""

from __future__ import annotations

import asyncio
import resource
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 15.0
"""In which the head of a request has to be there, from its first byte or from the beginning of the connection."""
UNREAD_SECONDS = 30.0
"""In that time something has to be read of what is left on a connection that was closed, or it is given up."""
_SHARE = 2
_AT_ONCE = 10
"""Of those on which nothing happens, the tenth part goes at once: looking for them takes time."""


class PromptHttp(H11Protocol):
    """HTTP/1.1 for clients that say what they want, and read what they are told."""

    head_seconds = HEAD_SECONDS
    unread_seconds = UNREAD_SECONDS

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._head_timer: asyncio.TimerHandle | None = None
        self._unread_timer: asyncio.TimerHandle | None = None
        self._unread: int | None = None
        self._idle_since = 0.0

    def connection_made(self, transport: Any) -> None:
        """Starts to wait."""
        super().connection_made(transport)
        self._idle_since = self.loop.time()
        self._arm()
        self._look_again()
        if len(self.connections) > resource.getrlimit(resource.RLIMIT_NOFILE)[0] // _SHARE:
            self._make_room()

    def data_received(self, data: bytes) -> None:
        """Goes on waiting if this was a part of a head only; a byte more does not prolong it."""
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._disarm()
        elif self._head_timer is None and self.conn.trailing_data[0]:
            self._arm()

    def on_response_complete(self) -> None:
        """Is idle from now on."""
        self._idle_since = self.loop.time()
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Waits no more."""
        self._disarm()
        if self._unread_timer is not None:
            self._unread_timer.cancel()
        super().connection_lost(exc)

    def _arm(self) -> None:
        self._head_timer = self.loop.call_later(self.head_seconds, self._give_up)

    def _disarm(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _give_up(self) -> None:
        self._head_timer = None
        if self.conn.their_state is h11.IDLE and not self.transport.is_closing():
            self.transport.abort()

    @property
    def _is_idle(self) -> bool:
        last: Any = self.cycle
        is_answered = last is None or last.response_complete
        return is_answered and self.conn.their_state is h11.IDLE and not self.transport.is_closing()

    def _make_room(self) -> None:
        others = [each for each in self.connections if isinstance(each, PromptHttp) and each is not self]
        idle = sorted(
            (each for each in others if each._is_idle), key=lambda each: (each.cycle is not None, each._idle_since)
        )
        for each in idle[: max(1, len(idle) // _AT_ONCE)] or [self]:
            each.transport.abort()

    def _look_again(self) -> None:
        self._unread_timer = self.loop.call_later(self.unread_seconds, self._look)

    def _look(self) -> None:
        # Until it closes, the guard sees to it that answers are read.
        left = self.transport.get_write_buffer_size() if self.transport.is_closing() else None
        before, self._unread = self._unread, left
        if left is not None and before is not None and left >= before:
            self.transport.abort()
        else:
            self._look_again()
