"""Gives sessions the processors that they run on. Floor: control."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterable


class Processors:
    """Counts how many sessions run on each processor, and gives those that have the fewest.

    Only whole processors can be kept to, so a part of one counts as one.

    Args:
        numbers: Those that there are; None is those that this process runs on.
    """

    def __init__(self, numbers: Iterable[int] | None = None) -> None:
        self._load = Counter(dict.fromkeys(os.sched_getaffinity(0) if numbers is None else numbers, 0))

    def take(self, cores: float) -> tuple[int, ...]:
        """So many processors; none means all, where there are no more than that."""
        count = max(1, math.ceil(cores))
        if count >= len(self._load):
            return ()
        taken = sorted(self._load, key=lambda number: (self._load[number], number))[:count]
        self._load.update(taken)
        return tuple(taken)

    def give_back(self, taken: tuple[int, ...]) -> None:
        """They are not used any more."""
        self._load.subtract(taken)
