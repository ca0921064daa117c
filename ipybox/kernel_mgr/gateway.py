"""The gateway process: Jupyter's kernel gateway, set up through its extension points. Floor: kernel_mgr.

The only module that touches ``kernel_gateway``. Started by ``server.KernelGateway``, which hands it its listening
sockets and settings through descriptors; it says when it serves, and it exits on SIGTERM.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import os
import shutil
import signal
import socket
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from jupyter_server.services.kernels.websocket import KernelWebsocketHandler
from kernel_gateway.gatewayapp import KernelGatewayApp
from kernel_gateway.jupyter_websocket import JupyterWebsocketPersonality
from tornado import httpserver, web

from ipybox import __version__
from ipybox.errors import PreloadError
from ipybox.kernel_mgr import wire
from ipybox.kernel_mgr.connection import JournalConnection
from ipybox.kernel_mgr.gateway_kernels import FullHTTPError, GatewayKernels, KernelSpecs
from ipybox.kernel_mgr.settings import GatewaySettings
from ipybox.sandbox import confine, landlock, seccomp
from ipybox.sandbox.supervision import SupervisorLink

if TYPE_CHECKING:
    from ipybox.kernel_mgr.forked_kernels import ForkedKernels

PING_SECONDS = 30
"""How often a client is asked whether it is still there, and how long it may take to answer."""
MAX_MESSAGE_BYTES = 1024**3
"""Limit for one message from a client; a limit at all only because memory has one."""


class Guard:
    """Decides who may talk to the gateway, on every route and before anything else.

    With a token, every request needs it (``Authorization: token ...``, ``Authorization: Bearer ...`` or ``?token=``).
    With or without, requests that a web page in somebody's browser makes are refused: pages send the ``Origin`` that
    they come from, which is not us, and a page that rebinds its own name to our address sends that name as ``Host``.
    """

    request: Any
    settings: dict[str, Any]

    def prepare(self) -> Awaitable[None] | None:
        """Runs before the handler of any method."""
        settings: GatewaySettings = self.settings["ipybox_settings"]
        origin = self.request.headers.get("Origin")
        if origin and urlsplit(origin).netloc != self.request.headers.get("Host"):
            raise web.HTTPError(403, "requests of other web pages are not answered")
        if settings.allowed_hosts is not None:
            host = _host_name(self.request.headers.get("Host", ""))
            if host not in settings.allowed_hosts:
                raise web.HTTPError(403, f"this gateway is not called {host!r}")
        if settings.auth_token is not None and not self._has_token(settings.auth_token):
            raise web.HTTPError(401, "a valid token is required")
        result: Awaitable[None] | None = super().prepare()  # type: ignore[misc]
        return result

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Tells who is refused for now when to come back."""
        error = (kwargs.get("exc_info") or (None, None))[1]
        if isinstance(error, FullHTTPError):
            self.set_header("Retry-After", str(error.retry_after))  # type: ignore[attr-defined]
        try:
            super().write_error(status_code, **kwargs)  # type: ignore[misc]
        except KeyError:  # Jupyter's page for people, whose templates a gateway has not got
            web.RequestHandler.write_error(self, status_code, **kwargs)  # type: ignore[arg-type]

    def set_default_headers(self) -> None:
        """Says what this is, so that a client can tell it from any other server."""
        super().set_default_headers()  # type: ignore[misc]
        self.set_header("Server", f"ipybox/{__version__}")  # type: ignore[attr-defined]

    def _has_token(self, expected: str) -> bool:
        header = self.request.headers.get("Authorization", "")
        scheme, _, given = header.partition(" ")
        if scheme.lower() not in ("token", "bearer"):
            given = self.get_argument("token", "")  # type: ignore[attr-defined]
        return hmac.compare_digest(given.strip().encode(), expected.encode())


class _Channels:
    """The websocket route: our subprotocol first, nothing compressed, pings by tornado.

    Jupyter's own pings count milliseconds in the properties in which tornado counts seconds, and close a connection
    that has had no time to answer yet.
    """

    ping_interval = PING_SECONDS
    ping_timeout = PING_SECONDS
    ping_callback: Any

    async def open(self, kernel_id: str) -> None:
        """The websocket is open."""
        opening = asyncio.ensure_future(super().open(kernel_id))  # type: ignore[misc]
        await asyncio.sleep(0)
        if self.ping_callback is not None:
            self.ping_callback.stop()
        await opening

    def send_ping(self) -> None:
        """Jupyter's ping, of which there shall be none."""

    def select_subprotocol(self, subprotocols: list[str]) -> str | None:
        """Ours, if the client knows it."""
        if wire.SUBPROTOCOL in subprotocols:
            return wire.SUBPROTOCOL
        chosen: str | None = super().select_subprotocol(subprotocols)  # type: ignore[misc]
        return chosen

    def get_compression_options(self) -> None:
        """No compression: it costs more than a local connection does."""


