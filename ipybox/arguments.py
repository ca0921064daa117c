"""Checks of arguments, made before anything starts; each error names the argument. Floor: base."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from typing import Any


def text(name: str, value: Any) -> str:
    """A text that is not empty."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, got {value!r}")
    if not value:
        raise ValueError(f"{name} must not be empty")
    return value


def flag(name: str, value: Any) -> bool:
    """True or False, and nothing that merely looks like it."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return value


def identifier(name: str, value: Any) -> str:
    """A name that can be part of a path without leading elsewhere."""
    checked = text(name, value)
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", checked):
        raise ValueError(f"{name} must consist of letters, digits, '_', '.' and '-', got {value!r}")
    return checked


def port(value: Any, lowest: int = 1) -> int:
    """A TCP port; ``lowest`` 0 allows the request for any free one."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"port must be an int, got {value!r}")
    if not lowest <= value <= 65535:
        raise ValueError(f"port must be from {lowest} to 65535, got {value}")
    return value


def seconds(name: str, value: Any) -> float:
    """A time of more than nothing."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number of seconds, got {value!r}")
    try:
        seconds = float(value)
    except OverflowError:
        seconds = math.inf
    if not 0 < seconds < math.inf:
        raise ValueError(f"{name} must be a finite number of more than 0 seconds, got {value}")
    return seconds


def position(name: str, value: Any) -> int:
    """A place in a sequence, counted from 0."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an int, got {value!r}")
    if value < 0:
        raise ValueError(f"{name} must not be negative, got {value}")
    return value


def count(name: str, value: Any, minimum: int) -> int:
    """How many of something."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an int, got {value!r}")
    if value < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {value}")
    return value


def size(name: str, value: Any, minimum: int) -> int:
    """A number of bytes."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an int (bytes), got {value!r}")
    if value < minimum:
        raise ValueError(f"{name} must be at least {minimum} bytes, got {value}")
    return value


def token(name: str, value: Any) -> str:
    """A secret that fits into a header."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str")
    if not value or not value.isascii() or any(c.isspace() or not c.isprintable() for c in value):
        raise ValueError(f"{name} must be printable ASCII text without spaces, and not empty")
    return value


def path(name: str, value: Any) -> str:
    """A path that the system can take."""
    if not isinstance(value, str | os.PathLike):
        raise TypeError(f"{name} must be a path, got {value!r}")
    checked = os.fspath(value)
    if not isinstance(checked, str):
        raise TypeError(f"{name} must be a path made of text, got {value!r}")
    if not checked or not _fits_c(checked):
        raise ValueError(f"{name} must be a path that the system can take, got {value!r}")
    return checked


def _fits_c(value: str) -> bool:
    try:
        return b"\0" not in os.fsencode(value)
    except UnicodeEncodeError:
        return False


def environment(name: str, env: Mapping[Any, Any] | None) -> dict[str, str]:
    """A copy of an environment in which everything is text that an environment can hold.

    Raises ``TypeError`` and ``ValueError`` that name the argument ``name``.
    """
    if env is not None and not isinstance(env, Mapping):
        raise TypeError(f"{name} must be a mapping of strings to strings, got {env!r}")
    checked: dict[str, str] = {}
    for key, value in (env or {}).items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise TypeError(f"{name} must map strings to strings, got {key!r}: {value!r}")
        if not key or "=" in key or not _fits_c(key + value):
            raise ValueError(f"{name} has a name or value that no environment can hold: {key!r}")
        checked[key] = value
    return checked
