"""``python settable_clock.py FILE PYTHON -c CODE ARGUMENTS...``: CODE, and a wall clock that is off by FILE's seconds.

The clock of a machine can't be set for one process, so this moves the one that a server looks at.
"""

from __future__ import annotations

import sys
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from typing import Self

from ipybox.control.service import ids


class _Clock(datetime):
    """Times as they would be, had the wall clock been set."""

    offset: Path

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Self:
        seconds = float(cls.offset.read_text(encoding="ascii") or 0)
        return super().now(tz) + timedelta(seconds=seconds)


def main() -> None:
    """Does as the command says."""
    offset, _, _, code, *arguments = sys.argv[1:]
    _Clock.offset = Path(offset)
    ids.datetime = _Clock  # type: ignore[attr-defined]
    sys.argv = ["-c", *arguments]
    exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})


if __name__ == "__main__":
    main()
