"""The files of a sandbox, from outside. Floor: session.

Nothing here touches a file of this machine: each operation is done by the agent, behind the walls.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from ipybox import arguments
from ipybox.session.answers import check_file, file_entries
from ipybox.session.connection import Reply
from ipybox.session.frames import BODY_LIMIT, value
from ipybox.session.results import FileEntry

_SECONDS = 60.0
Path = str | os.PathLike[str]


class Ask(Protocol):
    """Asks the agent."""

    def __call__(
        self, head: dict[str, Any], body: bytes = b"", *, seconds: float, read: Callable[[Reply], Any]
    ) -> Awaitable[Any]: ...


class AsyncFiles:
    """The files of a sandbox. Relative paths begin in ``/workspace``.

    All methods raise :class:`SandboxFileError` when the system inside says no, and :class:`SandboxEndedError` when the
    sandbox is gone.
    """

    def __init__(self, ask: Ask) -> None:
        self._ask = ask

    async def read(self, path: Path) -> str:
        """The content of a file as text; what is no UTF-8 is replaced. At most 64 MiB."""
        return (await self.read_bytes(path)).decode("utf-8", "replace")

    async def read_bytes(self, path: Path) -> bytes:
        """The content of a file. At most 64 MiB."""
        content: bytes = await self._do("read", path, lambda reply: reply[1])
        return content

    async def write(self, path: Path, content: str | bytes, mode: int | str = 0o644) -> None:
        """Writes a file, with the directories that it is in; one that was there is replaced when all is written.

        Args:
            path: Where.
            content: Text, which is written as UTF-8, or bytes; at most 64 MiB.
            mode: Its permissions; a text such as ``"0755"`` is octal.
        """
        if not isinstance(content, str | bytes):
            raise TypeError(f"content must be str or bytes, got {type(content).__name__}")
        data = content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content
        if len(data) > BODY_LIMIT:
            raise ValueError(f"content has {len(data)} bytes, and {BODY_LIMIT} can be written at once")
        number = int(mode, 8) if isinstance(mode, str) else arguments.count("mode", mode, 0)
        await self._do("write", path, _nothing, data, mode=number)

    async def list(self, path: Path = ".") -> list[FileEntry]:
        """What is in a directory, sorted by name."""
        entries: list[FileEntry] = await self._do("list", path, lambda reply: file_entries(reply[0]))
        return entries

    async def exists(self, path: Path) -> bool:
        """Whether there is something at a path, at the end of a link if that is one."""
        found: bool = await self._do("exists", path, lambda reply: value(reply[0], "exists", bool))
        return found

    async def remove(self, path: Path) -> None:
        """Removes a file, a link, or a directory with all that is in it."""
        await self._do("remove", path, _nothing)

    async def mkdir(self, path: Path, parents: bool = True) -> None:
        """Makes a directory.

        Args:
            path: Which.
            parents: Make those above it as well, and be content if it is there.
        """
        await self._do("mkdir", path, _nothing, parents=arguments.flag("parents", parents))

    async def _do(self, op: str, path: Path, read: Callable[[Reply], Any], body: bytes = b"", **options: Any) -> Any:
        name = arguments.path("path", path)

        def checked(reply: Reply) -> Any:
            check_file(name, reply[0])
            return read(reply)

        return await self._ask({"op": op, "path": name, **options}, body, seconds=_SECONDS, read=checked)


def _nothing(reply: Reply) -> None:
    """There is no more to it than that it was done."""