class Personality(JupyterWebsocketPersonality):
    """The gateway's routes, every one of them behind the guard."""

    def create_request_handlers(self) -> list[tuple[Any, ...]]:
        """All routes."""
        guarded: list[tuple[Any, ...]] = []
        for pattern, handler, *rest in super().create_request_handlers():
            mixins: tuple[type, ...] = (Guard,)
            if issubclass(handler, KernelWebsocketHandler):
                mixins = (_Channels, Guard)
            guarded.append((pattern, type(handler.__name__, (*mixins, handler), {}), *rest))
        return guarded

    async def shutdown(self) -> None:
        """Ends all kernels."""
        await self.parent.kernel_manager.shutdown_everything()


class Gateway(KernelGatewayApp):
    """The application."""

    name = "ipybox-gateway"
    settings: GatewaySettings
    supervisor: SupervisorLink | None = None
    forked: ForkedKernels | None = None

    def load_config_file(self, *args: Any, **kwargs: Any) -> None:
        """Reads no configuration file: all settings come from the owner, and others could write one."""

    def migrate_config(self) -> None:
        """Leaves the user's files alone."""

    def init_webapp(self) -> None:
        """Makes the web application."""
        super().init_webapp()
        self.web_app.settings.update(
            ipybox_settings=self.settings,
            kg_list_kernels=True,
            websocket_max_message_size=MAX_MESSAGE_BYTES,
        )

    def init_http_server(self) -> None:
        """Serves on the sockets that were handed over: the port was chosen and taken before we started."""
        sockets = [socket.socket(fileno=fd) for fd in self.settings.listen_fds]
        for listener in sockets:
            listener.setblocking(False)
        self.http_server = httpserver.HTTPServer(self.web_app, max_buffer_size=MAX_MESSAGE_BYTES)
        self.http_server.add_sockets(sockets)
        self.port = sockets[0].getsockname()[1]

    async def become_ready(self) -> None:
        """Tells the owner that requests are answered from now on, or why not."""
        if self.settings.supervisor_fd is not None:
            self._enter_sandbox(self.settings.supervisor_fd)
        facts: dict[str, Any] = {"gateway": True}
        if self.forked is not None:
            try:
                await self.forked.wait_ready()
                facts["cold"] = self.forked.cold
            except PreloadError as error:
                facts = {"preload": [error.module, error.reason]}
        self.kernel_manager.open()
        os.write(self.settings.ready_fd, json.dumps(facts).encode() + b"\n")
        os.close(self.settings.ready_fd)

    def _enter_sandbox(self, fd: int) -> None:
        """From here on this process can execute nothing: it reads what kernels send. See also ``landlock``."""
        self.supervisor = SupervisorLink(fd, on_egress=self.kernel_manager.note_egress)
        self.supervisor.on_stop = lambda: self._signal_stop(signal.SIGTERM, None)
        # Unix sockets: the listeners of kernels are made here.
        confinement = seccomp.Filter(
            execute=False, inet=False, netlink_route=False, unix_sockets=True, uncounted_memory=True
        )
        seccomp.install(seccomp.program(confinement), all_threads=True)


def create_personality(*args: Any, **kwargs: Any) -> Personality:
    """The kernel gateway's hook for a personality module."""
    return Personality(*args, **kwargs)


def _host_name(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()


def main(settings: GatewaySettings, forked: ForkedKernels | None) -> None:
    """Runs the gateway.

    Args:
        settings: See there.
        forked: What kernels are forked from, if they are.
    """
    for name, value in _jupyter_environment(settings).items():
        os.environ[name] = value
    if settings.supervisor_fd is not None:
        confine.all_descriptors()
        landlock.forbid_tcp()  # before there are threads, which it would not reach
    app = Gateway.instance(
        api=__name__,
        kernel_manager_class=GatewayKernels,
        kernel_spec_manager_class=KernelSpecs,
        kernel_websocket_connection_class=JournalConnection,
        log_level=logging.getLevelName(settings.log_level),
        auth_token="",  # the guard checks ours, on every route
        cookie_secret=os.urandom(32),
        answer_yes=True,
    )
    app.settings = settings
    app.forked = forked
    # Behind a wall there is no working directory for us; kernels have one.
    app.config.GatewayKernels.root_dir = settings.working_dir if settings.supervisor_fd is None else settings.run_dir
    app.initialize([])
    signal.signal(signal.SIGTERM, app._signal_stop)
    app.io_loop.add_callback(app.become_ready)
    warden = os.getppid()
    try:
        app.start()
    finally:
        if forked is not None:
            forked.close()
    if os.getppid() != warden:
        shutil.rmtree(settings.run_dir, ignore_errors=True)  # the warden was killed; this was its job


def _jupyter_environment(settings: GatewaySettings) -> dict[str, str]:
    """Keeps Jupyter's files in the private directory."""
    return {
        "JUPYTER_PLATFORM_DIRS": "0",
        "JUPYTER_RUNTIME_DIR": settings.run_dir,
        "JUPYTER_CONFIG_DIR": os.path.join(settings.run_dir, "config"),
    }
