"""File descriptors that are handed from process to process. Floor: process."""

from __future__ import annotations

import asyncio
import os
import select
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


def owner_descriptor() -> tuple[int, int | None]:
    """A descriptor that becomes readable when this process ends, and what must stay open for it."""
    if hasattr(os, "pidfd_open"):
        try:
            return os.pidfd_open(os.getpid()), None
        except OSError:
            pass  # a kernel before 5.3
    read, write = os.pipe()
    return read, write


def packet_pair() -> tuple[int, int]:
    """Two ends of a socket that keeps packets apart, as descriptors that the caller closes."""
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return one.detach(), other.detach()


def is_readable(fd: int) -> bool:
    """Whether a descriptor can be read right now; a pidfd can when its process is gone."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))


async def readable(fd: int) -> None:
    """Waits until a descriptor can be read; a pidfd can when its process is gone. For one task at a time."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()

    def on_ready() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_reader(fd, on_ready)
    try:
        await ready
    finally:
        loop.remove_reader(fd)


_Key = tuple[asyncio.AbstractEventLoop, int]
_waiting: dict[_Key, list[asyncio.Future[None]]] = {}


async def writable(sock: socket.socket) -> None:
    """Waits until a socket takes more. Any number of tasks may wait for the same one."""
    loop = asyncio.get_running_loop()
    key = loop, sock.fileno()
    ready: asyncio.Future[None] = loop.create_future()
    waiting = _waiting.setdefault(key, [])
    waiting.append(ready)
    if len(waiting) == 1:
        loop.add_writer(key[1], _wake, key)
    try:
        await ready
    finally:
        if ready in waiting:
            waiting.remove(ready)
            if not waiting:
                _forget(key)


def _wake(key: _Key) -> None:
    for ready in _forget(key):
        if not ready.done():
            ready.set_result(None)


def _forget(key: _Key) -> list[asyncio.Future[None]]:
    loop, fd = key
    loop.remove_writer(fd)
    waiting = _waiting.pop(key, [])
    woken, waiting[:] = list(waiting), []
    return woken
