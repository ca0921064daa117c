"""What a caller asks for: checked once, before anything starts. Floor: command."""

from __future__ import annotations

import os
from collections.abc import AsyncIterable, Awaitable, Callable, Sequence
from typing import Any, Literal

StreamName = Literal["out", "err"]
Stdin = str | bytes | AsyncIterable[bytes] | None
OnOutput = Callable[[StreamName, str], Awaitable[None] | None]
OnBytes = Callable[[StreamName, bytes], Awaitable[None] | None]


def checked_argv(argv: Sequence[str | os.PathLike[str]]) -> tuple[str, ...]:
    """A command and its arguments as text that the system can take.

    Raises:
        TypeError: It is a single text, which nothing here takes apart, or holds something that is no text or path.
        ValueError: It is empty, or holds a NUL character.
    """
    if isinstance(argv, str | bytes | os.PathLike) or not isinstance(argv, Sequence):
        raise TypeError(f"argv must be a list of str, got {argv!r}; for a shell's line write ['sh', '-c', line]")
    checked = []
    for index, each in enumerate(argv):
        text: Any = os.fspath(each) if isinstance(each, os.PathLike) else each
        if not isinstance(text, str):
            raise TypeError(f"argv[{index}] must be a str, got {each!r}")
        try:
            if b"\0" in os.fsencode(text):
                raise ValueError(f"argv[{index}] has a NUL character, got {each!r}")
        except UnicodeEncodeError:
            raise ValueError(f"argv[{index}] is no text that the system can take, got {each!r}") from None
        checked.append(text)
    if not checked or not checked[0]:
        raise ValueError(f"argv must name a command, got {argv!r}")
    return tuple(checked)


def checked_stdin(stdin: Stdin) -> bytes | AsyncIterable[bytes]:
    """Bytes to write; text becomes UTF-8.

    Raises:
        TypeError: It is neither text nor bytes nor an asynchronous iterable of bytes.
        ValueError: It is text that has no form in UTF-8.
    """
    if stdin is None:
        return b""
    if isinstance(stdin, str):
        try:
            return stdin.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError as error:
            raise ValueError(f"stdin is no text that UTF-8 can hold: {error.reason} at {error.start}") from None
    if isinstance(stdin, bytes | bytearray | memoryview):
        return bytes(stdin)
    if isinstance(stdin, AsyncIterable):
        return stdin
    raise TypeError(f"stdin must be a str, bytes or an asynchronous iterable of bytes, got {stdin!r}")


def checked_chunk(chunk: object) -> bytes:
    """A part of what an asynchronous iterable gives. Raises ``TypeError``."""
    if not isinstance(chunk, bytes | bytearray | memoryview):
        raise TypeError(f"stdin must give bytes, got {chunk!r}")
    return bytes(chunk)
