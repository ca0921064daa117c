"""Which entry of a transcript answers a command. Free of I/O. Floor: testing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from ipybox.errors import UnexpectedCommandError
from ipybox.testing.responses import Argv, Key
from ipybox.testing.transcript import Entry, Transcript

_LONGEST_TEXT = 80


class Replay:
    """Answers commands from a transcript.

    Args:
        transcript: What was recorded.
        strict: Whether the same commands must come with the same input in the same order. Otherwise an entry is found
            by its arguments, and by its input where those with these arguments had different ones; the last one of
            these is used over and over.
    """

    def __init__(self, transcript: Transcript, *, strict: bool = True) -> None:
        self._entries, self._strict = transcript.entries, strict
        self._is_used = [False] * len(self._entries)

    def take(self, argv: Argv, stdin: bytes) -> Entry:
        """The entry for a command.

        Raises:
            UnexpectedCommandError: There is none, or it is not the next one.
        """
        place = self._next(argv, stdin) if self._strict else self._found(argv, stdin)
        self._is_used[place] = True
        return self._entries[place]

    @property
    def unused(self) -> dict[Key, int]:
        """How many entries were not replayed, by their arguments."""
        return dict(Counter(each.argv for each, used in zip(self._entries, self._is_used, strict=True) if not used))

    def unused_text(self) -> list[str]:
        """The same as lines to read."""
        return [f"{self._named(n)} was not replayed" for n, used in enumerate(self._is_used) if not used]

    def _next(self, argv: Argv, stdin: bytes) -> int:
        place = self._is_used.count(True)
        if place == len(self._entries):
            raise self._unexpected(argv, (), f"all {place} commands of the transcript are replayed")
        entry = self._entries[place]
        if entry.argv != argv:
            raise self._unexpected(argv, [entry], f"{self._named(place)} is next")
        if not entry.has_stdin(stdin):
            inputs = f"the input {_text(entry.stdin)}, not {_text(stdin)}"
            raise self._unexpected(argv, [entry], f"{self._named(place)} is next and had {inputs}")
        return place

    def _found(self, argv: Argv, stdin: bytes) -> int:
        places = [n for n, entry in enumerate(self._entries) if entry.argv == argv]
        if not places:
            raise self._unexpected(argv, self._entries, "the transcript does not have it")
        if len({self._entries[n].stdin for n in places}) > 1:
            fitting = [n for n in places if self._entries[n].has_stdin(stdin)]
            if not fitting:
                inputs = ", ".join(_text(self._entries[n].stdin) for n in places)
                reason = f"the transcript has it with the input {inputs}, not {_text(stdin)}"
                raise self._unexpected(argv, [self._entries[n] for n in places], reason)
            places = fitting
        return next((n for n in places if not self._is_used[n]), places[-1])

    def _named(self, place: int) -> str:
        command = " ".join(self._entries[place].argv)
        return f"command {place + 1} of {len(self._entries)} in the transcript, {command!r},"

    def _unexpected(self, argv: Argv, expected: Iterable[Entry], reason: str) -> UnexpectedCommandError:
        way_out = "record it again, or replay with strict=False" if self._strict else "record it again"
        return UnexpectedCommandError(argv, [repr(entry.argv) for entry in expected], reason, way_out)


def _text(stdin: bytes) -> str:
    """An input in an error: not all of it when it is long."""
    text = stdin.decode("utf-8", "backslashreplace")
    return repr(text) if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]!r}... ({len(stdin)} bytes)"
