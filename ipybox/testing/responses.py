"""Canned responses: which of them answers a command, and which is next. Free of I/O. Floor: testing."""

from __future__ import annotations

import inspect
import re
import shlex
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

from ipybox.command.request import checked_argv
from ipybox.command.result import ExecResult
from ipybox.errors import UnexpectedCommandError
from ipybox.testing.queues import Queues

Argv = tuple[str, ...]

Key = str | Argv | re.Pattern[str] | Callable[[Argv], bool]
"""What a response is for: the arguments joined with single spaces, exactly these arguments, a pattern that matches all
of ``shlex.join(argv)``, or a function that is asked."""

Answer = ExecResult | BaseException | type[BaseException] | Callable[[Argv, bytes], "Response | Awaitable[Response]"]
"""What a response is made into: a result, what is raised, or a function of command and stdin that gives a response."""

Response = Answer | Mapping[str, Any] | str | bytes
"""What may be given as a response; a mapping is read by ``ExecResult.from_dict``, and text or bytes are stdout."""


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
        self._queues: Queues[Key, Answer] = Queues("command", key_text)
        self._stand_for: dict[str, Argv] = {}
        self._default = None if default is None else checked_response("default_response", default)
        for key, value in (responses or {}).items():
            self.add(key, value if isinstance(value, list | tuple) else [value])

    def add(self, key: Key, responses: Iterable[Response]) -> None:
        """Puts responses at the end of a key's queue: all of them, or none when one of them is refused."""
        checked = checked_key(key)
        name = key_text(checked)
        answers = [checked_response(f"response {n} for {name}", each) for n, each in enumerate(responses, 1)]
        self._queues.add(checked, answers)

    def take(self, argv: Argv, stdin: bytes) -> Answer:
        """Uses the next response for a command. What it reads makes no difference.

        Raises:
            UnexpectedCommandError: There is none, or a joined text stood for other arguments before.
        """
        key = self._key_for(argv)
        answer, reason = self._queues.take(key) if key is not None else (None, "")
        if answer is not None:
            return answer
        if self._default is None:
            raise UnexpectedCommandError(argv, self._queues.texts(), reason)
        return self._default

    @property
    def unused(self) -> dict[Key, int]:
        """See :attr:`Queues.unused`."""
        return self._queues.unused

    def unused_text(self) -> list[str]:
        """The same as lines to read."""
        return self._queues.unused_text()

    def _key_for(self, argv: Argv) -> Key | None:
        if argv in self._queues:
            return argv
        text = " ".join(argv)
        if text in self._queues:
            before = self._stand_for.setdefault(text, argv)
            if before != argv:
                raise UnexpectedCommandError(
                    argv,
                    self._queues.texts(),
                    f"the key {text!r} stood for {before!r} before, and this is {argv!r}",
                    "use these tuples as keys",
                )
            return text
        line = shlex.join(argv)
        for key in self._queues:
            if isinstance(key, re.Pattern):
                if key.fullmatch(line):
                    return key
            elif not isinstance(key, str | tuple) and key(argv):
                return key
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
