"""One end of a connection, and bytes carried between two of them with bounded memory. Floor: sandbox."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

_BLOCK = 32 * 1024
_UNSENT = 64 * 1024
_LARGEST_LINGER = 1024 * 1024
_RESET = struct.pack("ii", 1, 0)

Touch = Callable[[], None]
"""Say that something moved."""


class Stream:
    """One end of a TCP connection. It reads no more than 64 KiB ahead and keeps about as much unsent."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._ended = False
        self.has_sent = False
        writer.transport.set_write_buffer_limits(high=_UNSENT)

    @classmethod
    async def of(cls, connected: socket.socket) -> Stream:
        """The stream of a connected socket, which it owns from then on, also when this fails."""
        try:
            return cls(*await asyncio.open_connection(sock=connected, limit=_BLOCK))
        except BaseException:
            connected.close()
            raise

    async def read(self) -> bytes:
        """What has arrived; empty at the end."""
        return await self._reader.read(_BLOCK)

    async def read_exactly(self, size: int) -> bytes:
        """So many bytes.

        Raises:
            EOFError: There are not that many.
        """
        return await self._reader.readexactly(size)

    async def read_line(self, most: int) -> bytes:
        """A line with its line feed.

        Raises:
            EOFError: There is none.
            ValueError: It has more than ``most`` bytes.
        """
        line = b""
        while True:
            try:
                line += await self._reader.readuntil(b"\n")
            except asyncio.LimitOverrunError as error:
                line += await self._reader.readexactly(error.consumed)
                if len(line) <= most:
                    continue
            if len(line) > most:
                raise ValueError("line too long")
            return line

    async def send(self, data: bytes) -> None:
        """Send, and wait until there is room for more."""
        self.has_sent = True
        self._writer.write(data)
        await self._writer.drain()

    async def flush(self) -> None:
        """Wait until nothing is unsent."""
        self._writer.transport.set_write_buffer_limits(0)
        await self._writer.drain()

    def end(self) -> None:
        """Say that nothing more will be sent; the other direction stays open."""
        if not self._ended and not self._writer.is_closing():
            self._ended = True
            self._writer.write_eof()

    def abort(self) -> None:
        """Drop the connection; what is unsent is lost."""
        self._writer.transport.abort()

    def reset(self) -> None:
        """Drop the connection so that the other end sees an error, and takes what it has for incomplete."""
        try:
            self._writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        except OSError:
            pass  # it is closed already
        self.abort()

    async def linger(self, seconds: float) -> None:
        """Say that nothing more will be sent, and throw away what still arrives, for a while.

        Without it, closing a connection on a client that is still sending destroys the answer under way to it.
        """
        left = _LARGEST_LINGER
        try:
            self.end()
            async with asyncio.timeout(seconds):
                while left > 0 and (data := await self.read()):
                    left -= len(data)
        except (OSError, TimeoutError):
            pass

    async def hang_up(self, seconds: float) -> None:
        """Close when everything is sent, or after so many seconds."""
        try:
            async with asyncio.timeout(seconds):
                self._writer.close()
                await self._writer.wait_closed()
        except (OSError, TimeoutError):
            pass
        finally:
            self.abort()


@asynccontextmanager
async def idle_limit(seconds: float) -> AsyncIterator[Touch]:
    """Raises ``TimeoutError`` in its body when nothing was touched for so many seconds."""
    loop = asyncio.get_running_loop()
    grain = seconds / 100
    async with asyncio.timeout(seconds) as alarm:

        def touch() -> None:
            deadline = loop.time() + seconds
            before = alarm.when()
            # Moving the alarm for every block would cost more than carrying the block.
            if not alarm.expired() and (before is None or deadline - before > grain):
                alarm.reschedule(deadline)

        yield touch


async def carry(source: Stream, sink: Stream, touch: Touch) -> None:
    """Carry bytes until the source ends, and pass its end on."""
    while data := await source.read():
        touch()
        await sink.send(data)
    touch()
    sink.end()


async def splice(
    client: Stream, server: Stream, touch: Touch, beginning: Callable[[], Awaitable[bytes]] | None = None
) -> None:
    """Carry bytes in both directions until both have ended.

    Args:
        client: One end.
        server: The other end.
        touch: Called whenever something moved.
        beginning: Reads the first bytes of the client, to be sent to the server; what it raises ends everything.
    """

    async def upwards() -> None:
        if beginning is not None:
            await server.send(await beginning())
        await carry(client, server, touch)

    async def downwards() -> None:
        await carry(server, client, touch)

    await both(upwards, downwards)


async def both(first: Callable[[], Awaitable[None]], second: Callable[[], Awaitable[None]]) -> None:
    """Run two coroutines at once. The first error of either cancels the other, and is raised as it is."""
    tasks = [asyncio.ensure_future(first()), asyncio.ensure_future(second())]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
