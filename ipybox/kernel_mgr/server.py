"""Start a kernel gateway, and leave nothing of it behind. Floor: kernel_mgr."""

from __future__ import annotations

import argparse
import asyncio
import errno
import json
import logging
import os
import secrets
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from threading import Event, Thread
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

import ipybox
from ipybox import arguments
from ipybox.errors import GatewayStartError, IpyboxError, PortInUseError, PreloadError
from ipybox.kernel_mgr import warm_kernel
from ipybox.kernel_mgr.gateway_start import GatewayStart
from ipybox.kernel_mgr.settings import GatewaySettings
from ipybox.process import ports
from ipybox.process.child import ChildProcess
from ipybox.process.descriptors import memory_file, packet_pair

if TYPE_CHECKING:
    from ipybox.kernel_mgr.sandboxing import Sandboxing

log = logging.getLogger("ipybox.gateway")

INHERITED = (
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "LANG",
    "LANGUAGE",
    "LC_ALL",
    "LC_CTYPE",
    "LC_COLLATE",
    "LC_MESSAGES",
    "LC_MONETARY",
    "LC_NUMERIC",
    "LC_TIME",
    "TZ",
    "TMPDIR",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
)
"""What kernels get of the caller's environment: where things are and how they are written, nothing secret."""

_LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
_SHORT_TEMP = "/tmp"
_SANDBOX_WARNING = "sandbox warning: "
"""What a line of a supervisor's log begins with that somebody should read."""
_T = TypeVar("_T")


