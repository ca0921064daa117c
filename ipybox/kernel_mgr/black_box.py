"""What is left of a dead kernel's output, as its gateway holds it. Floor: kernel_mgr."""

from __future__ import annotations

import codecs
import os
import tempfile
from collections.abc import Mapping
from typing import Any

from ipybox.kernel_mgr.flight_recorder import SIZE, STREAMS, unsent

OWN_KERNEL = "ipybox"
"""Key in a kernelspec's metadata: this kernel knows what to do with a black box."""


class BlackBox:
    """The pipes behind a kernel's descriptors 1 and 2, and its flight recorder.

    The kernel reads its pipes itself, because only it knows which execution wrote what. We hold their read ends as
    well, and look into them only when it is gone.
    """

    def __init__(self) -> None:
        self._read_ends: list[int] = []
        self._write_ends: list[int] = []
        for _ in STREAMS:
            read, write = os.pipe()
            self._read_ends.append(read)
            self._write_ends.append(write)
        self._memory = _shared_memory()

    @staticmethod
    def is_for(kernel_spec: Any) -> bool:
        """Whether a kernel takes a black box."""
        return bool(getattr(kernel_spec, "metadata", {}).get(OWN_KERNEL))

    @property
    def pipes(self) -> list[tuple[int, int]]:
        """Read and write end for each stream."""
        return list(zip(self._read_ends, self._write_ends, strict=True))

    @property
    def memory(self) -> int:
        """Descriptor of the flight recorder's memory."""
        return self._memory

    def close_write_ends(self) -> None:
        """The kernel has them; ours would keep the pipes alive."""
        while self._write_ends:
            os.close(self._write_ends.pop())

    def recover(self, sent: Mapping[str, int]) -> list[tuple[str, str]]:
        """What was printed and not sent: stream and text. To be called once, when the kernel is gone."""
        found = []
        for index, stream in enumerate(STREAMS):
            text, gone = unsent(self._memory, index, sent.get(stream, 0))
            if gone:
                text = f"[{gone} characters were lost when the kernel died]\n{text}"
            text += self._rest_of_pipe(index)
            if text:
                found.append((stream, text))
        return found

    def close(self) -> None:
        """Lets go of everything."""
        self.close_write_ends()
        while self._read_ends:
            os.close(self._read_ends.pop())
        if self._memory >= 0:
            os.close(self._memory)
            self._memory = -1

    def _rest_of_pipe(self, index: int) -> str:
        fd = self._read_ends[index]
        os.set_blocking(fd, False)
        decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
        text = ""
        try:
            while data := os.read(fd, 65536):
                text += decoder.decode(data)
        except BlockingIOError:
            pass  # somebody still holds the write end
        return text + decoder.decode(b"", True)


def _shared_memory() -> int:
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("ipybox-output", os.MFD_CLOEXEC)
    else:
        with tempfile.TemporaryFile() as file:
            fd = os.dup(file.fileno())
    os.ftruncate(fd, SIZE)
    return fd
