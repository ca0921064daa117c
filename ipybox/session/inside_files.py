"""File operations, as the agent in a sandbox does them. Floor: session.

They run behind the walls, with no more rights than the code there has: wherever a link leads, it leads no further than
that code could go itself.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

from ipybox.session.frames import BODY_LIMIT, value

WORKSPACE = "/workspace"
"""Where relative paths begin."""
MOST_ENTRIES = 50_000
"""Of one directory."""

Reply = tuple[dict[str, Any], bytes]


def answer(head: Mapping[str, Any], body: bytes) -> Reply:
    """Does what a request asks for. Raises ``OSError``, and :class:`FrameError` for what is no request."""
    operation = _OPERATIONS[value(head, "op", str)]
    path = os.path.join(WORKSPACE, value(head, "path", str))
    try:
        return operation(path, head, body)
    except ValueError as error:  # a NUL, say
        raise OSError(errno.EINVAL, str(error)) from None


def _read(path: str, head: Mapping[str, Any], body: bytes) -> Reply:
    # Without O_NONBLOCK a pipe that nobody writes to would stop the agent.
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    with open(fd, "rb") as file:
        mode = os.fstat(fd).st_mode
        if stat.S_ISDIR(mode):
            raise _error(errno.EISDIR)
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "not a regular file")
        data = file.read(BODY_LIMIT + 1) or b""
    if len(data) > BODY_LIMIT:
        raise OSError(errno.EFBIG, f"more than {BODY_LIMIT} bytes")
    return {}, data


def _write(path: str, head: Mapping[str, Any], body: bytes) -> Reply:
    target = os.path.realpath(path)
    if os.path.isdir(target) or path.endswith("/"):
        raise _error(errno.EISDIR)
    parent = os.path.dirname(target)
    os.makedirs(parent, exist_ok=True)
    fd, made = tempfile.mkstemp(prefix=".writing-", dir=parent)
    try:  # in its place when it is whole: a full disk leaves what was there
        with open(fd, "wb") as file:
            os.fchmod(fd, value(head, "mode", int) & 0o777)
            file.write(body)
        os.replace(made, target)
    except BaseException:
        os.unlink(made)
        raise
    return {}, b""


def _list(path: str, head: Mapping[str, Any], body: bytes) -> Reply:
    entries: list[dict[str, Any]] = []
    if ".." not in path:  # after which a link may lead elsewhere than the text says
        path = os.path.normpath(path)
    with os.scandir(path) as found:
        for entry in found:
            if len(entries) == MOST_ENTRIES:
                raise OSError(errno.EFBIG, f"more than {MOST_ENTRIES} entries")
            try:
                facts = entry.stat(follow_symlinks=False)
                is_dir = entry.is_dir()
            except OSError:
                continue  # gone since, or not ours to look at
            entries.append(
                {
                    "name": entry.name,
                    "path": os.path.join(path, entry.name),
                    "is_dir": is_dir,
                    "is_link": entry.is_symlink(),
                    "size": facts.st_size,
                    "mode": stat.S_IMODE(facts.st_mode),
                    "modified": facts.st_mtime,
                }
            )
    entries.sort(key=lambda entry: str(entry["name"]))
    return {"entries": entries}, b""


def _exists(path: str, head: Mapping[str, Any], body: bytes) -> Reply:
    return {"exists": os.path.exists(path)}, b""


def _remove(path: str, head: Mapping[str, Any], body: bytes) -> Reply:
    if stat.S_ISDIR(os.lstat(path).st_mode):
        shutil.rmtree(path)
    else:
        os.unlink(path)
    return {}, b""


def _mkdir(path: str, head: Mapping[str, Any], body: bytes) -> Reply:
    if value(head, "parents", bool):
        os.makedirs(path, exist_ok=True)
    else:
        os.mkdir(path)
    return {}, b""


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


_OPERATIONS: dict[str, Callable[[str, Mapping[str, Any], bytes], Reply]] = {
    "read": _read,
    "write": _write,
    "list": _list,
    "exists": _exists,
    "remove": _remove,
    "mkdir": _mkdir,
}
OPERATIONS = frozenset(_OPERATIONS)
"""What can be asked for."""
