"""What packages a directory has, and how new ones come into it. Floor: control.

Packages are what strangers wrote, so nothing of them is loaded, and no link is followed.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ipybox.sandbox.packages import site_directories

_MOST = 20_000
_HEAD = 64 * 1024
_EXCHANGE = 2
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Found:
    """A package that is there.

    Attributes:
        place: Where, relative to the prefix.
    """

    name: str
    version: str
    place: str


def normal(name: str) -> str:
    """The one form of a package's name."""
    return re.sub(r"[-_.]+", "-", name).lower()


def packages(prefix: Path) -> dict[str, Found]:
    """Packages below a prefix, by their names in normal form."""
    found: dict[str, Found] = {}
    root = _directory(prefix)
    if root is None:
        return found
    try:
        for site in site_directories(""):
            place = site.lstrip("/")
            fd = _below(root, place)
            if fd is not None:
                try:
                    for each in _in_site(fd, place):
                        found.setdefault(normal(each.name), each)
                finally:
                    os.close(fd)
    finally:
        os.close(root)
    return found


def exchange(fresh: Path, into: Path) -> None:
    """Has a directory hold what another one holds, name by name; that one holds afterwards what was there before.

    The directory itself stays the one that it is, as it is mounted in sandboxes.

    Raises:
        OSError: It can't be done; all is as it was before.
    """
    source, target = os.open(fresh, _FLAGS), os.open(into, _FLAGS)
    done: list[Callable[[], None]] = []
    try:
        for name in sorted({*os.listdir(source), *os.listdir(target)}):
            done.append(_swap(source, target, name))
    except OSError:
        for undo in reversed(done):
            with suppress(OSError):
                undo()
        raise
    finally:
        os.close(source)
        os.close(target)


_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def _swap(source: int, target: int, name: str) -> Callable[[], None]:
    """Has a name change places; returns what undoes that."""
    encoded = os.fsencode(name)
    if _libc.renameat2(source, encoded, target, encoded, _EXCHANGE) == 0:
        return lambda: _libc.renameat2(source, encoded, target, encoded, _EXCHANGE)
    number = ctypes.get_errno()
    if number == errno.ENOENT:  # one of them does not have it
        here, there = (source, target) if _has(source, name) else (target, source)
        os.rename(name, name, src_dir_fd=here, dst_dir_fd=there)
        return lambda: os.rename(name, name, src_dir_fd=there, dst_dir_fd=here)
    if number in (errno.EINVAL, errno.ENOSYS):  # a file system that can't do that at once
        aside = secrets.token_hex(16)
        os.rename(name, aside, src_dir_fd=target, dst_dir_fd=source)
        os.rename(name, name, src_dir_fd=source, dst_dir_fd=target)

        def undo() -> None:
            os.rename(name, name, src_dir_fd=target, dst_dir_fd=source)
            os.rename(aside, name, src_dir_fd=source, dst_dir_fd=target)

        return undo
    raise OSError(number, f"{name}: {os.strerror(number)}")


def _has(directory: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=directory, follow_symlinks=False)
    except OSError:
        return False
    return True


def _directory(path: Path) -> int | None:
    with suppress(OSError):
        return os.open(path, _FLAGS)
    return None


def _below(root: int, place: str) -> int | None:
    found = os.dup(root)
    for part in place.split("/"):
        try:
            inner = os.open(part, _FLAGS, dir_fd=found)
        except OSError:
            return None
        finally:
            os.close(found)
        found = inner
    return found


def _in_site(site: int, place: str) -> Iterator[Found]:
    with os.scandir(site) as entries:
        for number, entry in enumerate(entries):
            if number > _MOST:
                return
            if entry.name.endswith(".dist-info"):
                each = _read(site, entry.name, place)
                if each is not None:
                    yield each


def _read(site: int, name: str, place: str) -> Found | None:
    fd = _below(site, name)
    if fd is None:
        return None
    try:
        file = os.open("METADATA", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=fd)
    except OSError:
        return None
    finally:
        os.close(fd)
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            return None
        text = os.read(file, _HEAD).decode("utf-8", "replace")
    finally:
        os.close(file)
    facts: dict[str, str] = {}
    for line in text.splitlines():
        if not line:
            break
        key, _, rest = line.partition(":")
        facts.setdefault(key.strip().lower(), rest.strip()[:200])
    if facts.get("name") and facts.get("version"):
        return Found(facts["name"], facts["version"], place)
    return None
