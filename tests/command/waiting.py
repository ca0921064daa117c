"""Waiting for what nothing tells about."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

PATIENCE = 60.0
"""Seconds that nothing here takes, on no machine."""


async def soon(condition: Callable[[], bool]) -> bool:
    """Whether something becomes true."""

    def wait() -> bool:
        give_up = time.monotonic() + PATIENCE
        while not condition() and time.monotonic() < give_up:
            time.sleep(0.02)
        return condition()

    return await asyncio.to_thread(wait)