class KernelGateway:
    """A Jupyter kernel gateway in a process of its own, as an async context manager.

    Entering returns when the gateway answers requests; leaving ends it and everything below it, kernels and their
    children included. The same happens when the owning process is killed. Any number of gateways run side by side.
    It is not bound to an event loop: enter in one and leave in another if you like.

    Args:
        host: Name or address to listen on. All addresses of a name are taken together.
        port: Port to listen on; 0 picks a free one, which is then in :attr:`port` and stays the same.
        working_dir: Working directory of kernels. Default: the current directory.
        sandbox: Run every kernel in an operating-system sandbox.
        sandbox_config: JSON file with the sandbox's policy; only with ``sandbox=True``. Default: no network, and of
            the user's files only the working directory.
        log_level: ``DEBUG``, ``INFO``, ``WARNING``, ``ERROR`` or ``CRITICAL``.
        log_to_stderr: Copy the gateway's log to stderr. It always goes to the logger ``ipybox.gateway``.
        env: Environment variables for kernels, on top of a short list of harmless ones that are inherited
            (:data:`INHERITED`). Nothing else of the caller's environment reaches a kernel.
        auth_token: When set, every request needs it. ``True`` generates one, which is then in :attr:`auth_token`.
        kernel_name: The installed kernelspec to start instead of ipybox's own kernel. Such a kernel knows no
            per-execution options, and its output is only as lossless as it is itself.
        journal_bytes: Bytes of output kept per kernel, on disk, for clients that come back after a broken connection.
        memory_limit: Bytes of memory that a kernel and its children may use. Looked at 20 times a second; a kernel
            above it is killed, and its clients are told that this was the cause. None is no limit.
        abandoned_timeout: Seconds after which a kernel to which nobody is connected is shut down; None is never.
        learn: Let the sandbox's code reach hosts that its policy does not allow (private addresses excepted), and note
            them: ``result.network`` then tells which rules it would have needed. Only with ``sandbox=True``.
        preload: Modules to import once, such as ``["numpy", "pandas"]``, for all kernels to share. One that fails,
            starts threads or opens files when it is imported ends the start with its name.
        fork: Start kernels as forks of one Python that has imported everything, which takes milliseconds. ``False``
            starts each kernel anew. So does a system other than Linux, a ``kernel_name``, and in a sandbox an ``env``
            that only a Python that starts heeds (``LD_PRELOAD``, ``OPENSSL_CONF``): :attr:`start_method` and the log
            say so.
        pool_size: How many kernels to keep ready, so that who asks for one need not wait for its start. Each takes
            memory; :meth:`KernelClient.connect` then takes a few milliseconds.
        max_kernels: How many kernels there may be, those in the pool included. Whoever asks for more gets a
            :class:`GatewayFullError`, as when memory runs out. None is as many as there is memory for.
        start_timeout: Seconds to wait for the gateway to answer.
        stop_timeout: Seconds that the gateway gets to end its kernels before all of it is killed.

    Raises:
        ValueError, TypeError: For an argument that makes no sense; nothing was started.
    """

    def __init__(
        self,
        host: str = "localhost",
        port: int = 8888,
        working_dir: Path | str | None = None,
        sandbox: bool = False,
        sandbox_config: Path | str | None = None,
        log_level: str = "INFO",
        log_to_stderr: bool = False,
        env: Mapping[str, str] | None = None,
        *,
        auth_token: str | bool | None = None,
        kernel_name: str | None = None,
        journal_bytes: int = 64 * 1024 * 1024,
        memory_limit: int | None = None,
        abandoned_timeout: float | None = 3600.0,
        learn: bool = False,
        preload: Sequence[str] = (),
        fork: bool = True,
        pool_size: int = 0,
        max_kernels: int | None = None,
        start_timeout: float = 60.0,
        stop_timeout: float = 10.0,
    ) -> None:
        self.host = arguments.text("host", host)
        self.working_dir = _directory("working_dir", working_dir)
        self.sandbox = arguments.flag("sandbox", sandbox)
        self.sandbox_config = None if sandbox_config is None else Path(sandbox_config).absolute()
        self.learn = arguments.flag("learn", learn)
        self.log_level = _log_level(log_level)
        self.log_to_stderr = arguments.flag("log_to_stderr", log_to_stderr)
        self.env = arguments.environment("env", env)
        self.auth_token = _token(auth_token)
        self.kernel_name = None if kernel_name is None else arguments.identifier("kernel_name", kernel_name)
        self.journal_bytes = arguments.size("journal_bytes", journal_bytes, 1024 * 1024)
        self.memory_limit = (
            None if memory_limit is None else arguments.size("memory_limit", memory_limit, 32 * 1024 * 1024)
        )
        self.abandoned_timeout = (
            None if abandoned_timeout is None else arguments.seconds("abandoned_timeout", abandoned_timeout)
        )
        self.preload = _modules(preload)
        self.fork = arguments.flag("fork", fork)
        if self.preload and not fork:
            raise ValueError("preload is only used with fork=True: modules are imported once and shared by forks")
        self.pool_size = arguments.count("pool_size", pool_size, 0)
        self.max_kernels = None if max_kernels is None else arguments.count("max_kernels", max_kernels, 1)
        if self.max_kernels is not None and self.pool_size >= self.max_kernels:
            raise ValueError(f"pool_size must be less than max_kernels ({self.max_kernels}), got {self.pool_size}")
        self.start_timeout = arguments.seconds("start_timeout", start_timeout)
        self.stop_timeout = arguments.seconds("stop_timeout", stop_timeout)
        self._port = arguments.port(port, lowest=0)
        self._taken: int | None = None
        self._cold: str | None = None
        self._child: ChildProcess | None = None
        self._run_dir: Path | None = None
        if not sandbox and (sandbox_config is not None or learn):
            raise ValueError("sandbox_config and learn are only used with sandbox=True")
        if sandbox and kernel_name is not None:
            raise ValueError(
                f"kernel_name={kernel_name!r} can't be used with sandbox=True: only ipybox's own kernel takes its "
                "sockets from outside of its sandbox"
            )
        self._sandboxing: Sandboxing | None = None
        if sandbox:
            from ipybox.kernel_mgr.sandboxing import Sandboxing  # who needs no sandbox need not wait for this

            self._sandboxing = Sandboxing(
                self.sandbox_config, memory_limit=self.memory_limit, working_dir=self.working_dir, learn=self.learn
            )
            for note in self._sandboxing.notes:
                log.warning("%s", note)

    @property
    def port(self) -> int:
        """The port: the one asked for, or after the start the one that was picked for 0."""
        return self._taken if self._taken is not None else self._port

    @property
    def url(self) -> str:
        """Such as ``http://localhost:8888``."""
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    @property
    def is_running(self) -> bool:
        """Whether the gateway's process is there."""
        return self._child is not None and self._child.is_alive

    @property
    def sandbox_tier(self) -> str | None:
        """How kernels are kept apart on this machine; None before the start and without ``sandbox=True``."""
        return self._sandboxing.tier if self._sandboxing is not None else None

    @property
    def start_method(self) -> str:
        """How kernels are started: ``"fork"``, or ``"exec"`` where that can't be; the log says why."""
        return "fork" if self._obstacle() is None else "exec"

    @property
    def pid(self) -> int | None:
        """Pid of the process at the top of the gateway's family; None when it is not running."""
        return self._child.pid if self._child is not None and self._child.is_alive else None

    async def start(self) -> None:
        """Starts the gateway and returns when it answers.

        Raises:
            PortInUseError: Somebody else listens there.
            GatewayStartError: It did not come up; the error holds its last log lines.
            SandboxUnavailableError: A sandbox was asked for and can't be had here.
            RuntimeError: It is running already.
        """
        if self._child is not None:
            raise RuntimeError("the gateway is running already; use one KernelGateway object per gateway")
        if self._sandboxing is not None:
            self._sandboxing.check_platform()
        cancelled = Event()
        work = _in_thread(lambda: self._start(cancelled))
        try:
            await asyncio.shield(asyncio.wrap_future(work))
        except asyncio.CancelledError:
            cancelled.set()
            try:
                await _finish(work)
            finally:
                await self.stop()
            raise

    async def stop(self) -> None:
        """Ends the gateway and all of its kernels. Does nothing when it is not running."""
        if self._child is not None or self._run_dir is not None:
            await _finish(_in_thread(self._stop))

    async def join(self) -> None:
        """Waits until the gateway ends, for whatever reason."""
        child = self._child
        if child is not None:
            await asyncio.shield(asyncio.wrap_future(_in_thread(child.wait)))

    async def __aenter__(self) -> KernelGateway:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    # ---- what follows blocks and runs in a thread -----------------------------------------------------------------

    def _start(self, cancelled: Event) -> None:
        listeners = self._listen()
        ready_read = ready_write = -1
        own_fds: list[int] = []
        try:
            self._cold = None
            obstacle = self._obstacle()
            if self.fork and obstacle is not None:
                log.log(self._cold_level(), "kernels are not forked: %s", obstacle)
            self._taken = listeners[0].getsockname()[1]
            self._run_dir = _private_directory()
            ready_read, ready_write = os.pipe()
            start = self._command(listeners, ready_write, own_fds)
            self._child = ChildProcess(
                start.argv,
                env=start.env,
                pass_fds=start.pass_fds,
                remove=self._run_dir,
                prepare=partial(os.mkdir, self._run_dir, 0o700),
                on_line=self._log_line,
            )
            # From here on only the gateway holds its sockets: when it is gone, connections are refused at once.
            os.close(ready_write)
            ready_write = -1
            for listener in listeners:
                listener.close()
            self._wait_ready(ready_read, cancelled)
        except BaseException:
            self._stop()
            raise
        finally:
            for listener in listeners:
                listener.close()
            for fd in (*own_fds, ready_read, ready_write):
                if fd >= 0:
                    os.close(fd)

    def _command(self, listeners: list[socket.socket], ready_fd: int, own_fds: list[int]) -> GatewayStart:
        """What to run; descriptors that are made for it are in ``own_fds`` as soon as they are there."""
        assert self._run_dir is not None
        kernel_env = self._kernel_env()
        sandboxing = self._sandboxing
        gateway_end = supervisor_end = -1
        if sandboxing is not None and sandboxing.is_supervised:
            gateway_end, supervisor_end = packet_pair()
            own_fds += [gateway_end, supervisor_end]
        settings_fd = self._settings_file(listeners, ready_fd, kernel_env, gateway_end)
        own_fds.append(settings_fd)
        argv = [sys.executable, "-P", "-s", "-m", "ipybox.kernel_mgr.gateway_process", str(settings_fd)]
        start = GatewayStart(
            argv if sandboxing is None else sandboxing.gateway_argv(str(settings_fd)),
            _gateway_env(),
            [settings_fd, ready_fd, *(listener.fileno() for listener in listeners)],
        )
        if sandboxing is None or not sandboxing.is_supervised:
            return start
        start.pass_fds.append(gateway_end)
        start = sandboxing.supervised(
            start,
            run_dir=self._run_dir,
            kernel_env=kernel_env,
            control_fd=supervisor_end,
            ready_fd=ready_fd,
            preload=self.preload if self._obstacle() is None else None,
        )
        own_fds += start.own_fds
        return start

    def _listen(self) -> list[socket.socket]:
        try:
            return ports.listen(self.host, self._port)
        except socket.gaierror as error:
            raise GatewayStartError(f"host {self.host!r} does not resolve: {error.strerror}") from error
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise PortInUseError(self.host, self._port, ports.holder(self._port)) from error
            raise GatewayStartError(f"can't listen on {self.host}:{self._port}: {error}") from error

    def _settings_file(
        self, listeners: list[socket.socket], ready_fd: int, kernel_env: dict[str, str], supervisor_fd: int
    ) -> int:
        settings = GatewaySettings(
            run_dir=str(self._run_dir),
            working_dir=str(self.working_dir),
            listen_fds=[listener.fileno() for listener in listeners],
            ready_fd=ready_fd,
            allowed_hosts=_allowed_hosts(self.host, listeners),
            auth_token=self.auth_token,
            kernel_env=kernel_env,
            supervisor_fd=supervisor_fd if supervisor_fd >= 0 else None,
            seatbelt=self._sandboxing.seatbelt_settings() if self._sandboxing is not None else None,
            kernel_name=self.kernel_name,
            journal_bytes=self.journal_bytes,
            # Where there is a supervisor, it keeps the limit.
            memory_limit=self.memory_limit if self._sandboxing is None else self._sandboxing.policy.limits.memory,
            abandoned_timeout=self.abandoned_timeout,
            max_kernels=self.max_kernels,
            pool_size=self.pool_size,
            preload=list(self.preload) if self._obstacle() is None else None,
            log_level=self.log_level,
        )
        return memory_file(settings.to_json())

    def _kernel_env(self) -> dict[str, str]:
        assert self._run_dir is not None
        env = {name: os.environ[name] for name in INHERITED if name in os.environ}
        env.setdefault("PATH", os.defpath)
        env.setdefault("LANG", "C.UTF-8")
        # Colours are for terminals, and the user's IPython profile is none of a kernel's business.
        env.update(TERM="dumb", NO_COLOR="1", PYDEVD_DISABLE_FILE_VALIDATION="1")
        env["IPYTHONDIR"] = str(self._run_dir / "ipython")
        env["JUPYTER_RUNTIME_DIR"] = str(self._run_dir)
        env.update(_import_path())
        if self._sandboxing is not None:
            env = self._sandboxing.kernel_env(env, self._run_dir)
        env.update(self.env)
        return env

    def _wait_ready(self, fd: int, cancelled: Event) -> None:
        assert self._child is not None
        sandboxing = self._sandboxing
        deadline = time.monotonic() + self.start_timeout + (sandboxing.extra_seconds if sandboxing is not None else 0)
        while not cancelled.is_set():
            left = deadline - time.monotonic()
            if left <= 0:
                raise GatewayStartError(f"it did not answer within {self.start_timeout:g} s", self._child.last_lines())
            readable, _, _ = select.select([fd], [], [], min(left, 0.25))
            if readable:
                if said := os.read(fd, 65536):
                    if self._is_ready([json.loads(line) for line in said.splitlines()]):
                        return
                    continue
                try:
                    end = f"its process ended with exit code {self._child.wait(self.stop_timeout)}"
                except subprocess.TimeoutExpired:
                    end = f"it gave up, and its process did not end within {self.stop_timeout:g} s"
                raise GatewayStartError(end, self._child.last_lines())

    def _is_ready(self, said: list[dict[str, Any]]) -> bool:
        for facts in said:
            if "preload" in facts:
                raise PreloadError(*facts["preload"])
            if facts.get("cold"):
                self._cold = facts["cold"]
                log.log(self._cold_level(), "kernels are not forked: %s", self._cold)
        return self._sandboxing is None or self._sandboxing.take(said)

    def _obstacle(self) -> str | None:
        """Why kernels are executed one by one; None when they are forked."""
        if not self.fork:
            return "fork=False"
        if not sys.platform.startswith("linux"):
            return "only Linux forks safely"
        if self.kernel_name is not None:
            return f"kernel_name={self.kernel_name!r}"
        if self._sandboxing is not None and (found := warm_kernel.obstacle(self.env)) is not None:
            return found
        return self._cold

    def _cold_level(self) -> int:
        return logging.WARNING if self.preload else logging.INFO

    def _stop(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.stop(self.stop_timeout)
        run_dir, self._run_dir = self._run_dir, None
        if run_dir is not None:
            shutil.rmtree(run_dir, ignore_errors=True)  # the warden did it, unless it was killed

    def _log_line(self, line: str) -> None:
        if line.startswith(_SANDBOX_WARNING):
            log.warning("%s", line)
        else:
            log.debug("%s", line)
        if self.log_to_stderr:
            sys.stderr.write(line + "\n")
            sys.stderr.flush()


def _directory(name: str, value: Path | str | None) -> Path:
    if value is not None and not isinstance(value, str | os.PathLike):
        raise TypeError(f"{name} must be a path, got {value!r}")
    path = Path.cwd() if value is None else Path(value).absolute()
    if not path.is_dir():
        raise ValueError(f"{name} must be a directory, got {str(path)!r}")
    return path


def _modules(value: Any) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise TypeError(f"preload must be a list of module names, got {value!r}")
    for name in value:
        if not isinstance(name, str):
            raise TypeError(f"preload must be a list of module names, got {name!r} in it")
        if not all(part.isidentifier() for part in name.split(".")):
            raise ValueError(f"preload must name modules such as 'numpy' or 'matplotlib.pyplot', got {name!r}")
    return tuple(dict.fromkeys(value))


def _log_level(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"log_level must be a str, got {value!r}")
    if value.upper() not in _LOG_LEVELS:
        raise ValueError(f"log_level must be one of {', '.join(_LOG_LEVELS)}, got {value!r}")
    return value.upper()


def _token(value: Any) -> str | None:
    if value is None or value is False:
        return None
    if value is True:
        return secrets.token_urlsafe(32)
    return arguments.token("auth_token", value)


def _private_directory() -> Path:
    """Where to make a directory for one gateway, with a path short enough for the Unix sockets in it."""
    base = tempfile.gettempdir()
    if len(base) > 30 and os.path.isdir(_SHORT_TEMP):
        base = _SHORT_TEMP
    return Path(os.path.realpath(base)) / f"ipybox-{secrets.token_hex(6)}"


def _import_path() -> dict[str, str]:
    """What a Python of ours needs to find this package when it is not installed where Python looks."""
    home = str(Path(ipybox.__file__).resolve().parent.parent)
    installed = any(home == os.path.realpath(entry) for entry in sys.path if "-packages" in entry)
    return {} if installed else {"PYTHONPATH": home}


def _gateway_env() -> dict[str, str]:
    names = (*INHERITED, "VIRTUAL_ENV")
    return {**{name: os.environ[name] for name in names if name in os.environ}, **_import_path()}


def _allowed_hosts(host: str, listeners: list[socket.socket]) -> list[str] | None:
    """Names under which a gateway on the loopback interface may be called; None for one that others may reach."""
    addresses = [str(listener.getsockname()[0]) for listener in listeners]
    if not all(address == "::1" or address.startswith("127.") for address in addresses):
        return None
    return sorted({host.lower(), "localhost", "127.0.0.1", "::1", *addresses})


def _in_thread(work: Callable[[], _T]) -> Future[_T]:
    """Runs blocking work in a thread that no event loop owns, so that no loop's end can cut it short."""
    future: Future[_T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    Thread(target=run, name="ipybox-gateway", daemon=True).start()
    return future


async def _finish(work: Future[Any]) -> None:
    """Waits for work that must be finished, also when the waiting task is cancelled meanwhile."""
    waiter = asyncio.ensure_future(asyncio.wrap_future(work))
    cancelled = False
    while not waiter.done():
        try:
            await asyncio.shield(waiter)
        except asyncio.CancelledError:
            cancelled = True
        except BaseException:  # the work's own error comes below
            break
    if cancelled:
        if waiter.done() and not waiter.cancelled():
            waiter.exception()
        raise asyncio.CancelledError
    await waiter


async def serve(gateway: KernelGateway, announce: Callable[[KernelGateway], None] | None = None) -> None:
    """Runs a gateway until it ends by itself, or until this process gets SIGINT or SIGTERM."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for signum in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(signum, stop.set)
    async with gateway:
        if announce is not None:
            announce(gateway)
        ended = asyncio.ensure_future(gateway.join())
        told = asyncio.ensure_future(stop.wait())
        await asyncio.wait([ended, told], return_when=asyncio.FIRST_COMPLETED)
        for waiter in (ended, told):
            waiter.cancel()


def _announce(gateway: KernelGateway) -> None:
    sys.stdout.write(f"gateway at {gateway.url}\n")
    sys.stdout.flush()


def main() -> None:
    """``python -m ipybox.kernel_mgr.server``: a gateway in the foreground."""
    parser = argparse.ArgumentParser(prog="python -m ipybox.kernel_mgr.server", description=main.__doc__)
    parser.add_argument("--host", default="localhost")
    parser.add_argument("--port", type=int, default=8888, help="0 picks a free one")
    parser.add_argument("--log-level", default="INFO")
    options = parser.parse_args()
    try:
        gateway = KernelGateway(host=options.host, port=options.port, log_level=options.log_level, log_to_stderr=True)
        asyncio.run(serve(gateway, _announce))
    except (ValueError, IpyboxError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
