"""Keeps programs within their memory limit, by looking. Linux only. Floor: sandbox.

A cgroup would need no looking, but a plain user seldom may make one. The kernel's own view of a process is read 20
times a second, its children's twice a second, and more often while there are many: that is dearer.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
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
            families: dict[Guarded, int] = {}
            if looks % every == 0 and any(guarded.root for guarded in self._guarded):
                families, is_large = await asyncio.to_thread(_families, list(self._guarded))
                every = _LARGE_FAMILY_EVERY if is_large else _FAMILY_EVERY
            for guarded in list(self._guarded):
                used = max(memory.used(guarded.pid, guarded.limit), families.get(guarded, 0))
                if used > guarded.limit:
                    self._guarded.discard(guarded)
                    try:
                        guarded.on_excess(used)
                    except Exception:
                        log.exception("a program that uses too much memory could not be ended")
            looks += 1
            await asyncio.sleep(_INTERVAL)  # memory use has no event to wait for without a cgroup


def _families(all_guarded: Sequence[Guarded]) -> tuple[dict[Guarded, int], bool]:
    """Bytes of programs with all below them, and whether one of them is a large family."""
    tree = warden.parents()
    children: dict[int, list[int]] = {}
    for pid, parent in tree.items():
        children.setdefault(parent, []).append(pid)
    used, largest = {}, 0
    for guarded in all_guarded:
        if guarded.root:
            pids = [*children.get(guarded.root, ())]
            for pid in pids:  # which grows meanwhile
                pids += children.get(pid, ())
            used[guarded] = _of_all(pids, guarded.limit)
            largest = max(largest, len(pids))
    return used, largest > 2


def _of_all(pids: Sequence[int], limit: int) -> int:
    """Bytes of processes, what they share counted once."""
    used = sum(resident(pid) for pid in pids)
    if used <= limit:
        return used  # at most: forks share most of theirs
    return sum(proportional(pid) for pid in pids)
