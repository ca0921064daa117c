"""What a kernel costs: to start, to keep, and to have beside others."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from statistics import median

import psutil

from benchmarks.plan import GATEWAYS, Record, Row, figure
from benchmarks.sides import Gateway, Kernel, Side

_CONCURRENT = 4


async def _connect_once(gateway: Gateway) -> float:
    """Seconds from nothing to the first result of a fresh kernel."""
    start = time.perf_counter()
    async with gateway.kernel() as kernel:
        await kernel.execute("1+1")
        return time.perf_counter() - start


async def _time_executions(kernel: Kernel) -> list[float]:
    """Seconds of each of some executions, the first ones left out."""
    seconds = []
    for _ in range(60):
        start = time.perf_counter()
        await kernel.execute("1+1")
        seconds.append(time.perf_counter() - start)
    return seconds[10:]


@figure(
    "connect",
    Row(key="seconds", title="new kernel: connect to first result", unit="ms", factor=1000),
    size=20,
    quick_size=4,
)
async def connect(side: Side, size: int, record: Record) -> None:
    """One kernel after the other, by a gateway that is warm."""
    async with side.gateway() as gateway:
        await _connect_once(gateway)
        for _ in range(size):
            with record.tolerance():
                record.add("seconds", await _connect_once(gateway))


@figure(
    "turnover",
    Row(key="rate", title=f"fresh kernel, run, destroy; {_CONCURRENT} at a time", unit="1/s"),
    size=60,
    quick_size=8,
    timeout=180,
)
async def turnover(side: Side, size: int, record: Record) -> None:
    """Kernels that live for one execution, per second."""
    async with side.gateway() as gateway:
        await _connect_once(gateway)
        left = iter(range(size))
        done = 0

        async def user() -> None:
            nonlocal done
            for _ in left:
                with record.tolerance():
                    await _connect_once(gateway)
                    done += 1

        start = time.perf_counter()
        await asyncio.gather(*(user() for _ in range(_CONCURRENT)))
        seconds = time.perf_counter() - start
        if done:
            record.add("rate", done / seconds)


@figure(
    "memory",
    Row(key="bytes", title="memory per idle kernel, PSS, {size} alive", unit="MB", factor=1e-6),
    size=50,
    quick_size=10,
    timeout=240,
)
async def memory(side: Side, size: int, record: Record) -> None:
    """Everything that a kernel adds to the processes of a gateway that has served one before."""
    async with side.gateway() as gateway:
        await _connect_once(gateway)
        before = _below()
        async with AsyncExitStack() as stack:
            for _ in range(size):
                kernel = await stack.enter_async_context(gateway.kernel())
                await kernel.execute("1+1")
            used = sum(_proportional_set_size(pid) for pid in _below() - before)
            record.add("bytes", used / size)


def _below() -> set[int]:
    """Processes below this one."""
    return {process.pid for process in psutil.Process().children(recursive=True)}


def _proportional_set_size(pid: int) -> int:
    """Bytes of memory of a process, with what it shares divided by the number of those who share it. Linux only."""
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
        for line in file:
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    raise ValueError("no Pss in smaps_rollup")


@figure(
    "crowd",
    Row(key="connect", title="connect to first result, {size} kernels alive", unit="ms", factor=1000),
    Row(key="connect_growth", title="    times the same with none", kind="median"),
    Row(key="execute", title="execute 1+1, {size} kernels alive", unit="ms", factor=1000),
    Row(key="execute_growth", title="    times the same with one", kind="median"),
    sides=GATEWAYS,
    size=100,
    quick_size=10,
    timeout=400,
)
async def crowd(side: Side, size: int, record: Record) -> None:
    """What idle kernels cost the others."""
    async with side.gateway() as gateway, AsyncExitStack() as stack:
        await _connect_once(gateway)
        connects = [await _connect_once(gateway) for _ in range(10)]
        kernel = await stack.enter_async_context(gateway.kernel())
        executions = await _time_executions(kernel)
        for _ in range(size - 1):
            other = await stack.enter_async_context(gateway.kernel())
            await other.execute("1+1")
        connects_in_crowd = [await _connect_once(gateway) for _ in range(10)]
        executions_in_crowd = await _time_executions(kernel)
        for seconds in connects_in_crowd:
            record.add("connect", seconds)
        for seconds in executions_in_crowd:
            record.add("execute", seconds)
        record.add("connect_growth", median(connects_in_crowd) / median(connects))
        record.add("execute_growth", median(executions_in_crowd) / median(executions))
