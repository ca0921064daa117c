"""Names of files: as clients write them, as the disk has them, and as keys of objects. Pure functions. Floor: control.

A name on a Linux disk is any bytes, JSON is text, and keys of objects are best plain. All three say the same here, and
each can be turned back. *Inner* is how a path is kept in between: relative, ``os.fsdecode``'d.
"""

from __future__ import annotations

import hashlib
import os
import re
from mimetypes import MimeTypes

from ipybox.control.errors import WorkspaceFileError

CONTAINER_ROOT = "/workspace"
"""Where code finds its workspace."""
LONGEST_PATH = 4095
"""Bytes."""
LONGEST_NAME = 255
"""Bytes of one component."""
LONGEST_KEY = 800
"""Bytes of an object's key that is made of a path; object stores take 1,024 with all that stands before it."""

_LOOKS_ESCAPED = re.compile("%((?:25)*[89A-F][0-9A-F])")
_ESCAPED = re.compile("%(?:25((?:25)*[89A-F][0-9A-F])|([89A-F][0-9A-F]))")
_LONE = re.compile("[\udc80-\udcff]")
_PLAIN = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-/")

_TYPES = MimeTypes()  # the tables of Python only, not those of the machine
for _suffix, _type in {
    ".ipynb": "application/x-ipynb+json",
    ".jsonl": "application/jsonl",
    ".md": "text/markdown",
    ".parquet": "application/vnd.apache.parquet",
    ".toml": "application/toml",
    ".webp": "image/webp",
    ".yaml": "application/yaml",
    ".yml": "application/yaml",
}.items():
    _TYPES.add_type(_type, _suffix)
_COMPRESSED = {"gzip": "application/gzip", "bzip2": "application/x-bzip2", "xz": "application/x-xz"}


def inner(path: str) -> str:
    """A client's path as the disk has it.

    Raises:
        WorkspaceFileError: It is empty, absolute, too long, or has a part that is empty, ``.`` or ``..``.
    """
    try:
        raw = path.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise WorkspaceFileError(ascii(path), "it is no text") from None
    if not path:
        raise WorkspaceFileError(path, "it is empty")
    if path.startswith("/"):
        raise WorkspaceFileError(path, f"it must be relative to {CONTAINER_ROOT}")
    if "\0" in path:
        raise WorkspaceFileError(path, "there is a NUL in it")
    if "%" in path:
        unescaped = _ESCAPED.sub(_unescaped, path).encode("utf-8", "surrogateescape")
        # Only what was escaped here is taken for an escape: `%C3%A4` is a name like any other.
        if shown(os.fsdecode(unescaped)) == path:
            raw = unescaped
    if len(raw) > LONGEST_PATH:
        raise WorkspaceFileError(path[:100] + "…", f"it is longer than {LONGEST_PATH} bytes")
    for part in raw.split(b"/"):
        if part in (b"", b".", b".."):
            raise WorkspaceFileError(path, "no part of it may be empty, '.' or '..'")
        if len(part) > LONGEST_NAME:
            raise WorkspaceFileError(path, f"a part of it is longer than {LONGEST_NAME} bytes")
    return os.fsdecode(raw)


def shown(path: str) -> str:
    """An inner path as clients get it: text without lone surrogates, which :func:`inner` turns back.

    Bytes that are no UTF-8 become ``%FF``. What looks like that already gets its ``%`` escaped.
    """
    if path.isascii() and "%" not in path:
        return path
    text = os.fsencode(path).decode("utf-8", "surrogateescape")
    text = _LOOKS_ESCAPED.sub(r"%25\1", text)
    return _LONE.sub(lambda found: f"%{ord(found[0]) - 0xDC00:02X}", text)


def container_path(path: str) -> str:
    """Where code finds what lies at an inner path, as clients get it."""
    return f"{CONTAINER_ROOT}/{shown(path)}"


def object_key(path: str) -> str | None:
    """An inner path as part of a key: letters, digits, ``._-/``, and ``!FF`` for all else; None if that is too long."""
    raw = os.fsencode(path)
    key = "".join(chr(byte) if byte in _PLAIN else f"!{byte:02X}" for byte in raw)
    return key if len(key) <= LONGEST_KEY else None


def object_hash(path: str) -> str:
    """What stands for an inner path that is too long for a key."""
    return hashlib.sha256(os.fsencode(path)).hexdigest()


def path_of_key(key: str) -> str:
    """The inner path that :func:`object_key` made a key of. Raises ``ValueError`` for what it can't have made."""
    raw = bytearray()
    position = 0
    while position < len(key):
        if key[position] == "!":
            raw.append(int(key[position + 1 : position + 3], 16))
            position += 3
        else:
            raw.append(ord(key[position]))
            position += 1
    path = os.fsdecode(bytes(raw))
    if object_key(path) != key:
        raise ValueError(f"no key of a path: {key!r}")
    return path


def mime_type(path: str) -> str:
    """Guessed from the ending alone; the content is code's, so that it has no say."""
    name = path.rpartition("/")[2]
    root, dot, suffix = name.rpartition(".")
    if not dot or not root:
        return "application/octet-stream"
    kind, encoding = _TYPES.guess_type(f"x.{suffix}", strict=False)
    if encoding is not None:
        return _COMPRESSED.get(encoding, "application/octet-stream")
    return kind or "application/octet-stream"


def _unescaped(found: re.Match[str]) -> str:
    if found[1] is not None:
        return f"%{found[1]}"
    return chr(0xDC00 + int(found[2], 16))
