"""Facts that the kernel tests wait for, each with a bound."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import psutil

from ipybox.kernel_mgr.channel import KernelChannel
from ipybox.kernel_mgr.client import Execution, KernelClient
from ipybox.kernel_mgr.kernel_link import KernelLink
from ipybox.outputs import Output, StreamOutput

MARGIN = 2.0
"""How much longer than promised something may take on a shared machine."""
HANG = 30.0
"""Seconds after which something counts as hung."""
_LOOK = 0.02


async def eventually(fact: Callable[[], bool], seconds: float = HANG) -> bool:
    """Waits until something that announces itself to nobody is true; False when it is not in time."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while not fact():
        if loop.time() > deadline:
            return False
        await asyncio.sleep(_LOOK)
    return True


def link_of(client: KernelClient) -> KernelLink:
    """A client's hold on its kernel. No public name tells what the tests ask it."""
    assert client._link is not None
    return client._link


def channel_of(client: KernelClient) -> KernelChannel:
    """The connection of a client, to break it."""
    channel = link_of(client)._channel
    assert channel is not None
    return channel


def running(client: KernelClient) -> list[Execution]:
    """The execution whose turn it is."""
    return list(client._executions.values())


def is_alive(process: psutil.Process) -> bool:
    """Whether a process runs. One that ended and that nobody collected does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def name_of(process: psutil.Process) -> str:
    """Its name; an empty one when it has ended since somebody listed it."""
    try:
        return process.name()
    except psutil.NoSuchProcess:
        return ""


def command_of(process: psutil.Process) -> list[str]:
    """What it was started with; nothing when it has ended since somebody listed it."""
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


async def survivors(processes: Iterable[psutil.Process], seconds: float) -> list[psutil.Process]:
    """Those that still run after ``seconds``; returns as soon as none does."""
    watched = list(processes)
    await eventually(lambda: not any(is_alive(process) for process in watched), seconds)
    return [process for process in watched if is_alive(process)]


def family(pid: int | None) -> list[psutil.Process]:
    """A process and all below it."""
    assert pid is not None
    root = psutil.Process(pid)
    return [root, *root.children(recursive=True)]


def run_directories() -> set[Path]:
    """Private directories of gateways that these tests have started."""
    return set(Path(tempfile.gettempdir()).glob("ipybox-*"))


async def still_works(client: KernelClient) -> None:
    """Asserts that a client's next call is answered, and rightly."""
    async with asyncio.timeout(HANG):
        result = await client.execute("print(6 * 7)")
    assert result.stdout == "42\n"


def runs(outputs: Iterable[Output]) -> list[tuple[str, str]]:
    """The stream texts among outputs, in order."""
    return [(output.name, output.text) for output in outputs if isinstance(output, StreamOutput)]


def joined(pieces: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Pieces of streams with adjacent ones of one stream put together, as a result shows them."""
    whole: list[tuple[str, str]] = []
    for name, text in pieces:
        if not text:
            continue
        if whole and whole[-1][0] == name:
            whole[-1] = name, whole[-1][1] + text
        else:
            whole.append((name, text))
    return whole
