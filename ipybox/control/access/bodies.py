"""Bodies of requests: not too large, and not too slow. Floor: control.

The framework above may turn an exception while it reads a body into an answer of its own. So what went wrong is kept,
and who has asked for the body's limits gives the answer.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

from starlette.types import Message, Receive

from ipybox.control.errors import FileTooLargeError

PROGRESS_BYTES = 1024
"""What has to arrive in the time that a client has, so that a byte now and then does not hold a request for ever."""
DISCARD_BYTES = 16 * 1024**2
DISCARD_SECONDS = 2.0
"""How much of a body is read that nobody wants, and for how long."""


class LimitedBody:
    """What an application reads the body of one request with.

    Args:
        receive: Of the server.
        limit: Bytes.
        seconds: For how long it may make no progress while it is waited for.
    """

    def __init__(self, receive: Receive, limit: int, seconds: float) -> None:
        self.failure: FileTooLargeError | TimeoutError | None = None
        self.size = 0
        self._receive = receive
        self._limit = limit
        self._seconds = seconds
        self._patience = seconds
        self._progress = 0
        self.is_complete = False

    async def __call__(self) -> Message:
        """The next message.

        Raises:
            FileTooLargeError, TimeoutError: The body is not to be read any further.
        """
        if self.failure is not None:
            raise self.failure
        if self.is_complete:
            return await self._receive()  # waits until the client is gone, which may take as long as it likes
        began = time.monotonic()
        try:
            async with asyncio.timeout(self._patience) as timeout:
                message = await self._receive()
        except TimeoutError:
            if not timeout.expired():
                raise
            self.failure = TimeoutError(f"the body of the request made no progress for {self._seconds:g} s")
            raise self.failure from None
        if message["type"] != "http.request":
            self.is_complete = True
            return message
        size = len(message.get("body", b""))
        self.size += size
        self.is_complete = not message.get("more_body", False)
        if self.size > self._limit:
            self.failure = FileTooLargeError(self._limit, "body of the request")
            raise self.failure
        self._progress += size
        self._patience -= time.monotonic() - began
        if self._progress >= PROGRESS_BYTES:
            self._progress, self._patience = 0, self._seconds
        return message

    async def discard(self, most: int = DISCARD_BYTES, seconds: float = DISCARD_SECONDS) -> None:
        """Reads what is left and drops it, if it is not too much.

        A client that is still sending when the connection is closed may never see the answer.
        """
        if isinstance(self.failure, TimeoutError):
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not self.is_complete and most > 0:
                    message = await self._receive()
                    most -= len(message.get("body", b""))
                    self.is_complete = not message.get("more_body", False)
