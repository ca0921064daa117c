"""The private line on which a sandbox tells what became of its tests. Floor: testrun.

One message is a line of JSON behind an authentication code, in a frame::

    4 bytes length of what follows, big-endian | 16 bytes code | JSON object in ASCII

The code is BLAKE2b keyed with a secret of this one sandbox, over the message's number and the JSON. The test's own code
runs in the process that writes here, so whatever it writes to any descriptor is not taken for a result: it does not
have the key. :class:`Writer` leaves no way to it but through its own closures, and uses nothing that can be replaced by
assigning to a module: no method of ``json``, no name of ``os`` or ``builtins`` that is looked up when it writes.
"""

from __future__ import annotations

import builtins
import json
import os
from _blake2 import blake2b
from _json import encode_basestring_ascii
from collections.abc import Callable, Mapping
from math import isfinite
from typing import Any

globals()["__builtins__"] = dict(vars(builtins))  # whoever replaces one later does not change what is defined here

LONGEST = 4 * 1024 * 1024
"""Bytes of the longest frame."""
KEY_BYTES = 32
_CODE_BYTES = 16

Value = str | int | float | bool | None | list[str]
Write = Callable[[Mapping[str, Value]], None]


def writer(fd: int, key: bytes) -> Write:
    """What sends a message, from the process that calls this and from none that it forks.

    Args:
        fd: Where to; written to until all of a message is there.
        key: The sandbox's secret.

    Returns a function that raises ``OSError`` when nobody can be told any more, and ``TypeError`` for a value that is
    none of those that can be told: a subclass of ``str`` is told by its letters, whatever its methods say.
    """
    number = 0
    write, getpid, quote, digest = os.write, os.getpid, encode_basestring_ascii, blake2b
    size, kind, text, join, exact = len, type, str.encode, ",".join, str.__str__
    to_bytes, int_shown, float_shown, finite = int.to_bytes, int.__repr__, float.__repr__, isfinite
    me = getpid()

    def encoded(value: Value) -> str:
        if value is None:
            return "null"
        if value is True or value is False:
            return "true" if value else "false"
        if kind(value) is list:
            return "[" + join([quote(exact(each)) for each in value]) + "]"  # type: ignore[union-attr]
        if kind(value) is int:
            return int_shown(value)
        if kind(value) is float:
            return float_shown(value) if finite(value) else "0.0"  # type: ignore[arg-type]
        return quote(exact(value))  # of what a test made, only the letters

    def send(message: Mapping[str, Value]) -> None:
        nonlocal number
        if getpid() != me:
            return
        line = "{" + join([quote(name) + ":" + encoded(message[name]) for name in message]) + "}"
        data = text(line, "ascii")
        code = digest(to_bytes(number, 8, "big") + data, digest_size=_CODE_BYTES, key=key).digest()
        number += 1
        rest = to_bytes(size(data) + _CODE_BYTES, 4, "big") + code + data
        while rest:
            rest = rest[write(fd, rest) :]

    return send


class Reader:
    """Reads what a :func:`writer` sent, from bytes as they come. Does no I/O.

    Args:
        key: The secret that the writer has.
    """

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._number = 0
        self._pending = bytearray()
        self.is_broken = False
        """Whether something came that the writer did not send; nothing is read after that."""

    def feed(self, data: bytes) -> list[dict[str, Any]]:
        """Takes bytes; returns the messages that are complete with them, see also :attr:`is_broken`."""
        found: list[dict[str, Any]] = []
        if self.is_broken:
            return found
        self._pending += data
        while len(self._pending) >= 4:
            size = int.from_bytes(self._pending[:4], "big")
            if not _CODE_BYTES < size <= LONGEST:
                return self._break(found)
            if len(self._pending) < 4 + size:
                break
            code = bytes(self._pending[4 : 4 + _CODE_BYTES])
            text = bytes(self._pending[4 + _CODE_BYTES : 4 + size])
            del self._pending[: 4 + size]
            numbered = self._number.to_bytes(8, "big") + text
            if blake2b(numbered, digest_size=_CODE_BYTES, key=self._key).digest() != code:
                return self._break(found)
            self._number += 1
            try:
                found.append(dict(json.loads(text)))
            except (TypeError, ValueError):
                return self._break(found)
        return found

    def _break(self, found: list[dict[str, Any]]) -> list[dict[str, Any]]:
        self.is_broken = True
        self._pending.clear()
        return found
