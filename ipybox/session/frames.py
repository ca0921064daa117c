"""What a sandbox and its owner say to each other: frames of JSON and bytes. Floor: session.

A frame is two lengths, a JSON object, and bytes that need no encoding, such as the content of a file. Either side may
be taken over by code that nobody reviewed, so whoever reads takes nothing for granted: lengths are bounded before
anything is kept, and what an object holds is asked for by name and type.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

HEAD_LIMIT = 24 * 1024 * 1024
"""Bytes of the largest JSON object."""
BODY_LIMIT = 64 * 1024 * 1024
"""Bytes of the largest body, and so of a file that is read or written at once."""
REQUESTS, REPLIES = 3, 4
"""Descriptors of an agent: a pipe that requests come from, and one that replies go to."""

_LENGTHS = struct.Struct("!II")
T = TypeVar("T")


class FrameError(Exception):
    """What was read is no frame, or does not hold what it must."""


def frame(head: Mapping[str, Any], body: bytes = b"") -> bytes:
    """A frame, as it travels."""
    text = json.dumps(head).encode()
    if len(text) > HEAD_LIMIT or len(body) > BODY_LIMIT:
        raise FrameError(f"{len(text)} and {len(body)} bytes are too many for a frame")
    return b"".join((_LENGTHS.pack(len(text), len(body)), text, body))


class Decoder:
    """Takes bytes as they come, and gives whole frames.

    Args:
        head_limit: Bytes of the largest JSON object.
        body_limit: Bytes of the largest body.
    """

    def __init__(self, head_limit: int = HEAD_LIMIT, body_limit: int = BODY_LIMIT) -> None:
        self._head_limit, self._body_limit = head_limit, body_limit
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[dict[str, Any], bytes]]:
        """The frames that are complete with this. Raises :class:`FrameError`."""
        self._buffer += data
        while len(self._buffer) >= _LENGTHS.size:
            head_size, body_size = _LENGTHS.unpack_from(self._buffer)
            if head_size > self._head_limit or body_size > self._body_limit:
                raise FrameError(f"a frame of {head_size} and {body_size} bytes is too large")
            end = _LENGTHS.size + head_size + body_size
            if len(self._buffer) < end:
                return
            text = bytes(self._buffer[_LENGTHS.size : _LENGTHS.size + head_size])
            body = bytes(self._buffer[_LENGTHS.size + head_size : end])
            del self._buffer[:end]
            yield _head(text), body


def _head(text: bytes) -> dict[str, Any]:
    try:
        head = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FrameError(f"no JSON: {error}") from None
    if not isinstance(head, dict):
        raise FrameError("no JSON object")
    return head


def value(head: Mapping[str, Any], name: str, kind: type[T]) -> T:
    """What an object holds under a name, if it is of that very type. Raises :class:`FrameError`."""
    found = head.get(name)
    if kind is float and type(found) is int:
        return kind(found)  # type: ignore[call-arg]
    if type(found) is not kind:
        raise FrameError(f"{name} is no {kind.__name__}")
    return found


def optional(head: Mapping[str, Any], name: str, kind: type[T]) -> T | None:
    """The same, where it may be missing."""
    return None if head.get(name) is None else value(head, name, kind)


def texts(head: Mapping[str, Any], name: str) -> dict[str, str]:
    """A mapping of texts, empty where it is missing. Raises :class:`FrameError`."""
    found = optional(head, name, dict) or {}
    if not all(isinstance(each, str) for pair in found.items() for each in pair):
        raise FrameError(f"{name} holds more than text")
    return found
