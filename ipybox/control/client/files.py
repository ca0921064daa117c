"""Files of sessions: up and down in parts, and down again from where a connection broke. Floor: control."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ipybox.control.client.decoding import decoded
from ipybox.control.client.groups import Group
from ipybox.control.client.models import FileInfo, UploadedFile
from ipybox.control.client.wire import file_in_path, id_in_path
from ipybox.control.errors import ServerError
from ipybox.process.teardown import to_the_end

Source = bytes | os.PathLike[str] | AsyncIterable[bytes]
"""What is uploaded: bytes, a file on this machine, or parts as they come."""
_PART = 256 * 1024
_MOST_READ = 256 * 1024**2


@dataclass(frozen=True, slots=True, kw_only=True)
class _FileList:
    files: tuple[FileInfo, ...]


class AsyncFiles(Group):
    """Files of sessions. Paths are relative to the workspace, or begin with ``/workspace/``."""

    async def list(
        self, session_id: str, path: str = "", *, recursive: bool = False, limit: int = 1000
    ) -> tuple[FileInfo, ...]:
        """What is in a directory, and with ``recursive`` in all below it; no more than ``limit``."""
        params = {"path": path or None, "recursive": "true" if recursive else "false", "limit": limit}

        def read(data: object) -> tuple[FileInfo, ...]:
            return decoded(_FileList, data).files

        return await self._line.call("GET", f"/sessions/{id_in_path(session_id)}/files", read, params=params)

    async def upload(self, session_id: str, path: str, source: Source) -> UploadedFile:
        """Writes a file, with the directories that it is in. It is there as a whole or not at all.

        Parts that come from an iterator are sent once; all else is sent again when the connection breaks.
        """
        if isinstance(source, str):
            raise TypeError("a text is neither content nor a file: encode() it, or make it a Path")
        is_again = isinstance(source, bytes | os.PathLike)
        if isinstance(source, os.PathLike):
            await asyncio.to_thread(_check_readable, source)

        def content() -> bytes | AsyncIterable[bytes]:
            return _parts_of(source) if isinstance(source, os.PathLike) else source

        def read(data: object) -> UploadedFile:
            return decoded(UploadedFile, data)

        return await self._line.call("PUT", _place(session_id, path), read, content=content, only_once=not is_again)

    async def download(self, session_id: str, path: str) -> bytes:
        """The content of a file of at most 256 MiB. Raises ``ValueError`` for a larger one."""
        found = bytearray()
        async with aclosing(self.parts(session_id, path)) as parts:
            async for part in parts:
                found += part
                if len(found) > _MOST_READ:
                    raise ValueError(f"{path!r} has more than {_MOST_READ} bytes; download it to a file")
        return bytes(found)

    async def download_to(self, session_id: str, path: str, target: str | os.PathLike[str]) -> int:
        """Writes the content of a file to one on this machine, whole or not at all. Returns its size."""
        goal = Path(target)
        fresh = goal.with_name(f".{secrets.token_hex(8)}.part")
        size = 0
        try:
            file = await to_the_end(asyncio.to_thread(_created, fresh))
            try:
                async with aclosing(self.parts(session_id, path)) as parts:
                    async for part in parts:
                        size += await asyncio.to_thread(file.write, part)
            finally:
                await to_the_end(asyncio.to_thread(file.close))
            await to_the_end(asyncio.to_thread(os.replace, fresh, goal))
        except BaseException:
            fresh.unlink(missing_ok=True)
            raise
        return size

    async def parts(self, session_id: str, path: str) -> AsyncGenerator[bytes, None]:
        """The content of a file as it comes. After a broken connection it goes on from there.

        Raises:
            ServerError: Also if the file is another one by then.
        """
        place, patience = _place(session_id, path), self._line.patience()
        done, etag = 0, None
        while True:
            headers = {} if not done else {"Range": f"bytes={done}-", "If-Range": etag or ""}
            try:
                async with self._line.open("GET", place, params={"presign": "false"}, headers=headers) as response:
                    is_rest = response.status_code == 206 and response.headers.get("etag") == etag
                    if done and not (
                        is_rest and response.headers.get("content-range", "").startswith(f"bytes {done}-")
                    ):
                        raise ServerError(409, "Conflict", f"{path!r} has changed while it was downloaded")
                    etag = response.headers.get("etag")
                    async for part in response.aiter_bytes():
                        patience.progress()
                        done += len(part)
                        yield part
                return
            except ServerError as error:
                if done and not etag:
                    raise
                await asyncio.sleep(patience.wait_for(error))

    async def delete(self, session_id: str, path: str) -> None:
        """Removes a file."""
        await self._line.call("DELETE", _place(session_id, path), lambda _: None)


def _place(session_id: str, path: str) -> str:
    return f"/sessions/{id_in_path(session_id)}/files/{file_in_path(path)}"


def _check_readable(path: os.PathLike[str]) -> None:
    _opened(path).close()


def _opened(path: os.PathLike[str]) -> BinaryIO:
    return open(path, "rb")


def _created(path: Path) -> BinaryIO:
    return open(path, "xb")


async def _parts_of(path: os.PathLike[str]) -> AsyncIterator[bytes]:
    file = await asyncio.to_thread(_opened, path)
    try:
        while part := await asyncio.to_thread(file.read, _PART):
            yield part
    finally:
        file.close()
