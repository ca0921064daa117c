"""What one execution costs."""

from __future__ import annotations

import time

from benchmarks.plan import Record, Row, figure
from benchmarks.sides import Side

_WARM_UP = 10


@figure(
    "execute",
    Row(key="seconds", title="execute 1+1, round trip", unit="ms", factor=1000),
    size=300,
    quick_size=60,
)
async def execute(side: Side, size: int, record: Record) -> None:
    """From sending ``1+1`` to holding its result, on a connected kernel."""
    async with side.gateway() as gateway, gateway.kernel() as kernel:
        for _ in range(_WARM_UP):
            await kernel.execute("1+1")
        for _ in range(size):
            start = time.perf_counter()
            await kernel.execute("1+1")
            record.add("seconds", time.perf_counter() - start)


@figure(
    "prints",
    Row(key="lost", title="one-line prints that lose their text", kind="share"),
    size=240,
    quick_size=60,
)
async def prints(side: Side, size: int, record: Record) -> None:
    """One print per execution: how many results lack its text."""
    async with side.gateway() as gateway, gateway.kernel() as kernel:
        lost = 0
        for number in range(size):
            text = await kernel.execute(f"print('line {number}')")
            lost += text != f"line {number}"
        record.add("lost", lost)
