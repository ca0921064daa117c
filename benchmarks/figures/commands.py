"""What a single sandboxed command costs, next to a bare bubblewrap and to no sandbox at all."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Awaitable, Callable

from benchmarks.plan import Record, Row, figure
from benchmarks.sides import Side

_BARE = ("--unshare-all", "--die-with-parent", "--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev", "--")


@figure(
    "commands",
    Row(key="kept", title="one sandboxed command, wall kept: execute true", unit="ms", factor=1000),
    Row(key="alone", title="one sandboxed command alone", unit="ms", factor=1000),
    Row(key="host", title="one command on the host driver", unit="ms", factor=1000),
    Row(key="bare", title="    bubblewrap by itself, without limits and filter", unit="ms", factor=1000),
    Row(key="process", title="    asyncio.create_subprocess_exec", unit="ms", factor=1000),
    Row(key="many", title="sandboxed commands, 4 at a time", unit="1/s"),
    sides=("ipybox",),
    size=40,
    quick_size=8,
    timeout=120,
)
async def commands(side: Side, size: int, record: Record) -> None:
    """All of them in turns, so that the machine's mood hits all."""
    from ipybox import ExecutionPolicy, Sandbox

    policy = ExecutionPolicy.default()
    bubblewrap = shutil.which("bwrap")
    host = Sandbox.host(policy, waive="isolation")
    async with Sandbox.bubblewrap(policy) as kept:
        await kept.execute(["true"])
        for _ in range(size):
            record.add("kept", await _timed(lambda: kept.execute(["true"])))
            record.add("alone", await _timed(lambda: Sandbox.bubblewrap(policy).execute(["true"])))
            record.add("host", await _timed(lambda: host.execute(["true"])))
            record.add("process", await _timed(lambda: _process("true")))
            if bubblewrap is not None:
                record.add("bare", await _timed(lambda: _process(bubblewrap, *_BARE, "true")))

        async def some() -> None:
            for _ in range(size):
                await kept.execute(["true"])

        seconds = await _timed(lambda: asyncio.gather(*(some() for _ in range(4))))
        record.add("many", 4 * size / seconds)


async def _timed(work: Callable[[], Awaitable[object]]) -> float:
    start = time.perf_counter()
    await work()
    return time.perf_counter() - start


async def _process(*command: str) -> None:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    await process.communicate()
