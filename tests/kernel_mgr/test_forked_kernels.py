"""Whoever asks for a kernel gets one, also when the fork-server is killed just then. Real processes."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest
import pytest_asyncio

from ipybox.kernel_mgr.forked_kernels import ForkedChild, ForkedKernels
from ipybox.process.family import MARKER
from ipybox.sandbox.launcher import Program
from tests.kernels.helpers import HANG

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.asyncio,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="kernels are forked on Linux only"),
]


@pytest_asyncio.fixture
async def forked(tmp_path: Path) -> AsyncIterator[ForkedKernels]:
    kernels = ForkedKernels([], [sys.executable], os.environ, str(tmp_path))
    try:
        await kernels.wait_ready()
        yield kernels
    finally:
        kernels.close()


async def fork(kernels: ForkedKernels) -> ForkedChild:
    """A process that was forked, and is on its way to become a kernel."""
    kernel_id = str(uuid4())
    program = Program(argv=(), env={**os.environ, MARKER: kernel_id}, cwd="/")
    async with asyncio.timeout(2 * HANG):
        child = await kernels.start(program, [], kernel_id)
    assert child is not None
    return child


async def end(child: ForkedChild) -> None:
    os.kill(child.pid, signal.SIGKILL)
    async with asyncio.timeout(HANG):
        await child.ended()
        await child.collect()


@pytest.mark.parametrize("count", [1, 4])
async def test_all_who_ask_a_fork_server_that_was_killed_get_a_kernel(forked: ForkedKernels, count: int) -> None:
    """Its sockets close before it counts as ended, and only one of those who notice starts another."""
    for _ in range(5):
        killed = forked._process
        os.kill(killed.pid, signal.SIGKILL)
        children = await asyncio.gather(*(fork(forked) for _ in range(count)))
        assert killed.poll() == -signal.SIGKILL
        assert {child.is_alive for child in children} == {True}
        await asyncio.gather(*(end(child) for child in children))
    assert forked.cold is None
