"""Lets root run a sandbox as somebody else, who still sees root's files. Linux only. Floor: sandbox.

Sandboxed code must never be the machine's uid 0, which owns ``/etc/shadow`` whatever capabilities it lacks. But the
interpreter and the working directory of root often lie in a home that nobody else may enter, and what the code writes
should belong to whoever owns the directory. So a program between the supervisor and bubblewrap

* takes a mount namespace of its own,
* clones each of those directories as a mount in which their owner's id is shown as the sandbox's (an *idmapped* mount,
  Linux 5.12), and puts the clones where anybody may go,
* becomes the sandbox's user, and executes bubblewrap, which then needs no privilege.

Where the file system has no idmapped mounts, a plain clone takes its place, and :func:`main` refuses to go on unless
the sandbox's user can use it as it is.
"""

from __future__ import annotations

import ctypes
import json
import os
import stat
import struct
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from ipybox.errors import SandboxUnavailableError
from ipybox.sandbox import confine

PREFERRED_UID = 64201
"""Nobody's: below what systemd hands out, above what distributions do."""
_STAGE = "/tmp"
_SYS_MOUNT_SETATTR = 442
_MOUNT_ATTR_IDMAP = 0x00100000
_MOUNT_ATTR_RDONLY = 0x1
_AT_EMPTY_PATH = 0x1000
_AT_RECURSIVE = 0x8000

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Staging:
    """What to do before bubblewrap.

    Attributes:
        read: Paths that the sandbox's user must be able to read.
        write: Directories and files that it must be able to write.
        uid: Who it is; also the group.
        argv: Bubblewrap's command, in which sources are named as :func:`staged` names them.
        opened: Paths in what can be written, and the descriptors under which bubblewrap expects them. Sandboxed code
            of another gateway may be renaming things there right now, so they are opened one part after the other.
    """

    read: Sequence[str]
    write: Sequence[str]
    uid: int
    argv: Sequence[str]
    opened: Sequence[tuple[str, int]] = ()

    def to_json(self) -> str:
        """The form in which it travels."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Staging:
        """Reads what :meth:`to_json` wrote."""
        data = json.loads(text)
        data["opened"] = tuple((path, number) for path, number in data["opened"])
        return cls(**data)


def sandbox_uid(uid_map: str | None = None) -> int | None:
    """A user id that nobody has, and that exists in this user namespace.

    None when there is no other id here than 0, and that is a plain user outside (``unshare --map-root-user``, some
    rootless containers): then we are that user, and nobody more.

    Args:
        uid_map: Content of ``/proc/self/uid_map``; for tests.

    Raises:
        SandboxUnavailableError: There is no other id, and 0 may be the machine's root.
    """
    if uid_map is None:
        with open("/proc/self/uid_map", encoding="ascii") as file:
            uid_map = file.read()
    ranges = [tuple(int(number) for number in line.split()) for line in uid_map.splitlines()]
    if any(start <= PREFERRED_UID < start + count for start, _, count in ranges):
        return PREFERRED_UID
    start, outside, count = max(ranges, key=lambda entry: entry[2])
    if count > 2:
        return start + count - 2  # in a container with few ids; the last one is often `nobody`
    if len(ranges) == 1 and outside != 0:
        return None
    raise SandboxUnavailableError(
        "there is no user id besides root's in this user namespace that sandboxed code could have",
        ["run as a plain user", "give the container more user ids (subuid)"],
    )


def staged(roots: Sequence[str]) -> dict[str, str]:
    """Where each path is found once it was staged."""
    return {root: f"{_STAGE}/{number}" for number, root in enumerate(roots)}


def locate(path: str, places: Mapping[str, str]) -> str:
    """Where a path is found when roots were staged; its own place when no root holds it."""
    root = max(
        (root for root in places if path == root or path.startswith(root.rstrip("/") + "/")), key=len, default=""
    )
    return places[root] + path[len(root) :] if root else path


def prepare(staging: Staging) -> None:
    """Does it all, up to becoming the sandbox's user."""
    own_mount_namespace()
    roots = [*staging.read, *staging.write]
    trees = [(path, idmapped(path, staging.uid, read_only=path in staging.read)) for path in roots]
    for path, number in staging.opened:
        root = max((root for root in roots if path.startswith(f"{root}/")), key=len)
        tree = next(tree for name, (tree, _) in trees if name == root)
        found = _open_in(tree, path[len(root) + 1 :])
        os.dup2(found, number)
        os.close(found)
    confine.mount("tmpfs", _STAGE, "tmpfs", confine.MS_NOSUID | confine.MS_NODEV, "mode=755,size=1m")
    places = staged(roots)
    for path, (tree, _) in trees:
        confine.attach(tree, places[path])
        os.close(tree)
    os.setgroups([])
    os.setresgid(staging.uid, staging.uid, staging.uid)
    os.setresuid(staging.uid, staging.uid, staging.uid)
    for path, (_, reason) in trees:
        wanted = os.R_OK | os.W_OK if path in staging.write else os.R_OK
        if os.path.isdir(places[path]):
            wanted |= os.X_OK
        if not os.access(places[path], wanted):
            verb = "write" if path in staging.write else "read"
            why = reason or "its permissions"
            raise PermissionError(f"the sandbox's user (uid {staging.uid}) can't {verb} {path}: {why}")


