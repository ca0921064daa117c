"""What a gateway costs: to start, and to stop."""

from __future__ import annotations

import time
from contextlib import AsyncExitStack, suppress
from importlib import import_module

import psutil

from benchmarks.plan import GATEWAYS, Record, Row, figure
from benchmarks.sides import Side


@figure(
    "start",
    Row(key="seconds", title="script: import, gateway, kernel, first result", unit="s"),
    Row(key="import", title="    of it importing ipybox", unit="s"),
    sides=GATEWAYS,
)
async def start(side: Side, size: int, record: Record) -> None:
    """What a script waits for that runs one line of code, the interpreter's own start included."""
    begin = time.monotonic()
    for module in ("client", "server"):
        import_module(f"ipybox.kernel_mgr.{module}")
    record.add("import", time.monotonic() - begin)
    async with side.gateway() as gateway, gateway.kernel() as kernel:
        await kernel.execute("1+1")
        record.add("seconds", time.monotonic() - record.started_at)


@figure(
    "stop",
    Row(key="seconds", title="stop a gateway with {size} kernels", unit="ms", factor=1000),
    Row(key="left", title="    processes that it leaves behind", kind="sum"),
    sides=GATEWAYS,
    size=4,
    quick_size=4,
)
async def stop(side: Side, size: int, record: Record) -> None:
    """The kernels are idle and their clients connected."""
    clients = AsyncExitStack()
    try:
        async with side.gateway() as gateway:
            for _ in range(size):
                kernel = await clients.enter_async_context(gateway.kernel())
                await kernel.execute("1+1")
            family = psutil.Process().children(recursive=True)
            start = time.perf_counter()
        record.add("seconds", time.perf_counter() - start)
        record.add("left", sum(_is_alive(process) for process in family))
    finally:
        with suppress(Exception):  # to disconnect from a gateway that is gone is not the subject
            await clients.aclose()


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
