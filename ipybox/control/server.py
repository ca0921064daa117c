"""A server in this process. Floor: control."""

from __future__ import annotations

import asyncio
import math
import socket
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from types import TracebackType
from typing import Self

import uvicorn

from ipybox.control.access.connections import HEAD_SECONDS, PromptHttp
from ipybox.control.app import create_app
from ipybox.control.certificates import Certificate
from ipybox.control.errors import ServerSettingsError
from ipybox.control.service.control_plane import ControlPlane
from ipybox.control.settings import ServerSettings
from ipybox.process import ports
from ipybox.process.teardown import to_the_end

_BACKLOG = 2048
_ACCEPTED_AT_ONCE = 32
"""Of connections that wait: so few that others are closed in time, before there are no descriptors left."""
_HEADER_BYTES = 64 * 1024
_HURRY_SECONDS = 0.5
_UNSENT_BYTES = 128 * 1024
"""Of an answer, what the system takes before it is on its way. With megabytes one would not see that somebody reads."""


class _Server(uvicorn.Server):
    """Says when it answers, and leaves signals to others."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.answering = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begins to answer."""
        # By itself it would give each client a minute for the handshake of TLS, which takes a lot of memory.
        await super().startup([])
        seconds = None if self.config.ssl is None else HEAD_SECONDS
        for each in sockets or ():
            self.servers.append(
                await asyncio.get_running_loop().create_server(
                    self._connection,
                    sock=each,
                    ssl=self.config.ssl,
                    backlog=_ACCEPTED_AT_ONCE,
                    ssl_handshake_timeout=seconds,
                )
            )
            each.listen(_BACKLOG)
        self.answering.set()

    def _connection(self) -> PromptHttp:
        return PromptHttp(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)

    def hang_up_after(self, seconds: float) -> None:
        """Has all that is not answered a moment after that time end without an answer: its client is slow."""
        asyncio.get_running_loop().call_later(seconds + _HURRY_SECONDS, self._hang_up)

    def _hang_up(self) -> None:
        for connection in list(self.server_state.connections):
            if connection.transport is not None:
                connection.transport.abort()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Takes none."""
        yield


class ControlServer:
    """A control plane that answers requests, in this process and event loop. An async context manager.

    Entering returns when it answers; leaving lets running executions end for ``drain_timeout`` seconds, and takes
    everything down. ``ipybox serve`` is this with signals and logs.

    Args:
        settings: What it is to be; ``port=0`` takes a free one.

    Raises:
        ServerSettingsError, StateInUseError, SandboxUnavailableError: It can't start.
    """

    plane: ControlPlane

    def __init__(self, settings: ServerSettings) -> None:
        self.settings = settings
        self._port = 0
        self._certificate: Certificate | None = None
        self._stack = AsyncExitStack()
        self._server: _Server | None = None
        self._serving: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        """Such as ``http://127.0.0.1:8000``."""
        host = self.settings.host
        scheme = "http" if self._certificate is None else "https"
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{self._port}"

    def reload_certificate(self) -> None:
        """Reads the files of its certificate again; connections that are open go on with the old one.

        Raises:
            ServerSettingsError: They can't be used. It serves with the old one.
        """
        if self._certificate is not None:
            self._certificate.reload()

    def begin_to_stop(self) -> None:
        """Takes nothing new; called again, it waits for nothing any more."""
        assert self._server is not None
        if self._server.should_exit:
            self._server.hang_up_after(0.0)
            self.plane.hurry()
        else:
            self._server.hang_up_after(self.settings.drain_timeout)
        self._server.should_exit = True
        self.plane.begin_to_stop()

    async def stopped(self) -> None:
        """Waits until no request is answered any more; :meth:`begin_to_stop` leads there."""
        assert self._serving is not None
        await asyncio.shield(self._serving)

    async def __aenter__(self) -> Self:
        try:
            if self.settings.tls_cert:
                self._certificate = Certificate(self.settings)
            plane = ControlPlane(self.settings)
            app = create_app(self.settings, plane)  # which refuses settings before anything is opened
            listeners = self._listen()
            for listener in listeners:
                self._stack.callback(listener.close)
            self._port = listeners[0].getsockname()[1]
            self.plane = await self._stack.enter_async_context(plane)
            config = uvicorn.Config(
                app,
                http=PromptHttp,
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                lifespan="on",
                ws="none",
                backlog=_BACKLOG,
                h11_max_incomplete_event_size=_HEADER_BYTES,
                timeout_keep_alive=30,
                timeout_graceful_shutdown=math.ceil(self.settings.drain_timeout) + 1,
            )
            if self._certificate is not None:
                config.load()
                config.ssl = self._certificate.context
            self._server = _Server(config)
            self._serving = asyncio.get_running_loop().create_task(self._server.serve(sockets=listeners))
            self._stack.push_async_callback(self._stop)
            ready = asyncio.ensure_future(self._server.answering.wait())
            await asyncio.wait([ready, self._serving], return_when=asyncio.FIRST_COMPLETED)
            ready.cancel()
            if self._serving.done():
                self._serving.result()
        except BaseException:
            await to_the_end(self._stack.aclose())
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await to_the_end(self._stack.aclose())

    async def _stop(self) -> None:
        assert self._serving is not None
        if not self._serving.done():
            self.begin_to_stop()
            await asyncio.wait([self._serving])

    def _listen(self) -> list[socket.socket]:
        host, port = self.settings.host, self.settings.port
        try:
            listeners = ports.listen(host, port)
        except OSError as error:
            raise ServerSettingsError("port", f"can't listen on {host}:{port}: {error}") from error
        for listener in listeners:
            # asyncio does so itself, but not for sockets without a protocol; without it each answer takes 40 ms.
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with suppress(OSError):  # not every kernel has it
                listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT_BYTES)
            listener.listen(_BACKLOG)
            listener.setblocking(False)
        return listeners
