"""Keeps programs within their memory limit, by looking. Linux only. Floor: sandbox.

A cgroup would need no looking, but a plain user seldom may make one. The kernel's own view of a process is read 20
times a second, its children's twice a second, and more often while there are many: that is dearer.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ipybox.process import memory, warden
from ipybox.process.memory import proportional, resident

log = logging.getLogger("ipybox.sandbox")

_INTERVAL = 0.05
_FAMILY_EVERY = 10
_LARGE_FAMILY_EVERY = 2
_CLOSE_LOOK_SECONDS = 0.05
"""For which what processes share is looked at before everybody else is looked at again."""


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
        self._closer: dict[Guarded, _CloserLook] = {}

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
                families, is_large = await asyncio.to_thread(_families, list(self._guarded), self._closer)
                every = 1 if self._closer else _LARGE_FAMILY_EVERY if is_large else _FAMILY_EVERY
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


class _CloserLook:
    """Bytes of processes, what they share counted once: found out process by process."""

    def __init__(self, pids: Sequence[int], limit: int) -> None:
        self._left, self._limit = deque(pids), limit
        self.used = 0

    def go_on(self) -> bool:
        """Looks at one more; says whether it knows enough."""
        self.used += proportional(self._left.popleft())
        return not self._left or self.used > self._limit


def _families(all_guarded: Sequence[Guarded], closer: dict[Guarded, _CloserLook]) -> tuple[dict[Guarded, int], bool]:
    """Bytes of programs with all below them, and whether one of them is a large family.

    Args:
        closer: Families that could be above their limit, or share much. To find that out can take a second for each
            hundred processes, so they take turns, and go on with the next call; none keeps another one waiting.
    """
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
            at_most = sum(map(resident, pids))  # forks share most of theirs
            if at_most <= guarded.limit:
                used[guarded] = at_most
                closer.pop(guarded, None)
            elif guarded not in closer:
                closer[guarded] = _CloserLook(pids, guarded.limit)
            largest = max(largest, len(pids))
    for gone in closer.keys() - set(all_guarded):
        del closer[gone]
    until = time.monotonic() + _CLOSE_LOOK_SECONDS
    while closer:
        guarded = next(iter(closer))
        look = closer.pop(guarded)
        if look.go_on():
            used[guarded] = look.used
        else:
            closer[guarded] = look  # behind all others
        if time.monotonic() >= until:
            break
    return used, largest > 2
