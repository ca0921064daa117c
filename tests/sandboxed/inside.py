"""A gateway with sandboxed kernels for tests that try to get out, used from ordinary functions.

Event loop, gateway and clients live in a thread, so that one of each can serve a whole session of tests.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import shutil
import socket
import struct
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import psutil

from ipybox.kernel_mgr.client import KernelClient
from ipybox.kernel_mgr.server import KernelGateway
from ipybox.sandbox import confine, seccomp
from tests.kernels.helpers import HANG, command_of, name_of
from tests.sandboxed import probes

_T = TypeVar("_T")
_PROBES = Path(__file__).with_name("probes.py")
_MODULE = "escape_probes"

DONE = "done"
"""Outcome of an attempt that worked."""
OPEN = frozenset({"EPERM", "EACCES"})
"""The sandbox forbids it."""
FROZEN = frozenset({"EROFS", "EPERM", "EACCES", "EBUSY", "EXDEV"})
"""It is there, and can't be changed."""
HIDDEN = frozenset({"ENOENT", "EACCES", "EPERM", "ENOTDIR", "ENXIO"})
"""It can't be seen, or can't be opened."""


class Kernel:
    """A sandboxed kernel that knows the module ``probes``."""

    def __init__(self, room: Room, client: KernelClient) -> None:
        self._room, self._client = room, client
        self._ready = False

    def run(self, code: str) -> str:
        """Runs code; returns what it printed."""
        return self._room.wait(self._client.execute(code, timeout=HANG)).stdout

    def _ask(self, name: str, arguments: tuple[Any, ...]) -> dict[str, Any]:
        if not self._ready:
            self.run(f"import sys; sys.path.insert(0, {str(self._room.probes)!r}); import {_MODULE}")
            self._ready = True
        text = self.run(f"print({_MODULE}.answer({name!r}, {json.dumps(arguments)!r}))")
        reply: dict[str, Any] = json.loads(text.splitlines()[-1])
        return reply

    def call(self, name: str, *arguments: Any) -> Any:
        """What a probe returned."""
        reply = self._ask(name, arguments)
        assert "value" in reply, f"{name}{arguments} was refused: {reply}"
        return reply["value"]

    def attempt(self, name: str, *arguments: Any) -> str:
        """The name of the error with which a probe was refused, or what it returned."""
        reply = self._ask(name, arguments)
        return str(reply.get("refused", reply.get("value")))

    @property
    def client(self) -> KernelClient:
        """The client; it belongs to the room's loop."""
        return self._client


class Room:
    """A gateway with one policy, and its kernels.

    Args:
        workspace: The working directory of kernels.
        nested: Whether the system lets a sandbox be made in another one. If not, each kernel has a bubblewrap.
        options: For the gateway.
    """

    def __init__(self, workspace: Path, *, nested: bool = True, **options: Any) -> None:
        self.workspace = workspace
        self._nested = nested
        self.probes = workspace / "probes"
        self.probes.mkdir(exist_ok=True)
        shutil.copy(_PROBES, self.probes / f"{_MODULE}.py")
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="sandboxed-tests", daemon=True)
        self.gateway = KernelGateway(port=0, sandbox=True, working_dir=workspace, log_level="WARNING", **options)
        self._clients: list[KernelClient] = []
        self._shared: Kernel | None = None

    def wait(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Runs a coroutine in the room's loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(2 * HANG)

    def __enter__(self) -> Room:
        self._thread.start()
        if not self._nested:
            self.wait(_forbid_nesting())
        try:
            self.wait(self.gateway.start())
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            for client in self._clients:
                self.wait(client.disconnect())
            self.wait(self.gateway.stop())
        finally:
            self._end()

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(HANG)
        self._loop.close()

    def new_client(self, images_dir: Path | None = None) -> KernelClient:
        """A client, not connected yet."""
        images = self.workspace.parent / "images" if images_dir is None else images_dir
        return KernelClient(self.gateway.host, self.gateway.port, images_dir=images)

    def _connected(self) -> Kernel:
        client = self.new_client()
        self.wait(client.connect())
        self._clients.append(client)
        return Kernel(self, client)

    @property
    def kernel(self) -> Kernel:
        """A kernel that tests share, made at the first use."""
        if self._shared is None:
            self._shared = self._connected()
        return self._shared

    @contextmanager
    def fresh_kernel(self) -> Iterator[Kernel]:
        """A kernel of one's own."""
        kernel = self._connected()
        try:
            yield kernel
        finally:
            self._clients.remove(kernel.client)
            self.wait(kernel.client.disconnect())

    # ---- as the host sees it ------------------------------------------------------------------------------------

    def family(self) -> list[psutil.Process]:
        """Every process of the gateway."""
        assert self.gateway.pid is not None
        top = psutil.Process(self.gateway.pid)
        return [top, *top.children(recursive=True)]

    def process(self, module: str, *, wall: bool = False) -> psutil.Process:
        """The process that runs a module; with ``wall`` the bubblewrap around it."""
        for process in self.family():
            command = command_of(process)
            if any(module in word for word in command) and (Path(command[0]).name == "bwrap") is wall:
                return process
        raise AssertionError(f"no process runs {module}")

    def kernels(self) -> list[psutil.Process]:
        """Every kernel, forked or executed."""
        found = [process for process in self.family() if is_kernel(process)]
        assert found
        return found


def is_kernel(process: psutil.Process) -> bool:
    """Whether this is a kernel."""
    command = command_of(process)
    is_wall = bool(command) and Path(command[0]).name == "bwrap"
    return name_of(process) == "ipybox-kernel" or (not is_wall and "ipybox.kernel_mgr.kernel_app" in command)


async def _forbid_nesting() -> None:
    """Has the system refuse what a launcher asks of it to this thread, and to all that it starts."""
    unshare = probes.NUMBERS["unshare"][platform.machine() == "aarch64"]
    program = b"".join(
        struct.pack("=HBBI", *instruction)
        for instruction in (
            (0x20, 0, 0, 0),  # load the call's number
            (0x15, 0, 3, unshare),
            (0x20, 0, 0, 16),  # load its first argument
            (0x15, 0, 1, confine.EVERYTHING),
            (0x06, 0, 0, 0x00050001),  # EPERM
            (0x06, 0, 0, 0x7FFF0000),  # allowed
        )
    )
    seccomp.install(program)


def host_cookie() -> str:
    """Names the network namespace of the tests."""
    with socket.socket() as ours:
        return str(int.from_bytes(ours.getsockopt(socket.SOL_SOCKET, 71, 8), "little"))


def lent(directory: Path) -> list[str]:
    """What in a directory lends out rights: setuid and setgid bits, devices, file capabilities."""
    found = []
    for path in directory.rglob("*"):
        status = path.lstat()
        device = status.st_mode & 0o170000 in (0o020000, 0o060000)
        if status.st_mode & 0o6000 or device or "security.capability" in os.listxattr(path, follow_symlinks=False):
            found.append(str(path))
    return found
