"""Text of tests as text that can be shown: whatever they wrote, it can be written to a file and misleads nobody.

Floor: testrun.
"""

from __future__ import annotations

import re

# Control characters but tab and line ends; lone surrogates, which no encoding takes; what XML can't hold; and what
# changes the direction of text, so that it reads as something else than it is.
_CONTROLS = r"\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f"
_HIDDEN = re.compile(f"[{_CONTROLS}\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")
_LINE_ENDS = re.compile("\r\n|[\r\n\u2028\u2029]")
_CUT = " [...] "


def visible(text: str) -> str:
    """The text with each character that can't be shown as Python's escape of it, such as ``\\x1b`` or ``\\udcff``.

    Tabs and line ends stay.
    """
    return _HIDDEN.sub(_escape, text)


def visible_line(text: str) -> str:
    """Likewise, in one line: a line end becomes a space."""
    return visible(_LINE_ENDS.sub(" ", text).replace("\t", " "))


def shortened(text: str, size: int) -> str:
    """At most so many characters, at least 32: the beginning, and the end where the exception is."""
    if len(text) <= size:
        return text
    kept = size - len(_CUT)
    head = kept // 3
    return f"{text[:head]}{_CUT}{text[len(text) - (kept - head) :]}"


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
