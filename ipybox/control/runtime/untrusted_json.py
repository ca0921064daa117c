"""JSON that sandboxed code wrote, made into something that any reader can take. Floor: control."""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Generator
from itertools import accumulate, count
from typing import Any

from ipybox.control.json_scan import JsonScan, JsonScanError
from ipybox.control.json_text import LARGE, JsonText

DEEPEST = 200
"""Arrays and objects in each other."""
# It never goes back, so no text can make it slow: without that, a string that does not end is looked at once for each
# quotation mark in it, and one that does takes a hundred times its size in memory.
_NO_BRACKETS = re.compile(rb'(?:[^"\[\]{}]++|"(?:[^"\\]++|\\.)*+(?:"|\Z|\\))++', re.DOTALL)
_STEPS = bytes.maketrans(b"[{]}", b"\2\2\0\0")


class UntrustedJsonError(ValueError):
    """It is no JSON, or nothing that everybody could read."""


def read(text: bytes) -> Any:
    """What the text says, with U+FFFD for characters that do not exist, and null for numbers that do not.

    Raises:
        UntrustedJsonError: It is no JSON, or is nested too deep, or has a number that is too long.
    """
    if _depth(text) > DEEPEST:
        raise UntrustedJsonError(f"it is nested deeper than {DEEPEST}")
    try:
        decoded = text.decode("utf-8", "replace")
        value = json.loads(decoded, parse_constant=lambda name: None, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise UntrustedJsonError(str(error)[:300]) from None
    return _encodable(value) if b"\\u" in text else value


def read_in_pieces(text: bytes) -> Generator[None, None, Any]:
    """As :func:`read`, in pieces of a millisecond or so; what is large stays text. Raises the same."""
    if len(text) <= LARGE:
        return read(text)
    better, _ = yield from _looked_at(text.decode("utf-8", "replace"), wants_members=False)
    return JsonText(better)


def members_in_pieces(text: bytes | str) -> Generator[None, None, dict[str, Any]]:
    """What an object has by its names, of which what is large, and no string, stays text.

    Raises:
        UntrustedJsonError: As :func:`read`; or it is no object, or has a thousand names.
    """
    text = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
    better, members = yield from _looked_at(text, wants_members=True)
    if not better.lstrip(" \t").startswith("{"):
        raise UntrustedJsonError("it is no object")
    found = {}
    for name, place in members.items():
        part = better[place]
        is_quick = len(part) <= LARGE or part.startswith('"')
        found[json.loads(name)] = json.loads(part) if is_quick else JsonText(part)
        yield
    return found


def _looked_at(text: str, *, wants_members: bool) -> Generator[None, None, tuple[str, dict[str, slice]]]:
    while True:
        scan = JsonScan(text, deepest=DEEPEST, wants_members=wants_members)
        try:
            yield from scan
        except JsonScanError as error:
            raise UntrustedJsonError(str(error)) from None
        better = scan.text
        if not wants_members or better == text:
            return better, scan.members
        text = better  # with its members elsewhere


def _depth(text: bytes) -> int:
    steps = _NO_BRACKETS.sub(b"", text).translate(_STEPS)  # 2 is a step down and 0 one up
    return max(map(operator.sub, accumulate(steps), count(1)), default=0)


def text_of(text: str) -> str:
    """Text that can be encoded."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _finite(text: str) -> float | None:
    number = float(text)
    return number if number - number == 0 else None


def _encodable(value: Any) -> Any:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return _replaced(value)
    return value


def _replaced(value: Any) -> Any:
    if isinstance(value, str):
        return text_of(value)
    if isinstance(value, list):
        return [_replaced(each) for each in value]
    if isinstance(value, dict):
        return {text_of(name): _replaced(each) for name, each in value.items()}
    return value
