"""The owner's end of the pipes to an agent. Floor: session.

Whatever is behind the walls may have taken the agent over: what comes from there is bounded, is looked at as text and
numbers only, and the first thing that can't be ends the connection.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Callable
from typing import Any

from ipybox.process.teardown import to_the_end
from ipybox.session.frames import Decoder, FrameError, frame, value

Reply = tuple[dict[str, Any], bytes]
GONE = "its agent is gone"
"""The reason, where the other end of the pipes was closed."""
_CHUNK = 256 * 1024
_SETTLE_SECONDS = 10.0
_WRITER = 0
"""No request has that number."""


class ConnectionEndedError(Exception):
    """There is nobody who answers any more."""


class AgentConnection:
    """Asks an agent, any number of things at the same time. Belongs to one event loop.

    Args:
        requests: A pipe that the agent reads; taken over.
        replies: A pipe that the agent writes; taken over.
        on_broken: Called with the reason when there is no talking with it any more.
    """

    def __init__(self, requests: int, replies: int, on_broken: Callable[[str], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._requests, self._replies, self._on_broken = requests, replies, on_broken
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Reply]] = {}
        self._decoder = Decoder()
        self._turn = asyncio.Lock()
        self._closed = False
        for fd in (requests, replies):
            os.set_blocking(fd, False)
        self._loop.add_reader(replies, self._read)

    async def ask(self, head: dict[str, Any], body: bytes = b"", *, seconds: float | None) -> Reply:
        """Asks, and waits for the answer. Who is cancelled waits until that has come to an end inside as well.

        Raises:
            ConnectionEndedError: No answer comes any more, or none came in time, which ends the connection.
        """
        number = next(self._numbers)
        if self._closed:
            raise ConnectionEndedError
        answer: asyncio.Future[Reply] = self._loop.create_future()
        self._waiting[number] = answer
        late = f"its agent did not answer within {seconds:g} s" if seconds is not None else ""
        timer = self._loop.call_later(seconds, self._break, late) if seconds is not None else None
        try:
            await self._send(frame({**head, "id": number}, body))
            return await asyncio.shield(answer)
        except asyncio.CancelledError:
            if head["op"] in ("command", "code") and not answer.done():
                await to_the_end(self._call_off(number, answer))
            raise
        finally:
            if timer is not None:
                timer.cancel()
            self._waiting.pop(number, None)
            if answer.done() and not answer.cancelled():
                answer.exception()  # it was looked at

    def close(self) -> None:
        """Asks nothing any more; whoever waits gets an error."""
        if self._closed:
            return
        self._closed = True
        self._loop.remove_reader(self._replies)
        self._loop.remove_writer(self._requests)
        os.close(self._requests)
        os.close(self._replies)
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(ConnectionEndedError())

    async def _call_off(self, number: int, answer: asyncio.Future[Reply]) -> None:
        timer = self._loop.call_later(_SETTLE_SECONDS, self._break, "its agent does not call off what runs")
        try:
            await self._send(frame({"op": "cancel", "which": number, "id": next(self._numbers)}))
            await asyncio.wait([answer])
        except ConnectionEndedError:
            pass
        finally:
            timer.cancel()

    async def _send(self, data: bytes) -> None:
        """Writes all of it: half a frame would be the end of the conversation."""
        await to_the_end(self._send_all(memoryview(data)))

    async def _send_all(self, data: memoryview) -> None:
        async with self._turn:
            while data:
                if self._closed:
                    raise ConnectionEndedError
                try:
                    data = data[os.write(self._requests, data[:_CHUNK]) :]
                except BlockingIOError:
                    await self._writable()
                except OSError:
                    self._break(GONE)

    async def _writable(self) -> None:
        ready: asyncio.Future[Reply] = self._loop.create_future()

        def on_writable() -> None:
            if not ready.done():
                ready.set_result(({}, b""))

        self._loop.add_writer(self._requests, on_writable)
        self._waiting[_WRITER] = ready  # so that the end wakes it as well
        try:
            await ready
        finally:
            self._waiting.pop(_WRITER, None)
            if not self._closed:
                self._loop.remove_writer(self._requests)

    def _read(self) -> None:
        try:
            data = os.read(self._replies, _CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            return self._break(GONE)
        try:
            for head, body in self._decoder.feed(data):
                number = value(head, "id", int)
                if number == _WRITER:
                    return self._break(f"its agent failed: {head.get('failed')!r}"[:1000])
                answer = self._waiting.get(number)
                if answer is not None and not answer.done():
                    answer.set_result((head, body))
        except FrameError as error:
            self._break(f"its agent says what makes no sense: {error}")

    def _break(self, reason: str) -> None:
        if not self._closed:
            self.close()
            self._on_broken(reason)
