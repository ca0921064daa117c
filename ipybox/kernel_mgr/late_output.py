"""Text that arrives when its execution is over. Floor: kernel_mgr."""

from __future__ import annotations

from collections import OrderedDict, deque

_CHARACTERS = 4 * 1024 * 1024


_EXECUTIONS = 10_000


class LateOutput:
    """Keeps the newest late text of the executions that it was told to expect."""

    def __init__(self) -> None:
        self._expected: OrderedDict[str, None] = OrderedDict()
        self._texts: deque[tuple[str, str]] = deque()
        self._size = 0

    def expect(self, execution_id: str) -> None:
        """Text of this execution is wanted when it is over."""
        self._expected[execution_id] = None
        while len(self._expected) > _EXECUTIONS:
            self._expected.popitem(last=False)

    def __contains__(self, execution_id: str) -> bool:
        return execution_id in self._expected

    def add(self, execution_id: str, text: str) -> None:
        """Keeps text of an execution that is over."""
        self._texts.append((execution_id, text))
        self._size += len(text)
        while self._size > _CHARACTERS and len(self._texts) > 1:
            self._size -= len(self._texts.popleft()[1])

    def text(self, execution_id: str | None = None) -> str:
        """What is kept, of one execution or of all."""
        return "".join(text for owner, text in self._texts if execution_id in (None, owner))
