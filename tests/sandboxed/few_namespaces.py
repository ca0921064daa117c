"""A machine that allows only so many user namespaces: ``python -m tests.sandboxed.few_namespaces KIND N COMMAND...``

``count N``: no more than N at a time. ``depth N``: no more than N, one in the other. Either holds for user namespaces
that this process makes for itself, and so for all below it and nobody else. Bubblewrap needs two for a wall.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from ipybox.sandbox import confine
from tests.plain_user import become_plain_user


def allow(count: int) -> None:
    """No more than so many at a time, from now on."""
    confine.new_namespaces(confine.NEW_USER)  # who makes one may set its limits
    Path("/proc/sys/user/max_user_namespaces").write_text(str(count))


def allow_depth(depth: int) -> None:
    """Goes so deep that only so many more fit below."""
    for _ in range(_depth_left() - depth):
        confine.new_namespaces(confine.NEW_USER)


def _depth_left() -> int:
    """How many fit below this one; a child finds out by trying."""
    child = os.fork()
    if child == 0:
        depth = 0
        try:
            while depth < 100:
                confine.new_namespaces(confine.NEW_USER)
                depth += 1
        finally:
            os._exit(depth)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(kind: str, number: int, command: list[str]) -> None:
    """Becomes a plain user with this limit, and then the command."""
    if os.geteuid() == 0:
        checkout = str(Path(__file__).resolve().parent.parent.parent)
        become_plain_user([checkout, *map(os.path.realpath, (sys.prefix, sys.base_prefix))])
    {"count": allow, "depth": allow_depth}[kind](number)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3:])
