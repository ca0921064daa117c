"""Descriptors that travel: files in memory, and sockets that take no more for a while."""

from __future__ import annotations

import asyncio
import os
import socket

import pytest

from ipybox.process.descriptors import memory_file, writable

HANG = 10.0


@pytest.mark.parametrize("text", ["", "text", "ä\n\0", "x" * 3_000_000])
def test_a_file_in_memory_holds_the_text_from_its_beginning(text: str) -> None:
    fd = memory_file(text)
    assert not os.get_inheritable(fd)
    with os.fdopen(fd, encoding="utf-8", newline="") as file:
        assert file.read() == text


def test_without_memory_files_it_is_a_file_without_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create")
    fd = memory_file("text")
    assert not os.get_inheritable(fd)
    assert os.fstat(fd).st_nlink == 0
    assert os.read(fd, 10) == b"text"
    os.close(fd)


def full() -> tuple[socket.socket, socket.socket]:
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    with pytest.raises(BlockingIOError):
        while True:
            ours.send(b"x" * 1000)
    return ours, its


@pytest.mark.asyncio
async def test_a_socket_that_takes_more_is_told() -> None:
    ours, its = full()
    waiting = asyncio.ensure_future(writable(ours))
    await asyncio.sleep(0)
    assert not waiting.done()
    while not waiting.done():
        its.recv(1000)
        await asyncio.sleep(0)
    for each in (ours, its):
        each.close()


@pytest.mark.asyncio
async def test_everybody_who_waits_is_told() -> None:
    """Programs that are started at once share one socket to those who start them."""
    ours, its = full()
    waiting = [asyncio.ensure_future(writable(ours)) for _ in range(3)]
    await asyncio.sleep(0)
    its.setblocking(False)
    with pytest.raises(BlockingIOError):
        while True:
            its.recv(1000)
    done, pending = await asyncio.wait(waiting, timeout=HANG)
    for each in pending:
        each.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    for end in (ours, its):
        end.close()
    assert len(done) == 3


@pytest.mark.asyncio
async def test_who_gives_up_leaves_the_loop_as_it_was() -> None:
    ours, its = full()
    waiting = asyncio.ensure_future(writable(ours))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert not asyncio.get_running_loop().remove_writer(ours.fileno())
    for each in (ours, its):
        each.close()
