"""Runs a server until it is asked to stop. Floor: control."""

from __future__ import annotations

import asyncio
import logging
import math
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn

from ipybox.control.access.logs import logging_to
from ipybox.control.app import create_app
from ipybox.control.errors import ServerSettingsError
from ipybox.control.service.control_plane import ControlPlane
from ipybox.control.settings import ServerSettings
from ipybox.process import ports

log = logging.getLogger("ipybox.control")

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_BACKLOG = 2048
_HEADER_BYTES = 64 * 1024


class _Server(uvicorn.Server):
    """Says when it listens, and has the services know at once that it is asked to stop."""

    def __init__(self, config: uvicorn.Config, plane: ControlPlane, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._plane, self._on_ready = plane, on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begins to listen."""
        await super().startup(sockets)
        if self.started:
            self._on_ready()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Takes the signals that ask it to stop; what is to be done after them is ours as well."""
        loop = asyncio.get_running_loop()
        for signum in _SIGNALS:
            loop.add_signal_handler(signum, self._asked_to_stop)
        try:
            yield
        finally:
            for signum in _SIGNALS:
                loop.remove_signal_handler(signum)
                signal.signal(signum, signal.SIG_IGN)  # it stops already; what runs is ended first

    def _asked_to_stop(self) -> None:
        if self.should_exit:
            self.force_exit = True
            self._plane.hurry()
        self.should_exit = True
        self._plane.begin_to_stop()


def serve(settings: ServerSettings, on_ready: Callable[[str], None] | None = None) -> int:
    """Serves until SIGTERM or SIGINT, and returns the exit code.

    The first signal lets running executions come to an end for ``drain_timeout`` seconds; the second does not.

    Args:
        on_ready: Called with the URL as soon as requests are answered.

    Raises:
        ServerSettingsError, StateInUseError, SandboxUnavailableError: It can't start.
    """
    with logging_to(settings):
        return asyncio.run(_serve(settings, on_ready or (lambda url: None)))


async def _serve(settings: ServerSettings, on_ready: Callable[[str], None]) -> int:
    listeners = _listen(settings)
    port = listeners[0].getsockname()[1]
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    url = f"http://{host}:{port}"

    def ready() -> None:
        log.info("serving", extra={"url": url, "state_dir": settings.state_dir, "needs_key": settings.needs_key})
        on_ready(url)

    try:
        async with ControlPlane(settings) as plane:
            config = uvicorn.Config(
                create_app(settings, plane),
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                lifespan="on",
                ws="none",
                backlog=_BACKLOG,
                h11_max_incomplete_event_size=_HEADER_BYTES,
                timeout_keep_alive=30,
                timeout_graceful_shutdown=math.ceil(settings.drain_timeout) + 1,
            )
            server = _Server(config, plane, ready)
            await server.serve(sockets=listeners)
            return 0 if server.started else 1
    finally:
        for listener in listeners:
            listener.close()


def _listen(settings: ServerSettings) -> list[socket.socket]:
    try:
        listeners = ports.listen(settings.host, settings.port)
    except OSError as error:
        raise ServerSettingsError("port", f"can't listen on {settings.host}:{settings.port}: {error}") from error
    for listener in listeners:
        # asyncio does so itself, but not for sockets that were given no protocol; without it each answer takes 40 ms.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listener.listen(_BACKLOG)
        listener.setblocking(False)
    return listeners
