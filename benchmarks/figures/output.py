"""How much output arrives, and how fast."""

from __future__ import annotations

import time

from benchmarks.plan import Record, Row, figure
from benchmarks.sides import Side

_DELIVERED = Row(key="delivered", title="    of it delivered", unit="%", factor=100, kind="range")


def _check(text: str, expected: str, record: Record) -> bool:
    """Records the share of the text that arrived; whether it is all of it, in order."""
    record.add("delivered", min(len(text) / len(expected), 1.0))
    if text == expected:
        return True
    if len(text) >= len(expected):
        record.trouble("other text than was printed")
    return False


async def _print_at_once(side: Side, characters: int, record: Record, timeout: float) -> None:
    # Every line differs, so that a piece that is missing or in the wrong place shows.
    make = f"text = '\\n'.join(f'{{n:09d}}' for n in range({characters // 10}))"
    expected = "\n".join(f"{n:09d}" for n in range(characters // 10))
    async with side.gateway() as gateway, gateway.kernel() as kernel:
        await kernel.execute(make)
        text = ""
        start = time.perf_counter()
        with record.tolerance():
            text = await kernel.execute("print(text)", timeout)
        seconds = time.perf_counter() - start
        if _check(text, expected, record):
            record.add("rate", len(expected) / seconds)


@figure(
    "print",
    Row(key="rate", title="one print of {size} characters", unit="MB/s", factor=1e-6),
    _DELIVERED,
    size=3_500_000,
    quick_size=3_500_000,
)
async def medium_print(side: Side, size: int, record: Record) -> None:
    """A print that is larger than what Jupyter's servers let through in a second."""
    await _print_at_once(side, size, record, 30)


@figure(
    "large-print",
    Row(key="rate", title="one print of {size} characters", unit="MB/s", factor=1e-6),
    _DELIVERED,
    size=100_000_000,
    quick_size=100_000_000,
    timeout=180,
)
async def large_print(side: Side, size: int, record: Record) -> None:
    """As much as nobody should print."""
    await _print_at_once(side, size, record, 100)


@figure(
    "lines",
    Row(key="seconds", title="{size} short lines in a loop", unit="s"),
    _DELIVERED,
    size=1_000_000,
    quick_size=1_000_000,
    timeout=240,
)
async def lines(side: Side, size: int, record: Record) -> None:
    """Many small prints in one execution. The time counts only when all of them arrived."""
    expected = "\n".join(map(str, range(size)))
    async with side.gateway() as gateway, gateway.kernel() as kernel:
        await kernel.execute("1+1")
        text = ""
        start = time.perf_counter()
        with record.tolerance():
            text = await kernel.execute(f"for n in range({size}):\n    print(n)", 180)
        seconds = time.perf_counter() - start
        if _check(text, expected, record):
            record.add("seconds", seconds)
