"""What a command writes: what is kept of it, and how it becomes text. Free of I/O. Floor: command."""

from __future__ import annotations

import codecs

_LONGEST_CHARACTER = 4


class Tail:
    """The last bytes of a stream.

    Args:
        cap: How many at most. Where the cut would go through a character of UTF-8, what is left of that is dropped.
    """

    def __init__(self, cap: int) -> None:
        self._cap = cap
        self._data = bytearray()
        self.truncated = False

    def feed(self, data: bytes) -> None:
        """Takes what comes next."""
        self._data += data[-self._cap :]
        self.truncated = self.truncated or len(self._data) > self._cap or len(data) > self._cap
        if len(self._data) > 2 * self._cap:  # not at each chunk, as all that is kept moves
            del self._data[: -self._cap]

    def value(self) -> bytes:
        """What is kept."""
        data = bytes(self._data[-self._cap :])
        return data[_rest_of_character(data) :] if self.truncated else data


def _rest_of_character(data: bytes) -> int:
    """How many bytes at the beginning belong to a character that began before."""
    for index, byte in enumerate(data[:_LONGEST_CHARACTER]):
        if byte & 0xC0 != 0x80:
            return index
    return 0  # as many as that are in no character: it is no UTF-8, and nothing is dropped


class TextChunks:
    """Bytes as they come to text, in which no character is cut. What is no UTF-8 becomes U+FFFD."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, data: bytes, *, final: bool = False) -> str:
        """The text that is complete by now."""
        return self._decoder.decode(data, final)
