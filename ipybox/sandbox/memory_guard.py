"""Keeps programs within their memory limit, by looking. Linux only. Floor: sandbox.

A cgroup would need no looking, but a plain user seldom may make one. The kernel's own view of a process is read 20
times a second, its children's twice a second, and more often while there are many: that is dearer.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

from ipybox.process import memory, warden
from ipybox.process.memory import proportional, resident

log = logging.getLogger("ipybox.sandbox")

_INTERVAL = 0.05
_FAMILY_EVERY = 10
_LARGE_FAMILY_EVERY = 2


@dataclass(frozen=True, slots=True)
class Guarded:
    """A program under guard.

    Attributes:
        pid: The program.
        root: Pid of the process that everything it starts descends from; 0 when it starts nothing.
        limit: Bytes for all of it together.
        on_excess: Called once with the bytes in use when they are more.
    """

    pid: int
    root: int
    limit: int
    on_excess: Callable[[int], None]


class MemoryGuard:
    """Watches any number of programs in one task, which runs while there are some."""

    def __init__(self) -> None:
        self._guarded: set[Guarded] = set()
        self._task: asyncio.Task[None] | None = None

    def add(self, guarded: Guarded) -> None:
        """Begins to watch one."""
        self._guarded.add(guarded)
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._watch())

    def remove(self, guarded: Guarded) -> None:
        """Ends that."""
        self._guarded.discard(guarded)

    async def close(self) -> None:
        """Watches nothing any more."""
        self._guarded.clear()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _watch(self) -> None:
        looks = 0
        every = _FAMILY_EVERY
        while self._guarded:
            tree = None
            if looks % every == 0 and any(guarded.root for guarded in self._guarded):
                tree = await asyncio.to_thread(warden.parents)
                every = _LARGE_FAMILY_EVERY if self._has_large_family(tree) else _FAMILY_EVERY
            for guarded in list(self._guarded):
                used = memory.used(guarded.pid, guarded.limit)
                if tree is not None and guarded.root:
                    used = max(used, _of_all(guarded, tree))
                if used > guarded.limit:
                    self._guarded.discard(guarded)
                    try:
                        guarded.on_excess(used)
                    except Exception:
                        log.exception("a program that uses too much memory could not be ended")
            looks += 1
            await asyncio.sleep(_INTERVAL)  # memory use has no event to wait for without a cgroup

    def _has_large_family(self, tree: dict[int, int]) -> bool:
        return any(len(warden.descendants(guarded.root, tree)) > 2 for guarded in self._guarded if guarded.root)


def _of_all(guarded: Guarded, tree: dict[int, int]) -> int:
    """Bytes of a program and all below it, what they share counted once."""
    pids = warden.descendants(guarded.root, tree)
    used = sum(resident(pid) for pid in pids)
    if used <= guarded.limit:
        return used  # at most: forks share most of theirs
    return sum(proportional(pid) for pid in pids)
