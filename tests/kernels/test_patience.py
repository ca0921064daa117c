"""Readers that take their time, and connections that nobody uses for a while."""

from __future__ import annotations

import asyncio

import pytest

from ipybox import ExecutionTimeoutError, KernelClient, KernelGateway
from tests.kernels.helpers import channel_of

pytestmark = pytest.mark.kernel


@pytest.mark.asyncio
async def test_code_is_stopped_in_time_when_its_reader_is_slow(client: KernelClient) -> None:
    with pytest.raises(ExecutionTimeoutError) as caught:
        async with client.run("import time\nstart = time.time()\nwhile True: print('x', flush=True)", timeout=1) as run:
            await anext(run)
            await asyncio.sleep(2.5)  # a reader that is busy elsewhere
            await run.result()
    assert caught.value.state_preserved
    assert caught.value.result is not None
    assert len(caught.value.result.stdout) > 0


@pytest.mark.asyncio
async def test_a_slow_reader_gets_everything_before_the_timeout_is_told(client: KernelClient) -> None:
    read = ""
    with pytest.raises(ExecutionTimeoutError) as caught:
        async for item in client.stream(
            "import time\nfor i in range(30): print(i, flush=True)\ntime.sleep(60)", timeout=0.5
        ):
            assert isinstance(item, str)
            read += item
            await asyncio.sleep(0.05)
    assert caught.value.result is not None
    assert read == caught.value.result.stdout == "".join(f"{i}\n" for i in range(30))


@pytest.mark.asyncio
async def test_code_that_ended_in_time_is_no_timeout_however_late_it_is_read(client: KernelClient) -> None:
    async with client.run("for i in range(5): print(i, flush=True)", timeout=1) as run:
        await asyncio.sleep(1.5)
        assert (await run.result()).text == "0\n1\n2\n3\n4"


@pytest.mark.soak
@pytest.mark.asyncio
async def test_a_connection_that_nobody_uses_is_kept(client: KernelClient) -> None:
    """Over two of the gateway's pings: pings that are answered must not count as silence."""
    await client.execute("kept = 'yes'")
    websocket = channel_of(client)._ws
    await asyncio.sleep(65)
    assert channel_of(client)._ws is websocket
    assert (await client.execute("kept")).text == "'yes'"


@pytest.mark.asyncio
async def test_a_kernel_keeps_no_copy_of_what_it_prints(gateway: KernelGateway, client: KernelClient) -> None:
    await client.execute("import os, psutil\nme = psutil.Process()\ndef used(): return me.memory_info().rss\nused()")
    before = int((await client.execute("used()")).text or 0)
    for _ in range(10):
        await client.execute("print('x' * 10_000_000)")
    after = int((await client.execute("import gc; gc.collect(); used()")).text or 0)
    assert after - before < 80_000_000
