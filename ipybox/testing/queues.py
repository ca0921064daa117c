"""Queues of responses by key, and what is left in them. Free of I/O. Floor: testing."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

K = TypeVar("K")
R = TypeVar("R")


@dataclass(slots=True)
class _Queue(Generic[R]):
    waiting: deque[R] = field(default_factory=deque)
    given: int = 0
    is_matched: bool = False


class Queues(Generic[K, R]):
    """Responses in the order in which they are used, for each key.

    Args:
        asker: What matches keys, such as ``command``, for texts.
        key_text: How a key is written.
    """

    def __init__(self, asker: str, key_text: Callable[[K], str]) -> None:
        self._asker, self._key_text = asker, key_text
        self._queues: dict[K, _Queue[R]] = {}

    def __contains__(self, key: object) -> bool:
        return key in self._queues

    def __iter__(self) -> Iterator[K]:
        return iter(list(self._queues))

    def add(self, key: K, responses: Iterable[R]) -> None:
        """Puts responses at the end of a key's queue."""
        queue = self._queues.setdefault(key, _Queue())
        before = len(queue.waiting)
        queue.waiting.extend(responses)
        queue.given += len(queue.waiting) - before

    def take(self, key: K) -> tuple[R | None, str]:
        """The next response for a key that was matched; or None, and why there is none."""
        queue = self._queues[key]
        queue.is_matched = True
        try:
            return queue.waiting.popleft(), ""
        except IndexError:
            return None, _used_up(queue.given)

    def texts(self) -> list[str]:
        """All keys, as they are written."""
        return [self._key_text(key) for key in self._queues]

    @property
    def unused(self) -> dict[K, int]:
        """How many responses each key has left; with 0 for keys without responses that nothing matched."""
        return {key: len(queue.waiting) for key, queue in self._queues.items() if queue.waiting or not queue.is_matched}

    def unused_text(self) -> list[str]:
        """The same as lines to read."""
        lines = []
        for key, left in self.unused.items():
            queue = self._queues[key]
            never = "" if queue.is_matched else f"; no {self._asker} matched it"
            lines.append(f"{self._key_text(key)}: {left} of {queue.given} left{never}")
        return lines


def _used_up(count: int) -> str:
    if count == 1:
        return "its only response is used up"
    return f"all {count} responses for it are used up" if count else "its list is empty"
