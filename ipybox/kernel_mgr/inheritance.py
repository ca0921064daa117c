"""What ipybox's own kernel inherits from its gateway, as numbers of descriptors. Floor: kernel_mgr.

Nothing that a kernel needs from outside has a path: its channels are listening sockets that the gateway made in its
private directory, and its connection info is a file in memory. So a kernel works the same in a sandbox in which no
Unix socket can be made, nobody can be lured to a socket of somebody else's, and a client can connect before the
kernel is up.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, Final

from ipybox.process.descriptors import memory_file

CHANNELS: Final = ("shell", "iopub", "stdin", "control", "hb")
VARIABLE: Final = "IPYBOX_INHERITED"
"""Environment variable that tells a kernel what it inherits. It takes it out of its environment at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inheritance:
    """Descriptors in the kernel.

    Attributes:
        connection: A file with Jupyter's connection info.
        listeners: Listening Unix socket of each channel.
        stdout: Read and write end of the pipe for descriptor 1.
        stderr: The same for descriptor 2.
        recorder: Shared memory for the flight recorder.
        forks: ZMQ address at which forked children hand over their output; None is a TCP port of the loopback.
    """

    connection: int
    listeners: Mapping[str, int]
    stdout: tuple[int, int]
    stderr: tuple[int, int]
    recorder: int
    forks: str | None = None

    @property
    def all(self) -> list[int]:
        """Every descriptor."""
        return [self.connection, *self.listeners.values(), *self.stdout, *self.stderr, self.recorder]

    def to_environment(self) -> str:
        """Value of :data:`VARIABLE`."""
        return json.dumps(asdict(self))

    @classmethod
    def take(cls) -> Inheritance | None:
        """The kernel's side: what it inherits; None when it was not started by a gateway of ours."""
        text = os.environ.pop(VARIABLE, None)
        if text is None:
            return None
        data: dict[str, Any] = json.loads(text)
        data["stdout"], data["stderr"] = tuple(data["stdout"]), tuple(data["stderr"])
        inheritance = cls(**data)
        for number in inheritance.all:
            os.set_inheritable(number, False)
        return inheritance

    def connection_info(self) -> dict[str, Any]:
        """Jupyter's connection info; closes the file."""
        with os.fdopen(self.connection, encoding="utf-8") as file:
            file.seek(0)
            info: dict[str, Any] = json.load(file)
            return info


class Channels:
    """The gateway's side: makes the listeners and the file, and holds them until the kernel has them.

    Args:
        info: Jupyter's connection info with the transport ``ipc``.
    """

    def __init__(self, info: Mapping[str, Any]) -> None:
        self.listeners: dict[str, socket.socket] = {}
        self.connection = -1
        try:
            for channel in CHANNELS:
                self.listeners[channel] = _listen(f"{info['ip']}-{info[f'{channel}_port']}")
            key = info["key"]
            text = json.dumps({**info, "key": key.decode() if isinstance(key, bytes) else key})
            self.connection = memory_file(text)
        except BaseException:
            self.close()
            raise

    @property
    def numbers(self) -> dict[str, int]:
        """Descriptor of each channel."""
        return {channel: listener.fileno() for channel, listener in self.listeners.items()}

    def close(self) -> None:
        """Lets go of all of it: when the kernel is gone, nobody must be able to connect any more."""
        for listener in self.listeners.values():
            listener.close()
        self.listeners = {}
        if self.connection >= 0:
            os.close(self.connection)
            self.connection = -1


def _listen(path: str) -> socket.socket:
    with suppress(FileNotFoundError):
        os.unlink(path)  # of the kernel before a restart
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(path)
        listener.listen(64)
        listener.setblocking(False)  # a connection may be gone again when ZMQ accepts it
    except BaseException:
        listener.close()
        raise
    return listener
