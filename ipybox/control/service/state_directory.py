"""The directory in which a server keeps what it must find again. Floor: control."""

from __future__ import annotations

import fcntl
import os
import re
import secrets
from pathlib import Path
from types import TracebackType
from typing import Self

from ipybox.control.errors import ServerSettingsError, StateInUseError

_NODE = re.compile(r"[!-~]{1,100}")


class StateDirectory:
    """Makes it, and holds it for one server; the lock goes with the process, however that ends.

    Attributes:
        workspaces: Directory of sessions' files.
        packages: Directory of templates' packages.
        root: Directory that has both, and nothing that sandboxed code must not see.
    """

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self.root = self._path / "sandboxes"
        self.workspaces = self.root / "sessions"
        self.packages = self.root / "templates"
        self._lock = -1

    @property
    def node(self) -> str:
        """A name for this server that stays the same as long as the directory does."""
        return (self._path / "node").read_text(encoding="ascii").strip()

    def __enter__(self) -> Self:
        try:
            self._path.mkdir(mode=0o700, parents=True, exist_ok=True)
            status = os.stat(self._path)
            if status.st_uid != os.geteuid():
                raise ServerSettingsError("state_dir", f"{self._path} belongs to user {status.st_uid}, not to this one")
            if status.st_mode & 0o022:
                raise ServerSettingsError("state_dir", f"others may write to {self._path}; chmod go-w it")
            self._lock = os.open(self._path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise StateInUseError(str(self._path)) from None
            for each in (self.root, self.workspaces, self.packages):
                each.mkdir(mode=0o755, exist_ok=True)
            name = self._path / "node"
            if not name.exists():
                temporary = self._path / "node.new"
                temporary.write_text(f"{os.uname().nodename[:40]}-{secrets.token_hex(4)}\n", encoding="ascii")
                temporary.rename(name)
            elif not _NODE.fullmatch(name.read_text(encoding="ascii", errors="replace").strip()):
                raise ServerSettingsError("state_dir", f"{name} has to hold the name of a server: a word")
        except OSError as error:
            self._close()
            raise ServerSettingsError("state_dir", f"{self._path} can't be used: {error.strerror}") from error
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def _close(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1
