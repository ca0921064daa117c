"""Canned responses: which of them answers a command, and which is next. Free of I/O. Floor: testing."""

from __future__ import annotations

import inspect
import re
import shlex
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ipybox.command.request import checked_argv
from ipybox.command.result import ExecResult
from ipybox.errors import UnexpectedCommandError

Argv = tuple[str, ...]

Key = str | Argv | re.Pattern[str] | Callable[[Argv], bool]
"""What a response is for: the arguments joined with single spaces, exactly these arguments, a pattern that matches all
of ``shlex.join(argv)``, or a function that is asked."""

Answer = ExecResult | BaseException | type[BaseException] | Callable[[Argv, bytes], "Response | Awaitable[Response]"]
"""What a response is made into: a result, what is raised, or a function of command and stdin that gives a response."""

Response = Answer | Mapping[str, Any] | str | bytes
"""What may be given as a response; a mapping is read by ``ExecResult.from_dict``, and text or bytes are stdout."""


@dataclass(slots=True)
class _Queue:
    """The responses of one key, in the order in which they are used."""

    waiting: deque[Answer] = field(default_factory=deque)
    given: int = 0
    is_matched: bool = False
    stands_for: Argv | None = None


class Responses:
    """Responses by key. The first key that matches decides, also when all its responses are used up.

    Exact tuples come first, then joined texts, then patterns and functions in the order in which they were given.

    Args:
        responses: By key, one response or a list of them, used first in, first out.
        default: For commands without a key and for those whose responses are used up; it is never used up itself.

    Raises:
        TypeError, ValueError: Something is no key or no response; the text says which.
    """

    def __init__(self, responses: Mapping[Any, Any] | None = None, default: Response | None = None) -> None:
        if responses is not None and not isinstance(responses, Mapping):
            raise TypeError(f"responses must be a mapping of commands to responses, got {responses!r}")
        self._queues: dict[Key, _Queue] = {}
        self._default = None if default is None else checked_response("default_response", default)
        for key, value in (responses or {}).items():
            self.add(key, value if isinstance(value, list | tuple) else [value])

    def add(self, key: Key, responses: Iterable[Response]) -> None:
        """Puts responses at the end of a key's queue: all of them, or none when one of them is refused."""
        checked = checked_key(key)
        name = key_text(checked)
        answers = [checked_response(f"response {n} for {name}", each) for n, each in enumerate(responses, 1)]
        queue = self._queues.setdefault(checked, _Queue())
        queue.waiting.extend(answers)
        queue.given += len(answers)

    def take(self, argv: Argv, stdin: bytes) -> Answer:
        """Uses the next response for a command. What it reads makes no difference.

        Raises:
            UnexpectedCommandError: There is none, or a joined text stood for other arguments before.
        """
        queue = self._queue_for(argv)
        reason = ""
        if queue is not None:
            queue.is_matched = True
            try:
                return queue.waiting.popleft()
            except IndexError:
                reason = _used_up(queue.given)
        if self._default is None:
            raise UnexpectedCommandError(argv, [key_text(key) for key in self._queues], reason)
        return self._default

    @property
    def unused(self) -> dict[Key, int]:
        """How many responses each key has left; with 0 for keys without responses that no command matched."""
        return {key: len(queue.waiting) for key, queue in self._queues.items() if queue.waiting or not queue.is_matched}

    def unused_text(self) -> list[str]:
        """The same as lines to read."""
        lines = []
        for key, left in self.unused.items():
            queue = self._queues[key]
            never = "" if queue.is_matched else "; no command matched it"
            lines.append(f"{key_text(key)}: {left} of {queue.given} left{never}")
        return lines

    def _queue_for(self, argv: Argv) -> _Queue | None:
        queue = self._queues.get(argv)
        if queue is not None:
            return queue
        text = " ".join(argv)
        queue = self._queues.get(text)
        if queue is not None:
            queue.stands_for = queue.stands_for or argv
            if queue.stands_for != argv:
                raise UnexpectedCommandError(
                    argv,
                    [key_text(key) for key in self._queues],
                    f"the key {text!r} stood for {queue.stands_for!r} before, and this is {argv!r}",
                    "use these tuples as keys",
                )
            return queue
        line = shlex.join(argv)
        for key, queue in list(self._queues.items()):
            if isinstance(key, re.Pattern):
                if key.fullmatch(line):
                    return queue
            elif not isinstance(key, str | tuple) and key(argv):
                return queue
        return None


def checked_key(key: Any) -> Key:
    """A key that some command can match.

    Raises:
        TypeError, ValueError: It is none; the text says why.
    """
    if isinstance(key, str):
        if not key:
            raise ValueError("the key '' matches no command, as each has a name")
        return key
    if isinstance(key, tuple):
        try:
            return checked_argv(key)
        except (TypeError, ValueError) as error:
            raise type(error)(f"the key {key!r} matches no command: {error}") from None
    if isinstance(key, re.Pattern):
        if not isinstance(key.pattern, str):
            raise TypeError(f"the key {key!r} must be a pattern of text, not of bytes")
        return key
    if not callable(key) or isinstance(key, type) or getattr(key, "__hash__", None) is None:
        instead = f"; for exactly these arguments write {tuple(key)!r}" if isinstance(key, list) else ""
        raise TypeError(f"a key must be a str, a tuple of str, a compiled pattern or a function, got {key!r}{instead}")
    function: Callable[[Argv], bool] = key
    if inspect.iscoroutinefunction(key) or not _takes(function, 1):
        raise TypeError(f"the key {key_text(function)} must be a plain function of one argument, the tuple argv")
    return function


def checked_response(name: str, value: Any) -> Answer:
    """What a response is made into.

    Raises:
        TypeError, ValueError: It makes no sense; the text begins with ``name``.
    """
    if isinstance(value, ExecResult | BaseException):
        return value
    if isinstance(value, str | bytes):
        return ExecResult(stdout=value)  # type: ignore[arg-type]  # bytes become text there
    if isinstance(value, Mapping):
        try:
            return ExecResult.from_dict(value)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{name}: {error}") from None
    if isinstance(value, type) and issubclass(value, BaseException):
        try:
            value()
        except Exception as error:
            raise TypeError(f"{name}: {value.__name__} needs arguments, so give an instance: {error}") from None
        return value
    if callable(value) and not isinstance(value, type):
        if not _takes(value, 2):
            raise TypeError(f"{name} must be a function of two arguments, argv and stdin, got {value!r}")
        function: Callable[[Argv, bytes], Response | Awaitable[Response]] = value
        return function
    several = "; give several one by one" if isinstance(value, list | tuple) else ""
    raise TypeError(
        f"{name} must be an ExecResult, a mapping, str, bytes, an exception or a function, got {value!r}{several}"
    )


def key_text(key: Key) -> str:
    """A key as it is written in Python; a function by its name and line."""
    if isinstance(key, str | tuple | re.Pattern):
        return repr(key)
    code = getattr(key, "__code__", None)
    name = str(getattr(key, "__qualname__", None) or repr(key))
    return name if code is None else f"{name} (line {code.co_firstlineno})"


def _used_up(count: int) -> str:
    if count == 1:
        return "its only response is used up"
    return f"all {count} responses for it are used up" if count else "its list of responses is empty"


def _takes(function: Callable[..., object], count: int) -> bool:
    """Whether a function can be called with so many arguments; True where nobody can tell."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return True
    try:
        signature.bind(*range(count))
    except TypeError:
        return False
    return True
