"""JSON values that stay text, from where they are checked to where they are sent. Floor: control."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from typing import Any

LARGE = 64 * 1024
"""Characters from which on a value may stay text: it takes more time to read it than others should have to wait."""

_MARK = secrets.token_hex(16)
"""Stands for such a value, in this process and for a moment only, so that nobody can know it."""


class JsonText:
    """A value that is too large to be made into objects just to pass it on.

    Args:
        text: JSON without line breaks, that was looked at before.
    """

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, JsonText) and other.text == self.text

    def __hash__(self) -> int:
        return hash(self.text)

    def value(self) -> Any:
        """What it says."""
        return json.loads(self.text)


def plain(value: Any) -> Any:
    """The value, whether it is text or not."""
    return value.value() if isinstance(value, JsonText) else value


def dumped(value: Any, *, ascii: bool = False, other: Callable[[Any], Any] | None = None) -> str:
    """JSON of what may hold :class:`JsonText`, which is copied as it is.

    Args:
        ascii: Whether to write what else there is in ASCII.
        other: Makes JSON values of objects of other types.
    """
    if isinstance(value, JsonText):
        return value.text
    found: list[str] = []

    def on_object(each: Any) -> Any:
        if isinstance(each, JsonText):
            found.append(each.text)
            return _MARK
        if other is None:
            raise TypeError(f"{type(each).__name__} is no JSON")
        return other(each)

    text = json.dumps(value, ensure_ascii=ascii, separators=(",", ":"), default=on_object)
    if not found:
        return text
    first, *others = text.split(f'"{_MARK}"')
    return "".join((first, *(part for pair in zip(found, others, strict=True) for part in pair)))
