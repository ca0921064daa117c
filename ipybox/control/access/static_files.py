"""Scripts, styles and pictures of pages: in memory, under URLs that change with their content. Floor: control.

All that a page loads comes from here. A script of another host would have the rights of whoever looks at the page, and
a machine without the Internet would show nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files

from fastapi import Request, Response

from ipybox.control.errors import RecordNotFoundError

_FOREVER = "public, max-age=31536000, immutable"


@dataclass(frozen=True, slots=True, kw_only=True)
class StaticFile:
    """One of them, as it is sent. ``digest`` is part of its URL."""

    url: str
    media_type: str
    content: bytes
    digest: str


class StaticFiles:
    """All of one kind of pages, read once.

    Args:
        package: The package in whose directory ``static`` they are.
        prefix: What their URLs begin with.
        types: Media types by name.
    """

    def __init__(self, package: str, prefix: str, types: Mapping[str, str]) -> None:
        self._files: dict[str, StaticFile] = {}
        for name, media_type in types.items():
            content = (files(package) / "static" / name).read_bytes()
            digest = hashlib.sha256(content).hexdigest()[:16]
            url = f"{prefix}/{digest}/{name}"
            self._files[name] = StaticFile(url=url, media_type=media_type, content=content, digest=digest)

    def url(self, name: str) -> str:
        """URL of the file of that name, which must be one of ours."""
        return self._files[name].url

    def answer(self, request: Request, digest: str, name: str) -> Response:
        """The file at a URL, for everybody and for good.

        Raises:
            RecordNotFoundError: There is none, or it has another content by now.
        """
        found = self._files.get(name)
        if found is None or found.digest != digest:
            raise RecordNotFoundError("file", name)
        headers = {"ETag": f'"{found.digest}"', "Cache-Control": _FOREVER}
        if request.headers.get("if-none-match") == headers["ETag"]:
            return Response(status_code=304, headers=headers)
        return Response(found.content, headers=headers, media_type=found.media_type)
