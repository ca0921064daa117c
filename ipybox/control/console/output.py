"""What an execution has said, as pieces to show: text, and pictures as data. Pure. Floor: control.

The script of the console does the same with what comes later. HTML that code shows is never shown as such.
"""

from __future__ import annotations

import base64
import re
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ipybox.control.json_text import JsonText
from ipybox.control.json_text import plain as read
from ipybox.control.records import ExecutionEvent

MOST = 1_000_000
"""Characters that a page shows at most; of more, the last ones."""
PICTURE_SHARE = 8
"""So many characters of a picture count as one."""
_RUN = 16 * 1024
_MOST_PARTS = 50_000
"""Commas and brackets of something that is looked at to show it."""
_STREAMS = ("stdout", "stderr")
_PICTURES = ("image/png", "image/jpeg", "image/gif")
_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\^_])")
_LINE_END = re.compile("\r*\n")
_BASE64 = re.compile(r"[A-Za-z0-9+/=\s]+\Z")


@dataclass(slots=True, kw_only=True)
class Piece:
    """One thing to show.

    Attributes:
        kind: ``stdout``, ``stderr``, ``text``, ``error``, ``note`` or ``image``.
        text: The text; of an image, what stands in for it.
        source: URL of an image, with all of it.
        display_id: By which it may be replaced.
    """

    kind: str
    text: str = ""
    source: str = ""
    display_id: str | None = None

    @property
    def size(self) -> int:
        """How much of the room it takes: characters, of which a picture may have more."""
        return len(self.text) + len(self.source) // PICTURE_SHARE


class Shown:
    """What events amount to, as they are added in order; ``most`` characters of it at most."""

    def __init__(self, most: int = MOST) -> None:
        self._most, self._size = most, 0
        self._pieces: deque[Piece] = deque()
        self._is_cut = self._clear_next = False

    @property
    def pieces(self) -> list[Piece]:
        """All that is to be shown."""
        cut = [Piece(kind="note", text="What came before is too long to be shown here.")] if self._is_cut else []
        return [*cut, *(replace(each, text=each.text.removesuffix("\r")) for each in self._pieces)]

    def add(self, event: ExecutionEvent) -> None:
        """Takes the next event."""
        if isinstance(event.data, JsonText) and event.kind not in _STREAMS and _parts(event.data.text) > _MOST_PARTS:
            return self._append(Piece(kind="note", text="Something that is too large to be shown here."))
        data = read(event.data)
        if event.kind == "clear":
            if data.get("wait"):
                self._clear_next = True
            else:
                self._clear()
            return
        new = _piece(event.kind, data)
        if new is None:
            return
        if self._clear_next:
            self._clear()
        if data.get("update"):
            for place, old in enumerate(self._pieces):
                if old.display_id is not None and old.display_id == new.display_id:
                    self._size += new.size - old.size
                    self._pieces[place] = new
        else:
            self._append(new)
        while self._size > self._most:
            self._cut(self._size - self._most)

    def _append(self, new: Piece) -> None:
        last = self._pieces[-1] if self._pieces else None
        if last is not None and new.kind == "error" and last.text.rstrip().endswith(new.text.rstrip()):
            return  # it is in stderr as well
        if last is not None and new.kind == last.kind and new.kind in _STREAMS and len(last.text) < _RUN:
            self._size -= last.size
            last.text = _overwritten(last.text + new.text)
            self._size += last.size
            return
        new.text = _overwritten(new.text)
        self._pieces.append(new)
        self._size += new.size

    def _clear(self) -> None:
        self._pieces.clear()
        self._size, self._clear_next = 0, False

    def _cut(self, by: int) -> None:
        self._is_cut = True
        first = self._pieces[0]
        if first.source or len(first.text) <= by:
            self._size -= self._pieces.popleft().size
        else:
            first.text = first.text[by:]
            self._size -= by


def _parts(text: str) -> int:
    return text.count(",") + text.count("[") + text.count("{")


def plain(text: str) -> str:
    """Text without the escapes that colour it in a terminal."""
    return _ANSI.sub("", text)


def _piece(kind: str, data: Mapping[str, Any]) -> Piece | None:
    if kind in ("stdout", "stderr"):
        return Piece(kind=kind, text=plain(str(data.get("text", ""))))
    if kind == "error":
        lines = data.get("traceback") or [f"{data.get('name', '')}: {data.get('value', '')}"]
        return Piece(kind="error", text=plain("\n".join(str(line) for line in lines)))
    if kind == "truncated":
        return Piece(kind="note", text=f"There was more {data.get('stream', 'output')} than is kept.")
    if kind in ("display", "result"):
        found = _shown(data.get("data") or {})
        display_id = data.get("display_id")
        found.display_id = None if display_id is None else str(display_id)
        return found
    return None


def _shown(bundle: Mapping[str, Any]) -> Piece:
    text = bundle.get("text/plain")
    words = plain(text) if isinstance(text, str) else ""
    for name in _PICTURES:
        content = bundle.get(name)
        if isinstance(content, str) and _BASE64.match(content):
            return Piece(kind="image", text=words, source=f"data:{name};base64,{''.join(content.split())}")
    drawing = bundle.get("image/svg+xml")
    if isinstance(drawing, str):
        encoded = base64.b64encode(drawing.encode("utf-8", "replace")).decode()
        return Piece(kind="image", text=words, source=f"data:image/svg+xml;base64,{encoded}")
    if words:
        return Piece(kind="text", text=words)
    return Piece(kind="note", text=f"Something of the type {', '.join(sorted(bundle)) or 'unknown'}, not shown here.")


def _overwritten(text: str) -> str:
    """A line that was written over, as progress bars do, as it looks in the end.

    A ``\\r`` at the end of what has come so far stays: what follows says what it means.
    """
    if "\r" not in text:
        return text
    *lines, last = _LINE_END.split(text)
    kept = [line.rpartition("\r")[2] for line in (*lines, last.rstrip("\r"))]
    return "\n".join(kept) + ("\r" if last.endswith("\r") else "")
