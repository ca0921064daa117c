"""The host's end of the pipes to a session's agent. Floor: control.

Whatever is behind the walls may have taken the agent over: what comes from there is bounded, is looked at as text and
numbers only, and the first thing that can't be ends the connection.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ipybox.control.runtime.turns import Turns
from ipybox.process.teardown import to_the_end
from ipybox.session.frames import Decoder, FrameError, frame

GONE = "its agent is gone"
"""The reason, where the other end of the pipes was closed."""
_CHUNK = 256 * 1024
_TURNS = 4
_LONG = 0.002
"""Seconds; what one agent says and takes longer than that is paid for with a pause, in which others have their turn."""
_PAUSE = 10
"""How much longer the pause is than what it is paid for."""
_LONGEST_PAUSE = 0.25


class ConnectionEndedError(Exception):
    """There is nobody there any more."""


class Connection:
    """Sends what an agent is asked to do, and passes on what it says. Belongs to one event loop.

    Args:
        requests: A pipe that the agent reads; taken over.
        replies: A pipe that the agent writes; taken over.
        head_limit: Bytes of the largest object that it may send.
        body_limit: Bytes of the largest body.
        on_frame: Gets what it says; raises :class:`FrameError` where that makes no sense. What takes long is returned,
            and gone through in pieces; nothing else is heard of this agent until that is done.
        on_broken: Called with the reason when there is no talking with it any more.
    """

    def __init__(
        self,
        requests: int,
        replies: int,
        *,
        head_limit: int,
        body_limit: int,
        on_frame: Callable[[dict[str, Any], bytes], Iterator[None] | None],
        on_broken: Callable[[str], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._requests, self._replies = requests, replies
        self._on_frame, self._on_broken = on_frame, on_broken
        self._decoder = Decoder(head_limit, body_limit)
        self._work: Iterator[None] | None = None
        self._turns = Turns.here()
        self._turn = asyncio.Lock()
        self._ready: asyncio.Future[None] | None = None
        self._closed = False
        self.heard = self._loop.time()
        """When it last said something, in the loop's time."""
        for fd in (requests, replies):
            os.set_blocking(fd, False)
        self._loop.add_reader(replies, self._read)

    async def send(self, head: Mapping[str, Any], body: bytes = b"") -> None:
        """Writes all of it: half a frame would be the end of the conversation.

        Raises:
            ConnectionEndedError: Nobody reads.
            FrameError: It is too much at once; nothing of it was sent.
        """
        await to_the_end(self._send(memoryview(frame(head, body))))

    def drain(self) -> Iterator[None]:
        """Reads what is there still, when nobody writes any more, in pieces."""
        while not self._closed and (self._work is not None or self._take()):
            self._go_on(_LONG)
            yield

    def close(self) -> None:
        """No more is sent or heard."""
        if self._closed:
            return
        self._closed = True
        self._loop.remove_reader(self._replies)
        self._loop.remove_writer(self._requests)
        os.close(self._requests)
        os.close(self._replies)
        if self._ready is not None and not self._ready.done():
            self._ready.set_result(None)

    async def _send(self, data: memoryview) -> None:
        async with self._turn:
            while data:
                if self._closed:
                    raise ConnectionEndedError
                try:
                    data = data[os.write(self._requests, data[:_CHUNK]) :]
                except BlockingIOError:
                    await self._writable()
                except OSError:
                    raise ConnectionEndedError from None  # which is heard at the other pipe as well

    async def _writable(self) -> None:
        ready = self._ready = self._loop.create_future()

        def on_writable() -> None:
            if not ready.done():
                ready.set_result(None)

        self._loop.add_writer(self._requests, on_writable)
        try:
            await ready
        finally:
            self._ready = None
            if not self._closed:
                self._loop.remove_writer(self._requests)

    def _read(self) -> None:
        """Takes what is there, and lets others have their turn: many small frames could keep us busy for good."""
        began = time.perf_counter()
        for _ in range(_TURNS):
            if not self._take():
                return
            is_done = self._go_on(_LONG - (time.perf_counter() - began))
            took = time.perf_counter() - began
            if self._closed or (is_done and took <= _LONG):
                continue
            self._loop.remove_reader(self._replies)
            if is_done:
                self._loop.call_later(min(_PAUSE * took, _LONGEST_PAUSE), self._read_on)
            else:
                self._turns.ask(self._work_on, took)
            return

    def _work_on(self) -> None:
        if self._closed:
            return
        if self._go_on(_LONG):
            self._loop.call_later(_PAUSE * _LONG, self._read_on)
        elif not self._closed:
            self._turns.ask(self._work_on)

    def _read_on(self) -> None:
        if not self._closed:
            self._loop.add_reader(self._replies, self._read)

    def _take(self) -> bool:
        """Whether something came, which is to be worked on."""
        if self._closed:
            return False
        try:
            data = os.read(self._replies, _CHUNK)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self._break(GONE)
            return False
        self._work = self._frames(data)
        return True

    def _frames(self, data: bytes) -> Iterator[None]:
        for head, body in self._decoder.feed(data):
            yield from self._on_frame(head, body) or ()
            yield

    def _go_on(self, seconds: float) -> bool:
        """Works for so long, and says whether all is done."""
        until = time.perf_counter() + seconds
        self.heard = self._loop.time()  # it says nothing meanwhile, as nobody listens
        try:
            for _ in self._work or ():
                if self._closed:
                    break
                if time.perf_counter() > until:
                    return False
        except FrameError as error:
            self._break(f"its agent says what makes no sense: {error}")
        self._work = None
        return True

    def _break(self, reason: str) -> None:
        if not self._closed:
            self.close()
            self._on_broken(reason)
