"""Files that are written whole or not at all. Floor: testrun."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from ipybox.paths import random_name


def write_text_atomically(path: str | os.PathLike[str], text: str) -> None:
    """Writes a text file as UTF-8, such that nobody ever sees half of it; its directory is made.

    A file that is there is replaced and its permissions are kept; of a link, what it leads to is replaced. What is no
    regular file, such as ``/dev/stdout``, is written to as it is.

    Raises:
        OSError: That was not possible. What was there before is still there, and nothing else is left.
        UnicodeEncodeError: The text has a lone surrogate.
    """
    raw = text.encode("utf-8")
    try:
        there = os.stat(path)
    except FileNotFoundError:
        there = None
    if there is not None and not stat.S_ISREG(there.st_mode):
        with open(path, "wb") as stream:  # a directory is an error here
            stream.write(raw)
        return
    target = Path(path).resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(random_name(".tmp"))  # not the target's name and more, which could be too long
    try:
        with open(unfinished, "xb") as file:
            if there is not None:
                os.fchmod(file.fileno(), stat.S_IMODE(there.st_mode))
            file.write(raw)
        os.replace(unfinished, target)
    finally:
        unfinished.unlink(missing_ok=True)
