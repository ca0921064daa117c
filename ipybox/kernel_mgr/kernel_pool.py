"""Kernels that are up before anybody asks for them. Floor: kernel_mgr."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable

log = logging.getLogger("ipybox.kernel_mgr")

_PAUSE = 1.0
"""Seconds before another attempt when one could not be started."""


class KernelPool:
    """Keeps kernels ready, and gives each of them away once.

    Args:
        size: How many to keep.
        start: Starts one that answers, and returns its id; raises when that can't be.
        is_good: Tells whether one can still be given away.
        end: Ends one that can't.
    """

    def __init__(
        self,
        size: int,
        start: Callable[[], Awaitable[str]],
        is_good: Callable[[str], Awaitable[bool]],
        end: Callable[[str], Awaitable[None]],
    ) -> None:
        self._size = size
        self._start = start
        self._is_good = is_good
        self._end = end
        self._ready: OrderedDict[str, None] = OrderedDict()
        self._judged: set[str] = set()
        self._wanted = asyncio.Event()
        self._filling: asyncio.Task[None] | None = None
        self._ending: set[asyncio.Task[None]] = set()

    def __contains__(self, kernel_id: object) -> bool:
        return kernel_id in self._ready

    def __len__(self) -> int:
        return len(self._ready)

    def open(self) -> None:
        """Begins to fill it."""
        if self._size and self._filling is None:
            self._filling = asyncio.get_running_loop().create_task(self._fill())

    async def take(self) -> str | None:
        """Gives one away; None when there is none that is good."""
        while self._ready:
            kernel_id, _ = self._ready.popitem(last=False)
            self._judged.add(kernel_id)
            try:
                is_good = await self._is_good(kernel_id)
            except Exception as error:
                log.warning("kernel %s of the pool is not given away: %s", kernel_id, error)
                is_good = False
            except BaseException:  # who asked went away
                if kernel_id in self._judged:
                    self._ready[kernel_id] = None
                    self._ready.move_to_end(kernel_id, last=False)
                self._judged.discard(kernel_id)
                raise
            has_lived = kernel_id in self._judged
            self._judged.discard(kernel_id)
            self._wanted.set()
            if is_good and has_lived:
                return kernel_id
            if has_lived:
                self._discard(kernel_id)
        return None

    def give_up(self) -> str | None:
        """The newest one, for who gave it away to end it; None when there is none. It is made again later."""
        if not self._ready:
            return None
        kernel_id, _ = self._ready.popitem()
        self._wanted.set()
        return kernel_id

    def drop(self, kernel_id: str) -> None:
        """One has ended by itself."""
        if kernel_id in self._ready or kernel_id in self._judged:
            self._ready.pop(kernel_id, None)
            self._judged.discard(kernel_id)
            self._wanted.set()
            self._discard(kernel_id)

    async def close(self) -> None:
        """Fills it no more. What is in it is whoever's who closes."""
        if self._filling is not None:
            self._filling.cancel()
            await asyncio.gather(self._filling, return_exceptions=True)
        self._ready.clear()

    async def _fill(self) -> None:
        while True:
            self._wanted.clear()
            while len(self._ready) < self._size:
                try:
                    self._ready[await self._start()] = None
                except Exception as error:
                    log.debug("no kernel for the pool: %s", error)
                    # Whatever it is, memory or a broken policy, it does not tell when it ends.
                    await asyncio.sleep(_PAUSE)
            await self._wanted.wait()

    def _discard(self, kernel_id: str) -> None:
        task = asyncio.ensure_future(self._end(kernel_id))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
