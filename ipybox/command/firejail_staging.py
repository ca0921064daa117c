"""Lets root run firejail as somebody else, who still sees root's files. Linux only. Floor: command.

Without capabilities, the machine's uid 0 still owns ``/etc/shadow`` and every directory that firejail works in, and
has no limit of processes. So between root and firejail runs a program that

* takes a mount namespace of its own, in which ``/etc/passwd`` has one more account, as firejail wants one,
* shows what the command may touch as that account's (*idmapped* mounts, see :mod:`ipybox.sandbox.staging`), at its own
  place, also in a home that nobody else may enter,
* becomes that account, and executes firejail, which is set-uid root and goes on as for any plain user.

Outside of that namespace nothing changes.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence

from ipybox.sandbox import confine, staging

ACCOUNT = "ipybox"
HOME = "/nonexistent"
"""Home of the account: none, as there is nothing to be hidden in it then."""


def main(arguments: Sequence[str]) -> None:
    """``JSON``: ``uid``, ``workspace``, ``paths`` (what the command may touch) and ``argv``; becomes ``argv``."""
    asked = json.loads(arguments[0])
    try:
        _prepare(asked["uid"], asked["workspace"], asked["paths"])
        os.execv(asked["argv"][0], asked["argv"])
    except OSError as error:
        sys.exit(f"root can't start firejail as another user: {error}")


def _prepare(uid: int, workspace: str, paths: Sequence[str]) -> None:
    staging.own_mount_namespace()
    trees = [(path, staging.idmapped(path, uid)[0]) for path in paths]
    _add_account(uid, workspace)
    for directory in sorted({closed for path in paths if (closed := _closed_directory(path)) is not None}):
        confine.mount("tmpfs", directory, "tmpfs", confine.MS_NOSUID | confine.MS_NODEV, "mode=755,size=1m")
    umask = os.umask(0o022)  # the account must get through to them
    for path, tree in trees:
        confine.attach(tree, path)
        os.close(tree)
    os.umask(umask)
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    os.chdir(workspace)


def _add_account(uid: int, workspace: str) -> None:
    with open("/etc/passwd", "rb") as file:
        accounts = file.read()
    # In a file system of its own, below what will be attached there. Firejail mounts something over the file in turn,
    # which takes one that has its name still.
    confine.mount("tmpfs", workspace, "tmpfs", confine.MS_NOSUID | confine.MS_NODEV, "mode=755")
    path = os.path.join(workspace, "passwd")
    with open(path, "wb") as file:
        file.write(accounts.rstrip(b"\n") + f"\n{ACCOUNT}:x:{uid}:{uid}::{HOME}:/bin/sh\n".encode())
    os.chmod(path, 0o644)
    confine.mount(path, "/etc/passwd", None, confine.MS_BIND)


def _closed_directory(path: str) -> str | None:
    """The uppermost directory above a path that not everybody may enter."""
    above = []
    while (path := os.path.dirname(path)) != "/":
        above.append(path)
    return next((each for each in reversed(above) if not os.stat(each).st_mode & 0o001), None)
