"""What an execution has said, as pieces to show: text, and pictures as data. Pure. Floor: control.

The script of the console does the same with what comes later. HTML that code shows is never shown as such.
"""

from __future__ import annotations

import base64
import re
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ipybox.control.records import ExecutionEvent

MOST = 1_000_000
"""Characters that a page shows at most; of more, the last ones."""
_PICTURES = ("image/png", "image/jpeg", "image/gif")
_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\^_])")
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


def pieces(events: Iterable[ExecutionEvent], most: int = MOST) -> list[Piece]:
    """What these events amount to, in order."""
    shown: deque[Piece] = deque()
    room, is_cut, clear_next = most, False, False
    for event in events:
        data = event.data
        if event.kind == "clear":
            if data.get("wait"):
                clear_next = True
            else:
                shown.clear()
            continue
        new = _piece(event.kind, data)
        if new is None:
            continue
        if clear_next:
            shown.clear()
            clear_next = False
        if data.get("update"):
            for place, old in enumerate(shown):
                if old.display_id is not None and old.display_id == new.display_id:
                    shown[place] = new
            continue
        last = shown[-1] if shown else None
        if last is not None and new.kind == last.kind and new.kind in ("stdout", "stderr"):
            last.text = _overwritten(last.text + new.text) if "\r" in new.text else last.text + new.text
        else:
            new.text = _overwritten(new.text)
            shown.append(new)
        room = most - sum(len(each.text) + len(each.source) for each in shown)
        while room < 0:
            room, is_cut = room + _cut(shown, -room), True
    if is_cut:
        shown.appendleft(Piece(kind="note", text="What came before is too long to be shown here."))
    return list(shown)


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
    """A line that was written over, as progress bars do, as it looks in the end."""
    if "\r" not in text:
        return text
    lines = text.replace("\r\n", "\n").split("\n")
    return "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in lines)


def _cut(shown: deque[Piece], by: int) -> int:
    """Takes something away at the beginning; returns how much."""
    first = shown[0]
    if first.source or len(first.text) <= by:
        shown.popleft()
        return len(first.text) + len(first.source)
    first.text = first.text[by:]
    return by
