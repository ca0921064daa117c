"""JSON that is looked at in pieces and never made into objects, so that nobody waits for a large one. Floor: control.

``json.loads`` lets nobody else go on before it is done, and makes of some texts thirty times their size in objects.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator

_PIECE = 64 * 1024
"""Characters that are looked at before others have their turn."""
_STEPS = 500
_MEMBERS = 1000
_MOST_ODD = 100_000
_SHORTEST_REST = 1024
_WS = r"[ \t\n\r]*+"
_PART = r'(?:[^"\\\x00-\x1f]++|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*+'
_STRING = f'"{_PART}"'
# So short that no double is too small for it. Longer ones are looked at one by one.
_NUMBER = r"-?(?:0|[1-9][0-9]{0,199}+)(?:\.[0-9]{1,200}+)?+(?:[eE][-+]?[0-9]{1,2}+)?+"
_SCALAR = f"(?:{_STRING}|{_NUMBER}|true|false|null)"


# No alternative begins as another one does, and nothing is given back: no text can make it slow.
_FLAT = (
    rf"(?:{_SCALAR}|\[{_WS}(?:{_SCALAR}{_WS}(?:,{_WS}(?!\])|(?=\])))*+\]"
    rf"|\{{{_WS}(?:{_STRING}{_WS}:{_WS}{_SCALAR}{_WS}(?:,{_WS}(?!\}})|(?=\}})))*+\}})"
)
_items = re.compile(f"(?:{_FLAT}{_WS},{_WS})*+").match
_pairs = re.compile(f"(?:{_STRING}{_WS}:{_WS}{_FLAT}{_WS},{_WS})*+").match
_part = re.compile(_PART).match
_space = re.compile(_WS).match
_word = re.compile(
    r"(?:true|false|null|(?P<never>NaN|-?Infinity)"
    r"|-?(?:0|[1-9][0-9]{0,4299}+)(?P<inexact>(?:\.[0-9]{1,4300}+)?+(?:[eE][-+]?[0-9]{1,9}+)?+))(?![0-9.eE])"
).match
_whole = re.compile(
    r"(?:[^\\]++|\\[^u]|\\u(?![dD][89a-fA-F])...."
    r"|\\u[dD][89abAB]..\\u[dD][c-fC-F]..)*+",
    re.DOTALL,
).match
_LONGEST_WORD = 9000
_may_be_endless = re.compile("[0-9]{200}|[eE][-+]?[0-9]{3}|NaN|Infinity").search
_read: Callable[[str, int], tuple[object, int]] = json.JSONDecoder().scan_once  # type: ignore[attr-defined]


class JsonScanError(ValueError):
    """It is no JSON, or nothing that everybody could read."""


class JsonScan:
    """Iterating over it looks at a text, in pieces of a millisecond or so; at its end, the text is known to be JSON.

    Args:
        text: The text.
        deepest: Arrays and objects in each other that are taken.
        wants_members: Whether to note where values of the outermost object are.

    Raises:
        JsonScanError: While it is iterated over.
    """

    def __init__(self, text: str, *, deepest: int, wants_members: bool = False) -> None:
        self._text, self._deepest, self._wants_members = text, deepest, wants_members
        self._members: dict[str, slice] = {}
        self._odd: list[tuple[slice, str]] = []
        self._chunk, self._begin = "", 0
        self._rest, self._again = _SHORTEST_REST, 0

    @property
    def has_what_is_not_there(self) -> bool:
        """Whether it has numbers that are no finite ones, or halves of characters."""
        return bool(self._odd)

    @property
    def text(self) -> str:
        """The same on one line, with null for numbers that do not exist, and U+FFFD for characters that do not."""
        text, parts, done = self._text, [], 0
        for place, better in sorted(self._odd, key=lambda each: each[0].start):
            parts += [text[done : place.start], better]
            done = place.stop
        text = "".join((*parts, text[done:])) if parts else text
        return text.replace("\n", " ").replace("\r", " ")  # which are between tokens only

    @property
    def members(self) -> dict[str, slice]:
        """Names of the outermost object, as they are written, and where their values are in what was given."""
        return self._members

    def __iter__(self) -> Iterator[None]:
        yield from self._tokens()
        if "\\u" in self._text:
            yield from self._halves()

    def _tokens(self) -> Iterator[None]:
        text = self._text
        stack: list[str] = []
        name = slice(0)
        place = seen = begin = steps = 0
        wanted = "value"  # or value or ], name, name or }, :, rest of a string or name, or what follows a value
        while True:
            steps += 1
            if steps >= _STEPS or place - seen >= _PIECE:
                yield
                steps, seen = 0, place
            before = place
            if wanted in ("string", "name string"):
                place = _part(text, place, place + _PIECE).end()  # type: ignore[union-attr]
                if text[place : place + 1] == '"':
                    place += 1
                    if wanted == "name string" and len(stack) == 1:
                        name = slice(name.start, place)
                    wanted = "next" if wanted == "string" else ":"
                elif place == before:
                    raise self._wrong(place)
                continue
            place = _space(text, place, place + _PIECE).end()  # type: ignore[union-attr]
            if place - before == _PIECE:
                continue
            here = text[place : place + 1]
            if wanted in ("value", "value or ]"):
                if len(stack) == 1:
                    begin = place
                if stack and stack[-1] == "]":
                    start = place
                    place = _items(text, place, place + _PIECE).end()  # type: ignore[union-attr]
                    if place != start:
                        wanted = "value"
                        continue
                if here == '"':
                    place += 1
                    wanted = "string"
                elif self._may_skip(here, stack) and (end := self._end_of_short(place, self._deepest - len(stack))):
                    place = end
                    wanted = "next"
                elif here == "[":
                    self._enter(stack, "]")
                    place += 1
                    wanted = "value or ]"
                elif here == "{":
                    self._enter(stack, "}")
                    place += 1
                    wanted = "name or }"
                elif here == "]" and wanted == "value or ]":
                    stack.pop()
                    place += 1
                    wanted = "next"
                else:
                    place = self._one_word(place)
                    wanted = "next"
            elif wanted == "next":
                if self._wants_members and len(stack) == 1 and stack[0] == "}" and name.stop:
                    self._note(name, slice(begin, before))
                    name = slice(0)
                if not stack:
                    if place == len(text):
                        return
                    raise self._wrong(place)
                if here == ",":
                    wanted = "value" if stack[-1] == "]" else "name"
                elif here == stack[-1]:
                    stack.pop()
                else:
                    raise self._wrong(place)
                place += 1
            elif wanted in ("name", "name or }"):
                if not self._wants_members or len(stack) > 1:
                    start = place
                    place = _pairs(text, place, place + _PIECE).end()  # type: ignore[union-attr]
                    if place != start:
                        wanted = "name"
                        continue
                if here == '"':
                    name = slice(place, 0) if len(stack) == 1 else name
                    place += 1
                    wanted = "name string"
                elif here == "}" and wanted == "name or }":
                    stack.pop()
                    place += 1
                    wanted = "next"
                else:
                    raise self._wrong(place)
            elif here == ":":
                place += 1
                wanted = "value"
            else:
                raise self._wrong(place)

    def _enter(self, stack: list[str], end: str) -> None:
        if len(stack) >= self._deepest:
            raise JsonScanError(f"it is nested deeper than {self._deepest}")
        stack.append(end)

    def _may_skip(self, here: str, stack: list[str]) -> bool:
        return here in ("[", "{") and (bool(stack) or not self._wants_members)

    def _end_of_short(self, place: int, deepest: int) -> int:
        """Where an array or object ends, if that can be seen at once; else 0, and it is gone through."""
        if place < self._again:
            return 0
        for is_new in (False, True):
            if is_new or place - self._begin > len(self._chunk) // 2:
                self._chunk, self._begin = self._text[place : place + _PIECE], place
                is_new = True
            try:
                _, end = _read(self._chunk, place - self._begin)
            except (ValueError, StopIteration, RecursionError):
                if is_new:
                    break
                continue
            start = place - self._begin
            brackets = self._chunk.count("[", start, end) + self._chunk.count("{", start, end)
            if brackets > deepest or _may_be_endless(self._chunk, start, end):
                break
            self._rest = _SHORTEST_REST
            return self._begin + end
        self._again = place + self._rest  # what was read for nothing grows no faster than what is gone through
        self._rest = min(self._rest * 2, _PIECE)
        return 0

    def _one_word(self, place: int) -> int:
        found = _word(self._text, place, place + _LONGEST_WORD)
        if found is None:
            raise self._wrong(place)
        if found["never"] or (found["inexact"] and float(found[0]) in (float("inf"), -float("inf"))):
            self._replace(slice(*found.span()), "null")
        return found.end()

    def _replace(self, where: slice, better: str) -> None:
        if len(self._odd) >= _MOST_ODD:
            raise JsonScanError(f"more than {_MOST_ODD} of its numbers and characters do not exist")
        self._odd.append((where, better))

    def _note(self, name: slice, where: slice) -> None:
        if len(self._members) >= _MEMBERS:
            raise JsonScanError(f"it has more than {_MEMBERS} names")
        self._members[self._text[name]] = where

    def _halves(self) -> Iterator[None]:
        text, place, seen, steps = self._text, 0, 0, 0
        while place < len(text):
            place = _whole(text, place, place + _PIECE).end()  # type: ignore[union-attr]
            if place < len(text) and _whole(text, place, place + 12).end() == place:  # type: ignore[union-attr]
                self._replace(slice(place, place + 6), "\\ufffd")
                place += 6
            steps += 1
            if place - seen >= _PIECE or steps >= _STEPS:
                yield
                steps, seen = 0, place

    def _wrong(self, place: int) -> JsonScanError:
        return JsonScanError(f"it is no JSON at character {place}")
