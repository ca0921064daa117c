"""Files of sessions: who may, how much, and that their use counts as use of the session. Floor: control."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator

from ipybox.control.access.scopes import Principal
from ipybox.control.errors import ConflictError
from ipybox.control.records import Session
from ipybox.control.service.sessions import ALIVE, Sessions
from ipybox.control.settings import ServerSettings
from ipybox.control.storage.files import OpenedFile, StoredFile
from ipybox.control.storage.workspaces import Workspaces


class Files:
    """Reads and writes workspaces for those whose sessions they belong to.

    Files of a session that has ended can be read until it is forgotten; they can't be changed. All of it is refused
    with a ``ConflictError`` for sessions of another server.
    """

    def __init__(self, settings: ServerSettings, sessions: Sessions, workspaces: Workspaces) -> None:
        self._settings, self._sessions, self._workspaces = settings, sessions, workspaces

    async def write(self, principal: Principal, session_id: str, path: str, chunks: AsyncIterable[bytes]) -> StoredFile:
        """Writes a file as its bytes come; it is there as a whole or not at all.

        Raises:
            ConflictError: The session has ended.
            FileTooLargeError, StorageFullError, WorkspaceFileError: As the names say.
        """
        session = await self._alive(principal, session_id)
        await self._workspaces.create(session.id)
        stored = await self._workspaces.write(
            session.id,
            path,
            self._noting(session.id, chunks),
            limit=self._settings.max_upload_bytes,
            quota=session.limits.disk_bytes,
        )
        self._sessions.touch(session.id)
        return stored

    async def open(self, principal: Principal, session_id: str, path: str) -> OpenedFile:
        """A file to read; an async context manager.

        Raises:
            WorkspaceFileError: There is none, or it is no file.
        """
        session = await self._here(principal, session_id)
        self._sessions.touch(session.id)
        return await self._workspaces.open(session.id, path)

    async def list(
        self, principal: Principal, session_id: str, path: str, *, limit: int, recursive: bool
    ) -> list[StoredFile]:
        """What is in a directory."""
        session = await self._here(principal, session_id)
        return await self._workspaces.list(session.id, path, limit=limit, recursive=recursive)

    async def delete(self, principal: Principal, session_id: str, path: str) -> None:
        """Removes a file."""
        session = await self._alive(principal, session_id)
        await self._workspaces.delete(session.id, path)
        self._sessions.touch(session.id)

    async def presigned(self, principal: Principal, session_id: str, path: str) -> str | None:
        """A URL of the object store from which a file can be had for a while; None without one."""
        session = await self._here(principal, session_id)
        return await self._workspaces.presigned(session.id, path)

    async def _here(self, principal: Principal, session_id: str) -> Session:
        session = await self._sessions.get(principal, session_id)
        self._sessions.refuse_elsewhere(session)  # its files are on that one's disk
        return session

    async def _alive(self, principal: Principal, session_id: str) -> Session:
        session = await self._here(principal, session_id)
        if session.status not in ALIVE:
            raise ConflictError(f"the session {session_id!r} is {session.status.value}; its files can be read only")
        self._sessions.use(session)
        return session

    async def _noting(self, session_id: str, chunks: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
        """An upload may take longer than a session is kept unused."""
        async for chunk in chunks:
            self._sessions.touch(session_id)
            yield chunk
