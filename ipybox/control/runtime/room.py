"""Whether a sandbox takes more of the host's disk than it may. Floor: control."""

from __future__ import annotations

from pathlib import Path

from ipybox.control.inside.places import PACKAGES, WORKSPACE
from ipybox.control.runtime import disk, open_files

_SENDING_LOOKS = 6
"""Looks at which descriptors were on their way through a socket, so that they are being kept there."""


class Room:
    """Looks at a directory that is mounted in a sandbox, and at what processes keep of it.

    Args:
        directory: Which.
        limit: Bytes that it may take.
    """

    def __init__(self, directory: Path, limit: int) -> None:
        self._directory, self._limit = directory, limit
        self._sending = 0

    def problem(self, init_pid: int | None, times: int = 1) -> str | None:
        """What is wrong with the room that is taken; None when nothing is. Blocks; one call at a time.

        Args:
            init_pid: Pid 1 of the sandbox, as this machine counts; None where there is none.
            times: How many times as much may be taken.
        """
        problem, is_sending = self._look(init_pid, times * self._limit)
        self._sending = self._sending + 1 if is_sending else 0
        if problem is None and self._sending >= _SENDING_LOOKS:
            return "files are kept on their way through a socket, so the room that they take can't be measured"
        return problem

    def _look(self, init_pid: int | None, limit: int) -> tuple[str | None, bool]:
        try:
            use = disk.measure(self._directory, limit)
        except OSError as error:
            return f"the workspace can't be measured: {error.strerror}", False
        if use.problem is not None or init_pid is None:
            return use.problem, False
        try:
            unnamed = open_files.unnamed(init_pid, use.device, (WORKSPACE, PACKAGES))
        except open_files.UnseenFilesError as error:
            return str(error), False
        return disk.too_large(limit) if use.bytes + unnamed.bytes > limit else None, unnamed.is_sending
