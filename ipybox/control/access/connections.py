"""Connections on which no request comes: closed after a while. Floor: control.

uvicorn waits for the head of a request as long as a byte of it comes now and then, so that one client can hold all the
connections that a process may have. For ``uvicorn.Config(http=PromptHttp)``.
"""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 15.0
"""In which the head of a request has to be there, from its first byte or from the beginning of the connection."""


class PromptHttp(H11Protocol):
    """HTTP/1.1 for clients that say what they want."""

    head_seconds = HEAD_SECONDS

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Starts to wait."""
        super().connection_made(transport)
        self._arm()

    def data_received(self, data: bytes) -> None:
        """Goes on waiting if this was a part of a head only; a byte more does not prolong it."""
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._disarm()
        elif self._head_timer is None and self.conn.trailing_data[0]:
            self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        """Waits no more."""
        self._disarm()
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
