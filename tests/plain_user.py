"""Runs a command as a plain user, when the tests run as root: ``python -m tests.plain_user COMMAND...``

Most users are not root, and a sandbox is a different thing for them. The checkout and the interpreter often lie in a
home that only root may enter, so the user gets a mount namespace in which just those two are seen as its own, and a
fresh home, and an account. Nothing outside of that namespace changes.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from ipybox.sandbox import confine, staging

USER = int(os.environ.get("IPYBOX_TESTS_UID", "54321"))
"""Two runs at once need one each, as the system counts processes and the like by user."""
NAME = f"plain{USER}"
_HOMES = "/mnt"


def become_plain_user(needed: list[str]) -> None:
    """Gives up root for good."""
    staging.own_mount_namespace()
    outermost = [path for path in needed if not any(path.startswith(f"{other}/") for other in needed)]
    trees = [(path, staging.idmapped(path, USER)) for path in dict.fromkeys(outermost)]
    closed = sorted({_closed_ancestor(Path(path)) for path in outermost} - {None}, key=str)
    for directory in closed:
        confine.mount("tmpfs", str(directory), "tmpfs", 0, "mode=755")
    for path, (tree, reason) in trees:
        if reason:
            sys.exit(f"{path} can't be shown to a plain user: {reason}")
        confine.attach(tree, path)
    home = _make_home()
    _add_account(home)
    os.setgroups([])
    os.setresgid(USER, USER, USER)
    os.setresuid(USER, USER, USER)
    os.environ.update(HOME=str(home), USER=NAME, LOGNAME=NAME, TMPDIR="/tmp")
    confine.dumpable()


def _make_home() -> Path:
    """A home that goes with the namespace."""
    confine.mount("tmpfs", _HOMES, "tmpfs", 0, "mode=755")
    home = Path(_HOMES, NAME)
    home.mkdir(0o700)
    os.chown(home, USER, USER)
    return home


def _add_account(home: Path) -> None:
    """Most users have one, and some programs run for those only."""
    for name, line in (("passwd", f"{NAME}:x:{USER}:{USER}::{home}:/bin/sh"), ("group", f"{NAME}:x:{USER}:")):
        known = Path("/etc", name)
        longer = Path(_HOMES, name)
        longer.write_text(f"{known.read_text(encoding='utf-8').rstrip()}\n{line}\n", encoding="utf-8")
        longer.chmod(0o644)
        confine.mount(str(longer), str(known), None, confine.MS_BIND)  # and it stays: some mount over it in turn


def _closed_ancestor(path: Path) -> Path | None:
    """The uppermost directory above a path that others may not enter."""
    for parent in reversed(path.parents):
        if not parent.stat().st_mode & 0o001:
            return parent
    return None


def main(command: list[str]) -> None:
    """Becomes the user, and then the command."""
    if os.geteuid() == 0:
        checkout = str(Path(__file__).resolve().parent.parent)
        become_plain_user([checkout, *map(os.path.realpath, (sys.prefix, sys.base_prefix))])
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
