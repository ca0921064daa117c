"""Scripts, styles and pictures of the console: in memory, under URLs that change with their content. Floor: control."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.resources import files

from ipybox.control.errors import RecordNotFoundError

PREFIX = "/console/static"
FOREVER = "public, max-age=31536000, immutable"
_TYPES = {
    "console.css": "text/css; charset=utf-8",
    "console.js": "text/javascript; charset=utf-8",
    "favicon.svg": "image/svg+xml",
    "htmx.LICENSE.txt": "text/plain; charset=utf-8",
    "htmx.min.js": "text/javascript; charset=utf-8",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class StaticFile:
    """One of them, as it is sent. ``digest`` is part of its URL."""

    name: str
    media_type: str
    content: bytes
    digest: str

    @property
    def url(self) -> str:
        """Where it is."""
        return f"{PREFIX}/{self.digest}/{self.name}"


class StaticFiles:
    """All of them, read once."""

    def __init__(self) -> None:
        self._files: dict[str, StaticFile] = {}
        for name, media_type in _TYPES.items():
            content = (files(__package__) / "static" / name).read_bytes()
            digest = hashlib.sha256(content).hexdigest()[:16]
            self._files[name] = StaticFile(name=name, media_type=media_type, content=content, digest=digest)

    def url(self, name: str) -> str:
        """URL of the file of that name, which must be one of ours."""
        return self._files[name].url

    def find(self, digest: str, name: str) -> StaticFile:
        """The file at a URL.

        Raises:
            RecordNotFoundError: There is none, or it has another content by now.
        """
        found = self._files.get(name)
        if found is None or found.digest != digest:
            raise RecordNotFoundError("file", name)
        return found
