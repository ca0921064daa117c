"""What forking kernels gives, in forms that only we have: a pool, preloaded modules, and nothing left behind."""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from pathlib import Path

import psutil

from benchmarks.plan import Record, Row, figure
from benchmarks.sides import Gateway, IpyboxSide, Side

_MODULES = ["numpy", "pandas", "matplotlib.pyplot"]
_USE = "import numpy, pandas, matplotlib.pyplot; int(pandas.Series(numpy.arange(3)).sum())"
_WARM_UP = 50
"""Cycles after which what grows with use, such as caches, has grown."""


async def _first_result(gateway: Gateway, code: str = "1+1") -> float:
    start = time.perf_counter()
    async with gateway.kernel() as kernel:
        await kernel.execute(code)
        return time.perf_counter() - start


@figure(
    "pool",
    Row(key="seconds", title="kernel from a pool, sandboxed: connect to first result", unit="ms", factor=1000),
    sides=("ipybox",),
    size=20,
    quick_size=4,
)
async def pool(side: Side, size: int, record: Record) -> None:
    """One kernel at a time, each when the pool is full again."""
    assert isinstance(side, IpyboxSide)
    async with side.gateway_with(sandbox=True, pool_size=2) as gateway:
        for _ in range(size + 2):
            await _pool_is_full()
            record.add("seconds", await _first_result(gateway))


async def _pool_is_full() -> None:
    """Gives two kernels the time to start; the machine is idle but for them."""
    await asyncio.sleep(0.3)


@figure(
    "preload",
    Row(key="preloaded", title="numpy, pandas and pyplot preloaded: connect to first use", unit="ms", factor=1000),
    Row(key="imported", title="    the same imported by the kernel", unit="ms", factor=1000),
    sides=("ipybox",),
    size=8,
    quick_size=3,
    timeout=240,
)
async def preload(side: Side, size: int, record: Record) -> None:
    """The first use of three large packages in a fresh sandboxed kernel."""
    assert isinstance(side, IpyboxSide)
    async with (
        side.gateway_with(sandbox=True, preload=_MODULES) as warm,
        side.gateway_with(sandbox=True) as cold,
    ):
        for gateway in (warm, cold):
            await _first_result(gateway, _USE)
        for _ in range(size):
            record.add("preloaded", await _first_result(warm, _USE))
            record.add("imported", await _first_result(cold, _USE))


@figure(
    "cycles",
    Row(key="processes", title="{size} times create, run, destroy: more processes", kind="range"),
    Row(key="descriptors", title="    more descriptors", kind="range"),
    Row(key="namespaces", title="    more namespaces", kind="range"),
    Row(key="mounts", title="    more mounts", kind="range"),
    Row(key="files", title="    more files", kind="range"),
    Row(key="bytes", title="    more memory of the gateway's processes, MB", kind="range", factor=1e-6),
    sides=("ipybox",),
    size=500,
    quick_size=100,
    timeout=240,
)
async def cycles(side: Side, size: int, record: Record) -> None:
    """What a gateway holds after many kernels, compared with what it held after a few."""
    assert isinstance(side, IpyboxSide)
    async with side.gateway_with(sandbox=True) as gateway:
        for _ in range(_WARM_UP):
            await _first_result(gateway)
        before = _holdings()
        for _ in range(size):
            await _first_result(gateway)
        after = _holdings()
        for key in after.keys() | before.keys():
            record.add(key, after[key] - before[key])


def _holdings() -> Counter[str]:
    """What all processes below this one hold."""
    held: Counter[str] = Counter()
    namespaces = set()
    for process in psutil.Process().children(recursive=True):
        held["processes"] += 1
        proc = Path(f"/proc/{process.pid}")
        held["descriptors"] += len(os.listdir(proc / "fd"))
        held["bytes"] += process.memory_info().rss
        namespaces |= {os.readlink(name) for name in (proc / "ns").iterdir()}
        held["mounts"] += len((proc / "mountinfo").read_text().splitlines())
    held["namespaces"] = len(namespaces)
    held["files"] = sum(len(files) for folder in Path("/tmp").glob("ipybox-*") for _, _, files in os.walk(folder))
    return held
