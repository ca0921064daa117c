"""A line to a server that can break."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from types import TracebackType
from typing import Self


class BadLine:
    """A way to a server over which connections break as they are told to. An async context manager.

    Attributes:
        answers: What is answered to the next connections in place of the server.
        cut_after: After how many bytes of the server's the next connections are cut.
        connections: How many there were.
    """

    def __init__(self, url: str) -> None:
        host, _, port = url.removeprefix("http://").rpartition(":")
        self._host, self._port = host, int(port)
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.answers: list[bytes] = []
        self.cut_after: list[int] = []
        self.connections = 0

    @property
    def url(self) -> str:
        """Its own address."""
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.connections += 1
        try:
            if self.answers:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(self.answers.pop(0))
                await writer.drain()
            else:
                await self._pass_on(reader, writer, self.cut_after.pop(0) if self.cut_after else None)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, most: int | None) -> None:
        theirs, ours = await asyncio.open_connection(self._host, self._port)

        async def up() -> None:
            with suppress(OSError):
                while data := await reader.read(65536):
                    ours.write(data)
                    await ours.drain()

        upward = asyncio.ensure_future(up())
        try:
            left = most
            while left != 0 and (data := await theirs.read(65536 if left is None else left)):
                writer.write(data)
                await writer.drain()
                left = None if left is None else left - len(data)
        finally:
            upward.cancel()
            ours.close()
