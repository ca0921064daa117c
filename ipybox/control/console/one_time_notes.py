"""Something to be said on the next page: kept in memory, for whom it is for, and said once. Floor: control."""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

_SECONDS = 60.0
_MOST = 500
_MOST_OF_ONE = 20
"""So that nobody has the secrets of others forgotten before they are shown."""


@dataclass(frozen=True, slots=True)
class Note:
    """What is said, and a secret that goes with it, which is shown nowhere else."""

    text: str
    secret: str = ""


class OneTimeNotes:
    """Notes that wait. ``clock`` gives seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._notes: OrderedDict[str, tuple[float, str, Note]] = OrderedDict()

    def leave(self, whose: str, note: Note) -> str:
        """Keeps a note for a minute. Returns with what it can be had."""
        theirs = [name for name, (_, owner, _) in self._notes.items() if owner == whose]
        for old in theirs[: max(0, len(theirs) + 1 - _MOST_OF_ONE)]:
            del self._notes[old]
        name = secrets.token_urlsafe(12)
        self._notes[name] = self._clock() + _SECONDS, whose, note
        if len(self._notes) > _MOST:
            self._notes.popitem(last=False)
        return name

    def take(self, whose: str, name: str | None) -> Note | None:
        """The note, once; None if there is none, or it is somebody else's."""
        found = self._notes.get(name) if name else None
        if found is None or name is None or found[1] != whose:
            return None
        del self._notes[name]
        return found[2] if self._clock() < found[0] else None
