"""Text that arrives when its execution is over. Floor: kernel_mgr."""

from __future__ import annotations

from collections import deque

_CHARACTERS = 4 * 1024 * 1024


class LateOutput:
    """Keeps the newest late text, by execution."""

    def __init__(self) -> None:
        self._texts: deque[tuple[str, str]] = deque()
        self._size = 0

    def add(self, execution_id: str, text: str) -> None:
        """Keeps text of an execution that is over."""
        self._texts.append((execution_id, text))
        self._size += len(text)
        while self._size > _CHARACTERS and len(self._texts) > 1:
            self._size -= len(self._texts.popleft()[1])

    def text(self, execution_id: str | None = None) -> str:
        """What is kept, of one execution or of all."""
        return "".join(text for owner, text in self._texts if execution_id in (None, owner))
