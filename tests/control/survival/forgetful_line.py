"""A line to PostgreSQL that breaks at the worst moment: a commit is made, and nobody is told."""

from __future__ import annotations

import random
import socket
import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

_NAME = ".s.PGSQL.5432"
_COMMIT = b"COMMIT"


class ForgetfulLine:
    """Stands before a server on a Unix socket. A context manager.

    Args:
        directory: Where its own socket is made.
        server: Directory of the server's socket.
        seed: Decides which answers are lost.

    Attributes:
        share: Which part of the answers to commits is lost, from 0 to 1.
        lost: How many were.
    """

    def __init__(self, directory: Path, server: Path, seed: int = 0) -> None:
        self.directory, self._server = directory, server
        self._random = random.Random(seed)
        self._listener = socket.socket(socket.AF_UNIX)
        self._threads: list[threading.Thread] = []
        self._open: set[socket.socket] = set()
        self.share = 0.0
        self.lost = 0

    def __enter__(self) -> Self:
        self._listener.bind(str(self.directory / _NAME))
        self._listener.listen(64)
        self._start(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for each in (self._listener, *self._open):
            _break(each)
        for thread in self._threads:
            thread.join(30)
        for each in (self._listener, *self._open):
            each.close()

    def _start(self, work: object, *args: object) -> None:
        thread = threading.Thread(target=work, args=args)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.socket(socket.AF_UNIX)
            try:
                far.connect(str(self._server / _NAME))
            except OSError:
                near.close()
                far.close()
                continue
            self._open |= {near, far}
            is_lost = threading.Event()
            self._start(self._requests, near, far, is_lost)
            self._start(self._answers, far, near, is_lost)

    def _requests(self, near: socket.socket, far: socket.socket, is_lost: threading.Event) -> None:
        with suppress(OSError):
            while data := near.recv(65536):
                if _COMMIT in data and self._random.random() < self.share:
                    is_lost.set()
                far.sendall(data)
        _break(far)

    def _answers(self, far: socket.socket, near: socket.socket, is_lost: threading.Event) -> None:
        with suppress(OSError):
            while data := far.recv(65536):
                if is_lost.is_set():  # the server has answered, so it is done
                    self.lost += 1
                    break
                near.sendall(data)
        _break(near)


def _break(each: socket.socket) -> None:
    with suppress(OSError):
        each.shutdown(socket.SHUT_RDWR)
