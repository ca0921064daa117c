"""Responses by the code that they are for: which of them answers, which is next, which are left. Floor: testing."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ipybox.errors import UnexpectedExecutionError
from ipybox.testing.queues import Queues
from ipybox.testing.script import Response, checked_response, takes_code

Key = str | re.Pattern[str] | Callable[[str], bool]
"""What a response is for: exactly this code, code that a pattern matches from its beginning to its end, or code for
which a function returns True."""


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
        self._queues: Queues[Key, Response] = Queues("code", key_text)
        self._default = default if default is None else checked_response("default_response", default)
        for key, value in (responses or {}).items():
            self.add(key, value if isinstance(value, list | tuple) else [value])

    def add(self, key: Key, responses: Iterable[Response]) -> None:
        """Puts responses at the end of a key's queue: all of them, or none when one of them is refused."""
        name = key_text(checked_key(key))
        checked = [checked_response(f"response {n} for {name}", each) for n, each in enumerate(responses, 1)]
        self._queues.add(key, checked)

    def take(self, code: str) -> Response:
        """Uses the next response for code. Raises UnexpectedExecutionError when there is none."""
        key = self._key_for(code)
        response, reason = self._queues.take(key) if key is not None else (None, "")
        if response is not None:
            return response
        if self._default is None:
            raise UnexpectedExecutionError(code, self._queues.texts(), reason)
        return self._default

    @property
    def unused(self) -> dict[Key, int]:
        """See :attr:`Queues.unused`."""
        return self._queues.unused

    def unused_text(self) -> list[str]:
        """The same as lines to read."""
        return self._queues.unused_text()

    def _key_for(self, code: str) -> Key | None:
        if code in self._queues:
            return code
        return next((key for key in self._queues if not isinstance(key, str) and matches(key, code)), None)


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
