"""The same client for code that is not asynchronous: each has a thread, in which the asynchronous one lives.

Floor: control.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from types import TracebackType
from typing import Self, Unpack

from ipybox.control.client.background import Background, Twin, iterating, waiting
from ipybox.control.client.client import AsyncControlClient, AtEnd
from ipybox.control.client.files import AsyncFiles
from ipybox.control.client.groups import AsyncExecutions, AsyncKeys, AsyncServer, AsyncSessions, AsyncTemplates
from ipybox.control.client.handles import AsyncExecution, AsyncSession
from ipybox.control.client.models import Event, RunResult
from ipybox.control.client.options import CodeOptions, SessionOptions

OnEvent = Callable[[Event], object]


class Templates(Twin[AsyncTemplates]):
    """What sessions are made from."""

    create = waiting(AsyncTemplates.create)
    get = waiting(AsyncTemplates.get)
    list = waiting(AsyncTemplates.list)
    update = waiting(AsyncTemplates.update)
    delete = waiting(AsyncTemplates.delete)


class Sessions(Twin[AsyncSessions]):
    """Sandboxes that somebody works in."""

    create = waiting(AsyncSessions.create)
    get = waiting(AsyncSessions.get)
    wait = waiting(AsyncSessions.wait)
    list = waiting(AsyncSessions.list)
    terminate = waiting(AsyncSessions.terminate)
    delete = waiting(AsyncSessions.delete)
    renew = waiting(AsyncSessions.renew)
    install = waiting(AsyncSessions.install)


class Executions(Twin[AsyncExecutions]):
    """Runs of code."""

    execute = waiting(AsyncExecutions.execute)
    execute_sync = waiting(AsyncExecutions.execute_sync)
    get = waiting(AsyncExecutions.get)
    list = waiting(AsyncExecutions.list)
    events = waiting(AsyncExecutions.events)
    stream = iterating(AsyncExecutions.stream)
    interrupt = waiting(AsyncExecutions.interrupt)


class Files(Twin[AsyncFiles]):
    """Files of sessions."""

    list = waiting(AsyncFiles.list)
    upload = waiting(AsyncFiles.upload)
    download = waiting(AsyncFiles.download)
    download_to = waiting(AsyncFiles.download_to)
    parts = iterating(AsyncFiles.parts)
    delete = waiting(AsyncFiles.delete)


class Keys(Twin[AsyncKeys]):
    """Keys; for those who may administer the server, but for :meth:`me`."""

    create = waiting(AsyncKeys.create)
    list = waiting(AsyncKeys.list)
    me = waiting(AsyncKeys.me)
    rotate = waiting(AsyncKeys.rotate)
    revoke = waiting(AsyncKeys.revoke)


class Server(Twin[AsyncServer]):
    """The server itself."""

    health = waiting(AsyncServer.health)
    synchronise = waiting(AsyncServer.synchronise)
    audit = waiting(AsyncServer.audit)


class Execution(Twin[AsyncExecution]):
    """Code that runs on a server, or did; see :class:`AsyncExecution`, which has the same methods."""

    @property
    def id(self) -> str:
        """Its id, with which it can be found again."""
        return self._inner.id

    @property
    def session_id(self) -> str:
        """The session that it runs in."""
        return self._inner.session_id

    info = waiting(AsyncExecution.info)
    stream = iterating(AsyncExecution.stream)
    interrupt = waiting(AsyncExecution.interrupt)

    def wait(self, on_output: OnEvent | None = None) -> RunResult:
        """Waits for its end. ``on_output`` gets all that it said and says, in this thread."""
        if on_output is None:
            return self._background.run(self._inner.wait())
        return self._background.run_telling(self._inner.wait, on_output)


class Session(Twin[AsyncSession]):
    """A session on a server; see :class:`AsyncSession`, which has the same methods."""

    @property
    def id(self) -> str:
        """Its id, with which it can be found again."""
        return self._inner.id

    info = waiting(AsyncSession.info)
    ready = waiting(AsyncSession.ready)
    stream = iterating(AsyncSession.stream)
    interrupt = waiting(AsyncSession.interrupt)
    upload = waiting(AsyncSession.upload)
    download = waiting(AsyncSession.download)
    download_to = waiting(AsyncSession.download_to)
    list_files = waiting(AsyncSession.list_files)
    delete_file = waiting(AsyncSession.delete_file)
    install = waiting(AsyncSession.install)
    renew = waiting(AsyncSession.renew)
    terminate = waiting(AsyncSession.terminate)
    delete = waiting(AsyncSession.delete)

    def start(self, code: str, **options: Unpack[CodeOptions]) -> Execution:
        """Hands over code, which then runs whether anybody listens or not."""
        return Execution(self._background.run(self._inner.start(code, **options)), self._background)

    def run(self, code: str, *, on_output: OnEvent | None = None, **options: Unpack[CodeOptions]) -> RunResult:
        """Runs code to its end. Never raises for what the code does; who is interrupted has interrupted it, too.

        Args:
            code: Python, JavaScript or shell.
            on_output: Gets what it says, as it happens, in this thread.
            options: See :class:`CodeOptions`.
        """
        if on_output is None:
            return self._background.run(self._inner.run(code, **options))
        return self._background.run_telling(lambda tell: self._inner.run(code, on_output=tell, **options), on_output)


class ControlClient:
    """A client of an ``ipybox serve``. A context manager, for any number of threads.

    Takes the same arguments as :class:`AsyncControlClient`, and does the same.

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
        self._inner = AsyncControlClient(base_url, api_key, timeout=timeout, retries=retries, tls=tls)
        self._background = Background()
        self.templates = Templates(self._inner.templates, self._background)
        self.sessions = Sessions(self._inner.sessions, self._background)
        self.executions = Executions(self._inner.executions, self._background)
        self.files = Files(self._inner.files, self._background)
        self.keys = Keys(self._inner.keys, self._background)
        self.server = Server(self._inner.server, self._background)

    @property
    def base_url(self) -> str:
        """Address of the server."""
        return self._inner.base_url

    def __enter__(self) -> Self:
        self._background.start()
        try:
            self._background.run(self._inner.__aenter__())
        except BaseException:
            self._background.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._background.run(self._inner.__aexit__(kind, error, trace))
        finally:
            self._background.stop()

    @contextmanager
    def session(
        self,
        template: str = "python",
        *,
        at_end: AtEnd = "delete",
        start_timeout: float = 120.0,
        **options: Unpack[SessionOptions],
    ) -> Iterator[Session]:
        """A new session that runs, until the block is left; see :meth:`AsyncControlClient.session`."""
        context = self._inner.session(template, at_end=at_end, start_timeout=start_timeout, **options)
        with self._in_background(context) as session:
            yield Session(session, self._background)

    def attach(self, session_id: str, start_timeout: float = 120.0) -> Session:
        """A session that somebody has made before; see :meth:`AsyncControlClient.attach`."""
        return Session(self._background.run(self._inner.attach(session_id, start_timeout)), self._background)

    def execution(self, execution_id: str) -> Execution:
        """An execution that somebody has started before."""
        return Execution(self._background.run(self._inner.execution(execution_id)), self._background)

    @contextmanager
    def _in_background(self, context: AbstractAsyncContextManager[AsyncSession]) -> Iterator[AsyncSession]:
        async def enter() -> AsyncSession:
            return await context.__aenter__()

        async def leave(error: BaseException | None) -> None:
            await context.__aexit__(type(error) if error else None, error, error.__traceback__ if error else None)

        session = self._background.run(enter())
        try:
            yield session
        except BaseException as error:
            self._background.run(leave(error))
            raise
        self._background.run(leave(None))
