"""Runs a server until it is asked to stop. Floor: control."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ipybox.control.access.logs import logging_to
from ipybox.control.errors import ServerSettingsError
from ipybox.control.server import ControlServer
from ipybox.control.settings import ServerSettings
from ipybox.sandbox import confine

log = logging.getLogger("ipybox.control")

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def serve(settings: ServerSettings, on_ready: Callable[[str], None] | None = None) -> int:
    """Serves until SIGTERM or SIGINT, and returns the exit code.

    The first signal lets running executions come to an end for ``drain_timeout`` seconds; the second does not. One
    that comes before it serves ends it at once. SIGHUP has it read its certificate again.

    Args:
        on_ready: Called with the URL as soon as requests are answered.

    Raises:
        ServerSettingsError, StateInUseError, SandboxUnavailableError: It can't start.
    """
    confine.all_descriptors()  # each client and each sandbox takes some, and shells give a process 1,024
    with logging_to(settings):
        return asyncio.run(_serve(settings, on_ready or (lambda url: None)))


async def _serve(settings: ServerSettings, on_ready: Callable[[str], None]) -> int:
    starting = asyncio.current_task()
    assert starting is not None
    server = ControlServer(settings)
    is_up = is_called_off = False

    def asked_to_stop() -> None:
        nonlocal is_called_off
        if is_up:
            return server.begin_to_stop()
        is_called_off = True
        starting.cancel()

    def asked_to_reload() -> None:
        try:
            server.reload_certificate()
        except ServerSettingsError as error:
            log.error("it goes on with the certificate that it has: %s", error)
        else:
            log.info("certificate read", extra={"tls_cert": settings.tls_cert})

    with _signals(asked_to_stop, asked_to_reload if settings.tls_cert else None):
        try:
            async with server:
                is_up = True
                facts = {"url": server.url, "state_dir": settings.state_dir, "needs_key": settings.needs_key}
                log.info("serving", extra=facts)
                if not settings.is_loopback and not settings.tls_cert:
                    log.warning("keys are sent in the clear, unless a proxy that speaks TLS is in front; see tls_cert")
                gc.collect()
                gc.freeze()  # what there is now stays; looking through it again and again would hold up everybody
                on_ready(server.url)
                await server.stopped()
        except asyncio.CancelledError:
            if not is_called_off:
                raise
    return 0


@contextmanager
def _signals(asked_to_stop: Callable[[], None], asked_to_reload: Callable[[], None] | None) -> Iterator[None]:
    """Takes the signals that ask it for something, until everything is down."""
    loop = asyncio.get_running_loop()
    for signum in _SIGNALS:
        loop.add_signal_handler(signum, asked_to_stop)
    if asked_to_reload is not None:
        loop.add_signal_handler(signal.SIGHUP, asked_to_reload)
    try:
        yield
    finally:
        for signum in (*_SIGNALS, signal.SIGHUP) if asked_to_reload is not None else _SIGNALS:
            loop.remove_signal_handler(signum)
            signal.signal(signum, signal.SIG_IGN)  # it has stopped already
