"""The client for asynchronous code. Floor: control."""

from __future__ import annotations

import os
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Literal, Self, Unpack

from ipybox.control.client.files import AsyncFiles
from ipybox.control.client.groups import AsyncExecutions, AsyncKeys, AsyncServer, AsyncSessions, AsyncTemplates
from ipybox.control.client.handles import AsyncExecution, AsyncSession, made, quietly
from ipybox.control.client.line import Line
from ipybox.control.client.models import SessionInfo
from ipybox.control.client.options import SessionOptions
from ipybox.control.client.wire import checked_key, checked_url
from ipybox.control.errors import ServerError

DEFAULT_URL = "http://127.0.0.1:8000"
AtEnd = Literal["delete", "terminate", "keep"]


class AsyncControlClient:
    """A client of an ``ipybox serve``. An async context manager, for one event loop.

    Requests that can do no harm twice are repeated when the server can't be reached or has no room: those that read,
    change or delete, and those that make something, by a key that has the server make it once.

    Args:
        base_url: Address of the server; ``IPYBOX_SERVER`` if it is left out, or ``http://127.0.0.1:8000``.
        api_key: A key for it; ``IPYBOX_API_KEY`` if it is left out, or none.
        timeout: Seconds without a sign of the server after which it counts as gone.
        retries: How often a request is repeated.
        tls: For a server with a certificate of one's own. If it is left out and there is an ``IPYBOX_CA_FILE``, what
            certificates in that file (PEM) vouch for is believed, and nothing else.

    Raises:
        ValueError: The address or the key can't be one.
        OSError: The file of certificates can't be used.

    Attributes:
        templates, sessions, executions, files, keys, server: What can be asked, a method for each route.
    """

    def __init__(
        self,
        base_url: str | None = None,
        api_key: str | None = None,
        *,
        timeout: float = 60.0,
        retries: int = 3,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        url = checked_url(base_url or os.environ.get("IPYBOX_SERVER") or DEFAULT_URL)
        key = checked_key(os.environ.get("IPYBOX_API_KEY") if api_key is None else api_key)
        if timeout <= 0 or retries < 0:
            raise ValueError("timeout must be positive, and retries must not be negative")
        self._line = Line(url, key, timeout=timeout, retries=retries, verify=tls or _own_authority())
        self.templates = AsyncTemplates(self._line)
        self.sessions = AsyncSessions(self._line)
        self.executions = AsyncExecutions(self._line)
        self.files = AsyncFiles(self._line)
        self.keys = AsyncKeys(self._line)
        self.server = AsyncServer(self._line)

    @property
    def base_url(self) -> str:
        """Address of the server."""
        return self._line.url

    async def __aenter__(self) -> Self:
        await self._line.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._line.__aexit__(kind, error, trace)

    @asynccontextmanager
    async def session(
        self,
        template: str = "python",
        *,
        at_end: AtEnd = "delete",
        start_timeout: float = 120.0,
        **options: Unpack[SessionOptions],
    ) -> AsyncIterator[AsyncSession]:
        """A new session that runs, until the block is left.

        Args:
            template: What it is made from.
            at_end: ``delete`` leaves nothing of it, ``terminate`` its record and its files for a while, ``keep`` the
                session.
            start_timeout: Seconds that it may take to come up.
            options: See :class:`SessionOptions`.

        Raises:
            SessionEndedError: It did not come up.
            TimeoutError: Not in that time.
            ServerError: As everywhere.
        """

        async def end(info: SessionInfo) -> None:
            if ending == "delete":
                await self.sessions.delete(info.id)
            elif ending == "terminate":
                await self.sessions.terminate(info.id)

        ending: AtEnd = "terminate" if at_end == "keep" else at_end  # who never got it can't end it
        info = await made(self.sessions.create(template, **options), end)
        session = self._session(info.id)
        try:
            await session.ready(start_timeout)
            ending = at_end
            yield session
        except BaseException:
            await quietly(end(info))
            raise
        try:
            await end(info)
        except ServerError as error:
            if error.status not in (404, 409):  # it has ended by itself, or was ended in the block
                raise

    async def attach(self, session_id: str, start_timeout: float = 120.0) -> AsyncSession:
        """A session that somebody has made before. It goes on when this client does not.

        Raises:
            SessionEndedError: It has ended.
            TimeoutError: It did not come up in that time.
        """
        session = self._session(session_id)
        await session.ready(start_timeout)
        return session

    async def execution(self, execution_id: str) -> AsyncExecution:
        """An execution that somebody has started before."""
        info = await self.executions.get(execution_id)
        return AsyncExecution(self.executions, info.id, info.session_id)

    def _session(self, id: str) -> AsyncSession:
        return AsyncSession(self.sessions, self.executions, self.files, id)


def _own_authority() -> ssl.SSLContext | None:
    file = os.environ.get("IPYBOX_CA_FILE")
    if not file:
        return None
    try:
        return ssl.create_default_context(cafile=file)
    except OSError as error:
        raise OSError(f"the certificates in IPYBOX_CA_FILE, {file}, can't be used: {error}") from error
