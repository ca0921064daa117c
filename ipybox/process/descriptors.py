"""File descriptors that are handed from process to process. Floor: process."""

from __future__ import annotations

import asyncio
import os
import socket
import tempfile


def memory_file(text: str, name: str = "ipybox") -> int:
    """A file in memory with this text, as a descriptor at its beginning that the caller closes."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create(name, os.MFD_CLOEXEC)
    else:
        with tempfile.TemporaryFile() as file:
            fd = os.dup(file.fileno())
    data = text.encode()
    while data:
        data = data[os.write(fd, data) :]
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def packet_pair() -> tuple[int, int]:
    """Two ends of a socket that keeps packets apart, as descriptors that the caller closes."""
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return one.detach(), other.detach()


async def writable(sock: socket.socket) -> None:
    """Waits until a socket takes more."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()

    def on_ready() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_writer(sock.fileno(), on_ready)
    try:
        await ready
    finally:
        loop.remove_writer(sock.fileno())
