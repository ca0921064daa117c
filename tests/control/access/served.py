"""An application behind a real server on a port of its own, and bytes to it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn

from ipybox.control.access.connections import PromptHttp

HANG = 20.0


@asynccontextmanager
async def serving(
    app: Any, http: type[asyncio.Protocol] = PromptHttp, timeout_keep_alive: int = 5
) -> AsyncIterator[int]:
    """Gives the port."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            http=http,
            log_config=None,
            access_log=False,
            ws="none",
            lifespan="off",
            timeout_keep_alive=timeout_keep_alive,
            timeout_graceful_shutdown=1,
        )
    )
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield listener.getsockname()[1]  # the socket takes connections already, whether or not they are answered yet
    finally:
        server.should_exit = True
        await asyncio.wait_for(task, HANG)
        listener.close()


async def spoken(port: int, *parts: bytes) -> bytes:
    """Everything that is answered to these bytes until the server closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for part in parts:
            writer.write(part)
            await writer.drain()
        return await asyncio.wait_for(reader.read(), HANG)
    finally:
        writer.close()


def status_of(answer: bytes) -> int:
    """The status of the first answer."""
    return int(answer.split(b" ", 2)[1])
