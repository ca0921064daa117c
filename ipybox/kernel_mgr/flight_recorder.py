"""The newest output of a kernel in memory that outlives it. Floor: kernel_mgr.

What a program has printed is still in its own memory when it is killed or crashes: in buffers of ours, in ZMQ's
queue. So each piece of text is also copied into a ring of shared memory, and each message says up to which character
it carries the stream. When the kernel is gone, the gateway takes what no message carried from the ring.

Both sides are here, because they must agree on the layout. The reader trusts nothing that it reads: the kernel's code
can write there what it likes, which gains it nothing, as it may print what it likes.
"""

from __future__ import annotations

import mmap
import os
from typing import Final

STREAMS: Final = ("stdout", "stderr")
RING_BYTES: Final = 1024 * 1024
_HEADER = 16
_STRIDE = _HEADER + RING_BYTES
SIZE: Final = _STRIDE * len(STREAMS)
"""Bytes that the shared memory must have."""


class FlightRecorder:
    """The kernel's side: notes text as it is printed.

    Args:
        fd: Shared memory of :data:`SIZE` bytes, which stays the caller's.
    """

    def __init__(self, fd: int) -> None:
        self._memory = mmap.mmap(fd, SIZE)
        self._characters = [0, 0]
        self._bytes = [0, 0]

    def note(self, stream: int, text: str) -> None:
        """Notes text of a stream, by its index in :data:`STREAMS`."""
        data = text[-RING_BYTES:].encode("utf-8", "surrogatepass")[-RING_BYTES:]
        memory = self._memory
        base = stream * _STRIDE
        start = self._bytes[stream] % RING_BYTES
        ring = base + _HEADER
        end = start + len(data)
        if end <= RING_BYTES:
            memory[ring + start : ring + end] = data
        else:
            split = RING_BYTES - start
            memory[ring + start : ring + RING_BYTES] = data[:split]
            memory[ring : ring + end - RING_BYTES] = data[split:]
        self._bytes[stream] += len(data)
        self._characters[stream] += len(text)
        memory[base : base + 8] = self._characters[stream].to_bytes(8, "little")
        memory[base + 8 : base + 16] = self._bytes[stream].to_bytes(8, "little")


def unsent(fd: int, stream: int, sent: int) -> tuple[str, int]:
    """The gateway's side: text of a stream after its first ``sent`` characters, as far as the ring holds it.

    Returns the text and how many characters before it are gone.
    """
    memory = os.pread(fd, _STRIDE, stream * _STRIDE)
    if len(memory) < _STRIDE:
        return "", 0
    characters = int.from_bytes(memory[:8], "little")
    size = int.from_bytes(memory[8:16], "little")
    missing = characters - sent
    if missing <= 0:
        return "", 0
    ring = memory[_HEADER:]
    start = size % RING_BYTES
    data = ring[:size] if size <= RING_BYTES else ring[start:] + ring[:start]
    # The oldest character may have lost its first bytes, and lone surrogates are not UTF-8.
    while data and data[0] & 0xC0 == 0x80:
        data = data[1:]
    text = data.decode("utf-8", "replace")[-missing:]
    return text, missing - len(text) if missing < 2**40 else 0
