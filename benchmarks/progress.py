"""What happens right now, on stderr: one line that changes on a terminal, else a line for each step."""

from __future__ import annotations

import sys


def say(text: str) -> None:
    """Shows the current step; an empty text ends it."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{text}")
    elif text:
        sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