def own_mount_namespace() -> None:
    """What is mounted from now on is seen by nobody else."""
    _check("unshare", _libc.unshare(confine.NEW_MOUNT))
    confine.mount("none", "/", None, confine.MS_REC | confine.MS_PRIVATE)


def _open_in(tree: int, path: str) -> int:
    """Opens a path below a directory for reference only; no part of it may be a link."""
    found = os.dup(tree)
    for part in path.split("/"):
        inner = os.open(part, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=found)
        os.close(found)
        found = inner
    if stat.S_ISLNK(os.stat(found).st_mode):
        os.close(found)
        raise OSError(f"{path} is a symbolic link now")
    return found


def idmapped(path: str, uid: int, *, read_only: bool = False) -> tuple[int, str]:
    """A detached clone of the mount at a path, in which its owner is shown as the sandbox's user, or why not."""
    tree = confine.clone(path)
    owner = os.stat(tree)
    namespace = _user_namespace(owner.st_uid, owner.st_gid, uid)
    try:
        flags = _AT_EMPTY_PATH | _AT_RECURSIVE
        if read_only:
            attributes = struct.pack("=QQQQ", _MOUNT_ATTR_RDONLY, 0, 0, 0)
            _check("read-only", _libc.syscall(_SYS_MOUNT_SETATTR, tree, b"", flags, attributes, len(attributes)))
        attributes = struct.pack("=QQQQ", _MOUNT_ATTR_IDMAP, 0, 0, namespace)
        result = _libc.syscall(_SYS_MOUNT_SETATTR, tree, b"", flags, attributes, len(attributes))
        return tree, "" if result == 0 else f"idmapped mounts: {os.strerror(ctypes.get_errno())}"
    finally:
        os.close(namespace)


def _user_namespace(uid: int, gid: int, shown_as: int) -> int:
    """A user namespace that only serves as a table: owner on disk to who is shown."""
    ready, go = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.close(go[1])
        os._exit(_hold_namespace(ready[1], go[0]))
    try:
        os.close(ready[1])
        os.close(go[0])
        if os.read(ready[0], 1) != b"+":
            raise OSError("can't make a user namespace for an idmapped mount")
        for kind, number in (("uid", uid), ("gid", gid)):
            with open(f"/proc/{child}/{kind}_map", "w", encoding="ascii") as file:
                file.write(f"{number} {shown_as} 1")
        return os.open(f"/proc/{child}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(ready[0])
        os.close(go[1])  # lets the child go
        os.waitpid(child, 0)


def _hold_namespace(ready: int, go: int) -> int:
    made = _libc.unshare(confine.NEW_USER) == 0
    os.write(ready, b"+" if made else b"-")
    os.read(go, 1)  # until the parent has what it wants and closes its end
    return 0


def _check(what: str, result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def main(arguments: Sequence[str]) -> None:
    """``FD``: reads a :class:`Staging` from it, prepares, and becomes bubblewrap."""
    with os.fdopen(int(arguments[0]), encoding="utf-8") as file:
        file.seek(0)
        staging = Staging.from_json(file.read())
    try:
        prepare(staging)
    except OSError as error:
        sys.exit(f"staging: {error}")
    try:
        os.execv(staging.argv[0], list(staging.argv))
    except OSError as error:
        sys.exit(f"staging: can't execute {staging.argv[0]}: {error.strerror}")
