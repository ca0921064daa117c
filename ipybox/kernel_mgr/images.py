"""Saves the images that code shows. Floor: kernel_mgr."""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ipybox.errors import ImageWriteError
from ipybox.paths import PinnedDirectory, random_name

_SUFFIXES = {"image/png": ".png", "image/jpeg": ".jpg", "image/svg+xml": ".svg"}


class ImageWriter:
    """Writes images into a directory that kernel code may write to as well; never follows a link.

    Args:
        directory: Pinned and, when needed, made by :meth:`open`.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = PinnedDirectory(directory)

    async def save(self, data: Mapping[str, Any]) -> Path | None:
        """Saves the image of a mime bundle, the first of png, jpeg and svg that it has; None when it has none.

        Raises :class:`ImageWriteError`.
        """
        for mime, suffix in _SUFFIXES.items():
            if mime in data:
                content = decode(mime, data[mime])
                name = random_name(suffix)
                path = self.directory.path / name
                if content is None:
                    raise ImageWriteError(str(path), f"the kernel sent no valid {mime}")
                try:
                    return await asyncio.to_thread(self.directory.write, name, content)
                except OSError as error:
                    raise ImageWriteError(str(path), str(error)) from error
        return None

    def close(self) -> None:
        """Lets go of the directory; removes it if it is ours and empty."""
        self.directory.close()


def has_image(data: Mapping[str, Any]) -> bool:
    """Whether a mime bundle has an image that would be saved."""
    return any(mime in data for mime in _SUFFIXES)


def decode(mime: str, value: Any) -> bytes | None:
    """The bytes of an image in a mime bundle; None when it is not what its type says."""
    parts = value if isinstance(value, list) else [value]
    if not all(isinstance(part, str) for part in parts):
        return None
    text = "".join(parts)
    if mime == "image/svg+xml":
        return text.encode("utf-8", "surrogatepass")
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        return None
