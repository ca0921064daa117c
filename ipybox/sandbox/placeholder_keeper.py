"""Removes placeholders whose owner was killed. Linux only. Floor: sandbox.

Run as ``bootstrap.py ipybox.sandbox.placeholder_keeper OWNER-FD LIST-FD SOCKET-FD`` in a session of its own, by who
makes placeholders in a process that anybody may kill. It waits for the owner's end, and then for the end of what the
placeholders are in the way of, as that must not find them gone. An owner that can clean up does so and ends the keeper.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import weakref
from collections.abc import Iterable, Sequence
from contextlib import suppress

from ipybox.errors import PolicyError
from ipybox.process import bootstrap
from ipybox.process.descriptors import memory_file, owner_descriptor
from ipybox.sandbox.placeholders import Placeholders, remove_left

MOST = 200
"""Each takes a descriptor of the owner's, who may have but 1024 of them for all that it does."""


class KeptPlaceholders(Placeholders):
    """Placeholders that go also when this process is killed: a process waits for that which outlives it."""

    def __init__(self) -> None:
        super().__init__()
        self._keeper: _Keeper | None = None
        _living.add(self)

    def let_go(self) -> None:
        """Closes what a fork of the owner has of it: nobody but the owner is to keep them."""
        for _, fd in self._held.items():
            os.close(fd)
        self._held.clear()
        if self._keeper is not None:
            self._keeper.let_go()
            self._keeper = None

    def make(self, paths: Iterable[str]) -> None:
        """Makes those that are not there. A new keeper has to be told again what to :meth:`outlive`."""
        before = self.held()
        wanted = list(paths)
        if len({*(path for path, _, _ in before), *wanted}) > MOST:
            raise PolicyError(
                "writable_paths",
                f"they hold more than {MOST} names that have to be guarded",
                "name smaller directories",
            )
        try:
            super().make(wanted)
        finally:
            self._keep(before)

    def join(self, paths: Iterable[str]) -> None:
        """Holds those that somebody else has made as well, who may be killed before us."""
        before = self.held()
        super().join(paths)
        self._keep(before)

    def _keep(self, before: list[tuple[str, int, int]]) -> None:
        if self.held() != before:
            old, self._keeper = self._keeper, _Keeper(self.held())
            if old is not None:
                old.end()

    def outlive(self, pidfd: int) -> None:
        """Has them stay until a process is gone, should this one be killed."""
        if self._keeper is not None:
            self._keeper.wait_for(pidfd)

    def remove(self) -> None:
        """Removes them."""
        super().remove()
        if self._keeper is not None:
            self._keeper.end()
            self._keeper = None


class _Keeper:
    """A process that outlives this one, for as long as it takes to remove some files.

    Args:
        held: What to remove: path, device and inode of each.
    """

    def __init__(self, held: Sequence[tuple[str, int, int]]) -> None:
        owner, self._lifeline = owner_descriptor()
        listing = memory_file(json.dumps(held))
        self._socket, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        fds = [owner, listing, its.fileno()]
        try:
            module = "ipybox.sandbox.placeholder_keeper"
            command = bootstrap.command(sys.executable, module, *(str(fd) for fd in fds))
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                pass_fds=fds,
                start_new_session=True,
            )
        finally:
            os.close(owner)
            os.close(listing)
            its.close()

    def wait_for(self, pidfd: int) -> None:
        """Has it wait for the end of a process as well, once this one is gone; the descriptor stays the caller's."""
        with suppress(OSError):  # it is gone, which nobody but its user can have done
            socket.send_fds(self._socket, [b"pidfd"], [pidfd])

    def let_go(self) -> None:
        """Closes our ends of it, in a fork."""
        self._socket.close()
        if self._lifeline is not None:
            os.close(self._lifeline)

    def end(self) -> None:
        """Ends it: there is nothing to remove any more, or somebody else does it."""
        self._process.kill()
        self._process.wait()
        self._socket.close()
        if self._lifeline is not None:
            os.close(self._lifeline)


_living: weakref.WeakSet[KeptPlaceholders] = weakref.WeakSet()


def _let_go_in_fork() -> None:
    for placeholders in list(_living):
        placeholders.let_go()


os.register_at_fork(after_in_child=_let_go_in_fork)


def _wait_for_all(owner: int, told: socket.socket) -> None:
    """Returns when the owner is gone, and after it every process that it told of."""
    living: set[int] = set()
    while True:
        talking = [told.fileno()] if told.fileno() >= 0 else []
        readable, _, _ = select.select([*talking, *living], [], [])
        if talking and talking[0] in readable:
            packet, fds, _, _ = socket.recv_fds(told, 64, 1)
            living.update(fds)
            if not packet:  # all that it had to tell has been read, and there is nobody to tell more
                told.close()
        for pidfd in living.intersection(readable):
            living.discard(pidfd)
            os.close(pidfd)
        if told.fileno() < 0 and not living:
            select.select([owner], [], [])
            return


def main(arguments: Sequence[str]) -> None:
    """``OWNER-FD LIST-FD SOCKET-FD``: see above."""
    owner, listing, told = (int(argument) for argument in arguments)
    for signum in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(signum, signal.SIG_IGN)
    with os.fdopen(listing, encoding="utf-8") as file:
        held = json.loads(file.read())
    _wait_for_all(owner, socket.socket(fileno=told))
    remove_left([(path, device, inode) for path, device, inode in held])
