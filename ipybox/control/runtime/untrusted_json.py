"""JSON that sandboxed code wrote, made into something that any reader can take. Floor: control."""

from __future__ import annotations

import json
import operator
import re
from itertools import accumulate, count
from typing import Any

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
