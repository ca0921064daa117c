"""Removes placeholders whose owner was killed. Linux only. Floor: sandbox.

Run as ``bootstrap.py ipybox.sandbox.placeholder_keeper OWNER-FD SOCKET-FD`` in a session of its own, by who is about
to make placeholders in a process that anybody may kill, and told of each as soon as it is there. It waits for the
owner's end, and then for the end of what the placeholders are in the way of, as that must not find them gone. An owner
that can clean up does so and ends the keeper.
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
from ipybox.process.descriptors import is_readable, owner_descriptor
from ipybox.process.liveness import pid_of
from ipybox.sandbox.placeholders import Placeholders, remove_left

MOST = 200
"""Each takes a descriptor of the owner's, who may have but 1024 of them for all that it does."""
_PACKET = 65536
"""More than the longest path takes, however it is written."""


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
        """Makes those that are not there."""
        wanted = [path for path in dict.fromkeys(paths) if path not in self._held]
        if len(self._held) + len(wanted) > MOST:
            raise PolicyError(
                "writable_paths",
                f"they hold more than {MOST} names that have to be guarded",
                "name smaller directories",
            )
        for path in wanted:
            keeper = self._kept()  # it is there before, so that nobody has to start it when they are
            super().make([path])
            self._tell(keeper, path)

    def join(self, paths: Iterable[str]) -> None:
        """Holds those that somebody else has made as well, who may be killed before us."""
        before = set(self._held)
        super().join(paths)
        for path in [path for path in self._held if path not in before]:
            self._tell(self._kept(), path)

    def _kept(self) -> _Keeper:
        if self._keeper is None:
            self._keeper = _Keeper()
        return self._keeper

    def _tell(self, keeper: _Keeper, path: str) -> None:
        if path in self._held:
            status = os.fstat(self._held[path])
            keeper.hold(path, status.st_dev, status.st_ino)

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
    """A process that outlives this one, for as long as it takes to remove some files."""

    def __init__(self) -> None:
        owner, self._lifeline = owner_descriptor()
        self._socket, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        fds = [owner, its.fileno()]
        try:
            module = "ipybox.sandbox.placeholder_keeper"
            self._process = subprocess.Popen(
                bootstrap.command(sys.executable, module, *(str(fd) for fd in fds)),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                pass_fds=fds,
                start_new_session=True,
            )
        except BaseException:
            self.let_go()
            raise
        finally:
            os.close(owner)
            its.close()

    def hold(self, path: str, device: int, inode: int) -> None:
        """Tells it of a file that is there now."""
        with suppress(OSError):  # it is gone, which nobody but its user can have done
            self._socket.send(json.dumps([path, device, inode]).encode())

    def wait_for(self, pidfd: int) -> None:
        """Has it wait for the end of a process as well, once this one is gone; the descriptor stays the caller's."""
        with suppress(OSError):  # it is gone, which nobody but its user can have done
            socket.send_fds(self._socket, [b"null"], [pidfd])

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


def _wait_for_all(owner: int, told: socket.socket) -> list[tuple[str, int, int]]:
    """Returns when the owner is gone, and after it every process that it told of; says what to remove."""
    living: set[int] = set()
    held: list[tuple[str, int, int]] = []
    while True:
        talking = [told.fileno()] if told.fileno() >= 0 else []
        readable, _, _ = select.select([*talking, *living], [], [])
        if talking and talking[0] in readable:
            packet, fds, _, _ = socket.recv_fds(told, _PACKET, 1)
            for pidfd in fds:
                living.add(pidfd) if _is_news(pidfd, living) else os.close(pidfd)
            if not packet:  # all that it had to tell has been read, and there is nobody to tell more
                told.close()
            elif (file := json.loads(packet)) is not None:
                path, device, inode = file
                held.append((path, device, inode))
        for pidfd in living.intersection(readable):
            living.discard(pidfd)
            os.close(pidfd)
        if told.fileno() < 0 and not living:
            select.select([owner], [], [])
            return held


def _is_news(pidfd: int, living: Iterable[int]) -> bool:
    """Whether nobody waits for that process yet. Some are told of twice; what has not ended keeps its pid."""
    return not is_readable(pidfd) and all(is_readable(each) or pid_of(each) != pid_of(pidfd) for each in living)


def main(arguments: Sequence[str]) -> None:
    """``OWNER-FD SOCKET-FD``: see above."""
    owner, told = (int(argument) for argument in arguments)
    for signum in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(signum, signal.SIG_IGN)
    remove_left(_wait_for_all(owner, socket.socket(fileno=told)))
