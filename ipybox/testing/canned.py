"""Responses by the code that they are for: which of them answers, which is next, which are left. Floor: testing."""

from __future__ import annotations

import inspect
import re
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ipybox.errors import UnexpectedExecutionError
from ipybox.testing.script import Response, checked_response, takes_code

Key = str | re.Pattern[str] | Callable[[str], bool]
"""What a response is for: exactly this code, code that a pattern matches from its beginning to its end, or code for
which a function returns True."""


@dataclass(slots=True)
class _Queue:
    """The responses of one key, in the order in which they are used."""

    waiting: deque[Response] = field(default_factory=deque)
    given: int = 0
    is_matched: bool = False


class CannedResponses:
    """Responses by key. The first key that matches decides, also when all its responses are used up.

    Exact code comes first, then patterns and functions in the order in which they were given.

    Args:
        responses: By key, one response or a list of them, used first in, first out.
        default: For code without a key and for keys whose responses are used up; it is never used up itself.

    Raises:
        TypeError, ValueError: Something is no key or no response; the text says which.
    """

    def __init__(self, responses: Mapping[Any, Any] | None = None, default: Response | None = None) -> None:
        if responses is not None and not isinstance(responses, Mapping):
            raise TypeError(f"responses must be a mapping of code to responses, got {responses!r}")
        self._queues: dict[Key, _Queue] = {}
        self._default = default if default is None else checked_response("default_response", default)
        for key, value in (responses or {}).items():
            self.add(key, value if isinstance(value, list | tuple) else [value])

    def add(self, key: Key, responses: Iterable[Response]) -> None:
        """Puts responses at the end of a key's queue: all of them, or none when one of them is refused."""
        name = key_text(checked_key(key))
        checked = [checked_response(f"response {n} for {name}", each) for n, each in enumerate(responses, 1)]
        queue = self._queues.setdefault(key, _Queue())
        queue.waiting.extend(checked)
        queue.given += len(checked)

    def take(self, code: str) -> Response:
        """Uses the next response for code. Raises UnexpectedExecutionError when there is none."""
        queue = self._queue_for(code)
        reason = ""
        if queue is not None:
            queue.is_matched = True
            if queue.waiting:
                return queue.waiting.popleft()
            reason = f"all {queue.given} responses for it are used up" if queue.given else "its list is empty"
        if self._default is None:
            raise UnexpectedExecutionError(code, [key_text(key) for key in self._queues], reason)
        return self._default

    @property
    def unused(self) -> dict[Key, int]:
        """How many responses each key has left; with 0 for keys without responses that no code matched."""
        return {key: len(queue.waiting) for key, queue in self._queues.items() if queue.waiting or not queue.is_matched}

    def unused_text(self) -> list[str]:
        """The same as lines to read."""
        lines = []
        for key, left in self.unused.items():
            queue = self._queues[key]
            never = "" if queue.is_matched else "; no code matched it"
            lines.append(f"{key_text(key)}: {left} of {queue.given} left{never}")
        return lines

    def _queue_for(self, code: str) -> _Queue | None:
        exact = self._queues.get(code)
        if exact is not None:
            return exact
        for key, queue in list(self._queues.items()):
            if not isinstance(key, str) and matches(key, code):
                return queue
        return None


def matches(key: Key, code: str) -> bool:
    """Whether a key is for code."""
    if isinstance(key, str):
        return key == code
    if isinstance(key, re.Pattern):
        return key.fullmatch(code) is not None
    return bool(key(code))


def checked_key(key: Any) -> Key:
    """A key that some code can match. Raises ``TypeError`` for anything else."""
    if isinstance(key, str):
        return key
    if isinstance(key, re.Pattern):
        if not isinstance(key.pattern, str):
            raise TypeError(f"the key {key!r} must be a pattern of text, not of bytes")
        return key
    if not callable(key) or isinstance(key, type) or key.__hash__ is None:
        raise TypeError(f"a key must be a str, a compiled pattern or a function of the code, got {key!r}")
    function: Callable[[str], bool] = key
    if inspect.iscoroutinefunction(key) or not takes_code(key):
        raise TypeError(f"the key {key_text(function)} must be a plain function of one argument, the code")
    return function


def key_text(key: Key) -> str:
    """A key as it is written in Python; a function by its name and line."""
    if isinstance(key, str | re.Pattern):
        return repr(key)
    code = getattr(key, "__code__", None)
    name = str(getattr(key, "__qualname__", None) or repr(key))
    return name if code is None else f"{name} (line {code.co_firstlineno})"
