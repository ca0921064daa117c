"""When a command has had its time. Free of I/O and clocks. Floor: command."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(slots=True)
class Deadlines:
    """A limit from start to end, and one without output.

    Attributes:
        started: When it began, in seconds of a monotonic clock.
        wall: Seconds from start to end.
        idle: Seconds without output; None is no limit.
    """

    started: float
    wall: float
    idle: float | None = None
    _last: float = 0.0
    _held: int = 0

    def __post_init__(self) -> None:
        self._last = self.started

    def heard(self, now: float) -> None:
        """There was output."""
        self._last = now

    def hold(self) -> None:
        """Nobody listens to it for now, so it may be silent."""
        self._held += 1

    def release(self, now: float) -> None:
        """Somebody does again."""
        self._held -= 1
        self._last = now

    def left(self, now: float) -> float:
        """Seconds until it is worth asking again; not negative."""
        left = self.started + self.wall - now
        if self.idle is not None:
            left = min(left, self.idle if self._held else self._last + self.idle - now)
        return max(0.0, left)

    def expired(self, now: float) -> Literal["wall", "idle"] | None:
        """Which of them is over."""
        if now >= self.started + self.wall:
            return "wall"
        if self.idle is not None and not self._held and now >= self._last + self.idle:
            return "idle"
        return None
