"""Cut the middle out of long text, count what was dropped, and keep all of it in a file. Floor: base."""

from __future__ import annotations

import os
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from ipybox.paths import PinnedDirectory, random_name


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputLimit:
    """How much text a result may carry, for people who feed models.

    The beginning says what ran and the end says how it went, so both are kept and the middle is cut.

    Attributes:
        head: Characters kept from the beginning.
        tail: Characters kept from the end.
        directory: Where the file with all of the text goes when something is cut. Default: the client's
            ``images_dir``. The files belong to the caller.
    """

    head: int = 2_000
    tail: int = 3_000
    directory: Path | None = None

    def __post_init__(self) -> None:
        if self.directory is not None and not isinstance(self.directory, os.PathLike):
            raise TypeError(f"directory must be a Path, got {self.directory!r}")
        for name in ("head", "tail"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool):
                raise TypeError(f"{name} must be an int (characters), got {value!r}")
            if value < 0:
                raise ValueError(f"{name} must not be negative, got {value}")


class TextCollector:
    """Gathers text, whole or under a limit.

    Args:
        limit: None keeps everything.
        directory: Where all of the text goes as soon as something is cut; None keeps no file.
    """

    def __init__(self, limit: OutputLimit | None = None, directory: PinnedDirectory | None = None) -> None:
        self._limit = limit
        self._directory = directory
        self._head: list[str] = []
        self._tail: deque[str] = deque()
        self._total = 0
        self._head_size = 0
        self._tail_size = 0
        self._file: int | None = None
        self._no_file = ""
        self.path: Path | None = None

    @property
    def total(self) -> int:
        """Characters that were appended."""
        return self._total

    @property
    def dropped(self) -> int:
        """Characters that :meth:`text` leaves out."""
        if self._limit is None:
            return 0
        return max(0, self._total - self._limit.head - self._limit.tail)

    def append(self, text: str) -> None:
        """Adds text."""
        if not text:
            return
        self._total += len(text)
        if self._limit is None:
            self._head.append(text)
            return
        if self._directory is not None and self.dropped:
            self._spill(text)
        room = self._limit.head - self._head_size
        if room > 0:
            self._head.append(text[:room])
            self._head_size += min(room, len(text))
            text = text[room:]
        if text:
            self._tail.append(text)
            self._tail_size += len(text)
            self._trim_tail()

    def text(self) -> str:
        """What was gathered; where something was cut, a line says how much and where all of it is."""
        if self._limit is None:
            if len(self._head) > 1:
                self._head = ["".join(self._head)]
            return self._head[0] if self._head else ""
        head, tail = "".join(self._head), "".join(self._tail)
        if not self.dropped:
            return head + tail
        tail = tail[len(tail) - self._limit.tail :]
        where = f"; all of it: {self.path}" if self.path is not None else self._no_file
        return f"{head}\n[... {self.dropped} characters dropped{where} ...]\n{tail}"

    def close(self) -> None:
        """Finishes the file, if there is one."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _trim_tail(self) -> None:
        assert self._limit is not None
        while self._tail and self._tail_size - len(self._tail[0]) >= self._limit.tail:
            self._tail_size -= len(self._tail.popleft())
        if self._tail_size > 2 * self._limit.tail + 4096:
            kept = "".join(self._tail)
            kept = kept[len(kept) - self._limit.tail :]
            self._tail = deque([kept])
            self._tail_size = len(kept)

    def _spill(self, text: str) -> None:
        """Adds text to the file; a file that can't hold it, on a full disk say, is removed and that is said."""
        assert self._directory is not None
        try:
            if self._file is None:
                name = random_name(".txt")
                self._file = self._directory.create(name)
                self.path = self._directory.path / name
                text = "".join(self._head) + "".join(self._tail) + text
            data = memoryview(text.encode("utf-8", "surrogatepass"))
            while data:
                data = data[os.write(self._file, data) :]
        except OSError as error:
            self._no_file = f"; it could not be kept in a file: {error.strerror or error}"
            self.close()
            if self.path is not None:
                self._directory.remove(self.path.name)
            self.path = self._directory = None
