"""What cells show besides text, on its way out of the interpreter. Floor: control.

Each thing that is shown waits until the agent has taken it, with all that was written before: so text and pictures stay
in order, whoever wrote the text, and who shows without end is held up.
"""

from __future__ import annotations

import base64
import json
import os
import threading
from collections.abc import Mapping
from typing import Any

from IPython.core.displayhook import DisplayHook
from IPython.core.displaypub import DisplayPublisher

from ipybox.control.inside import python_process
from ipybox.control.inside.interrupts import Interrupts
from ipybox.session.frames import frame

_DEEPEST = 200
"""Arrays and objects in each other; what is nested deeper nobody takes."""


class Shower:
    """Shows things, one after the other, from any thread.

    Args:
        fd: A socket to the agent, which answers each thing with a byte.
        limit: Bytes of the largest thing; what is larger, or nested too deep, is not shown, and that is said.
        interrupts: Must not hit in the middle.
    """

    def __init__(self, fd: int, limit: int, interrupts: Interrupts) -> None:
        self._fd, self._limit, self._interrupts = fd, limit, interrupts
        self._lock = threading.Lock()
        os.register_at_fork(after_in_child=self._close)

    def show(self, kind: str, data: Mapping[str, Any]) -> None:
        """Shows a thing; in a fork, which has nobody to show it to, nothing happens."""
        body = json.dumps(data, default=_plain).encode()
        with self._interrupts.ours(), self._lock:
            python_process.flush()
            if self._fd < 0:
                return
            fits = len(body) <= self._limit and not _is_too_deep(data)
            out = frame({"is": kind}, body) if fits else frame({"is": "truncated", "stream": "display"})
            while out:
                out = out[os.write(self._fd, out) :]
            os.read(self._fd, 1)

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        self._lock = threading.Lock()


def _is_too_deep(data: Any) -> bool:
    level = [data]
    for _ in range(_DEEPEST):
        containers = [each for each in level if isinstance(each, dict | list | tuple)]
        level = [inner for each in containers for inner in (each.values() if isinstance(each, dict) else each)]
    return any(isinstance(each, dict | list | tuple) for each in level)


def _plain(value: Any) -> str:
    if isinstance(value, bytes | bytearray | memoryview):
        return base64.b64encode(value).decode()
    return repr(value)


def bundle(
    data: Mapping[str, Any], metadata: Mapping[str, Any] | None, transient: Mapping[str, Any] | None, update: bool
) -> dict[str, Any]:
    """The data of an event."""
    display_id = (transient or {}).get("display_id")
    return {
        "data": {str(mime): value for mime, value in data.items()},
        "metadata": dict(metadata or {}),
        "display_id": None if display_id is None else str(display_id),
        "update": bool(update),
    }


class Publisher(DisplayPublisher):
    """``display()`` and ``clear_output()``."""

    def publish(
        self,
        data: Mapping[str, Any],
        metadata: Mapping[str, Any] | None = None,
        source: Any = None,
        *,
        transient: Mapping[str, Any] | None = None,
        update: bool = False,
        **kwargs: Any,
    ) -> None:
        """Shows a thing in all of its forms."""
        self.shell.shower.show("display", bundle(data, metadata, transient, update))

    def clear_output(self, wait: bool = False) -> None:
        """What was shown until now is not wanted any more."""
        self.shell.shower.show("clear", {"wait": bool(wait)})


class ResultHook(DisplayHook):
    """The value of a cell's last expression."""

    shell: Any

    def write_output_prompt(self) -> None:
        """There are no prompts."""

    def write_format_data(self, format_dict: Mapping[str, Any], md_dict: Mapping[str, Any] | None = None) -> None:
        """Shows it."""
        self.shell.shower.show("result", bundle(format_dict, md_dict, None, False))

    def finish_displayhook(self) -> None:
        """There is nothing to be written after it."""
