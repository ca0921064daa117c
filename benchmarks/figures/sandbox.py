"""What isolation costs: the same work with a sandbox for each kernel and without, in turns."""

from __future__ import annotations

import time
from statistics import median

from benchmarks.plan import Record, Row, figure
from benchmarks.sides import Gateway, IpyboxSide, Kernel, Side

_CALLS = 200


async def _connect(gateway: Gateway) -> float:
    start = time.perf_counter()
    async with gateway.kernel() as kernel:
        await kernel.execute("1+1")
        return time.perf_counter() - start


async def _call(kernel: Kernel) -> float:
    start = time.perf_counter()
    await kernel.execute("1+1")
    return time.perf_counter() - start


@figure(
    "sandbox",
    Row(key="plain connect", title="new kernel without a sandbox: connect to first result", unit="ms", factor=1000),
    Row(key="connect", title="new sandboxed kernel: connect to first result", unit="ms", factor=1000),
    Row(key="connect more", title="    median, more than without a sandbox", unit="ms", factor=1000),
    Row(key="execute", title="execute 1+1 in a sandbox", unit="ms", factor=1000),
    Row(key="execute more", title="    median, more than without a sandbox", unit="ms", factor=1000),
    Row(key="start", title="start of a sandboxed gateway to first result", unit="s"),
    sides=("ipybox",),
    size=15,
    quick_size=4,
    timeout=180,
)
async def sandbox(side: Side, size: int, record: Record) -> None:
    """Kernels of two gateways in turns, so that the machine's mood hits both."""
    assert isinstance(side, IpyboxSide)
    begin = time.perf_counter()
    async with side.gateway_with(sandbox=True) as inside:
        await _connect(inside)
        record.add("start", time.perf_counter() - begin)
        await _compare(inside, side, size, record)


async def _compare(inside: Gateway, side: IpyboxSide, size: int, record: Record) -> None:
    async with side.gateway_with() as outside:
        await _connect(outside)
        plain = []
        sandboxed = []
        for _ in range(size):
            plain.append(await _connect(outside))
            record.add("plain connect", plain[-1])
            sandboxed.append(await _connect(inside))
            record.add("connect", sandboxed[-1])
        record.add("connect more", median(sandboxed) - median(plain))
        plain, sandboxed = [], []
        async with inside.kernel() as one, outside.kernel() as other:
            for _ in range(10):
                await _call(one)
                await _call(other)
            for _ in range(_CALLS):
                plain.append(await _call(other))
                sandboxed.append(await _call(one))
                record.add("execute", sandboxed[-1])
        record.add("execute more", median(sandboxed) - median(plain))
