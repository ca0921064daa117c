"""The line on which an execution says what it returned, which is not its stdout. Floor: control.

A pair of sockets, made behind the walls: unlike a pipe it can't be opened by name in ``/proc``, so nothing that an
execution starts reaches it.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from typing import Any

from ipybox.session.frames import frame

_NAME, _VALUE, _TRACEBACK = 200, 10_000, 20_000
"""Characters that are kept of an error."""


def pair() -> tuple[int, int]:
    """Both ends; what is executed inherits neither."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    return ours.detach(), theirs.detach()


class ResultLine:
    """The end of an execution, as long as it is the process that it was when it began.

    Args:
        fd: The socket.
        limit: Bytes of the largest return value.
    """

    def __init__(self, fd: int, limit: int) -> None:
        self._fd, self._limit = fd, limit
        self._identity = _identity(fd)
        os.register_at_fork(after_in_child=self._close)

    def returned(self, value: Any) -> str | None:
        """Says what was returned; or returns why that can't be said, and says that."""
        try:
            text = as_json(value)
            problem = None
        except (TypeError, ValueError, RecursionError, OverflowError) as error:
            problem = f"handler returned what is no JSON ({type(value).__name__}): {error}"[:1000]
        else:
            if len(text) > self._limit:
                problem = f"handler returned {len(text)} bytes of JSON, and {self._limit} can be passed on"
        if problem is not None:
            self._say({"is": "bad", "message": problem})
        elif not self._say({"is": "value"}, text):
            problem = "the code has closed the line on which its return value is passed on"
        return problem

    def raised(self, name: str, value: str, traceback: list[str]) -> None:
        """Says what was raised."""
        self._say({"is": "error"}, json.dumps(error(name, value, traceback)).encode())

    def _say(self, head: Mapping[str, Any], body: bytes = b"") -> bool:
        data = frame(head, body)
        try:
            while data:
                if _identity(self._fd) != self._identity:
                    return False
                data = data[os.write(self._fd, data) :]
        except OSError:
            return False
        return True

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def error(name: str, value: str, traceback: list[str]) -> dict[str, Any]:
    """An error as an event has it, of a size that can be taken."""
    lines: list[str] = []
    left = _TRACEBACK
    for line in reversed(traceback):  # the last ones say most
        left -= len(line) + 1
        if left < 0:
            lines.append("...")
            break
        lines.append(line)
    return {"name": name[:_NAME], "value": value[:_VALUE], "traceback": lines[::-1]}


def _identity(fd: int) -> tuple[int, int] | None:
    try:
        status = os.fstat(fd)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def as_json(value: Any) -> bytes:
    """JSON, with null for the numbers that it does not have. Raises what ``json.dumps`` does."""
    try:
        return json.dumps(value, allow_nan=False).encode()
    except ValueError:
        return json.dumps(json.loads(json.dumps(value), parse_constant=lambda name: None)).encode()
