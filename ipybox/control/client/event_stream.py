"""Server-sent events, as bytes that come in parts of any size. No I/O. Floor: control."""

from __future__ import annotations

import json
from collections.abc import Iterator

from ipybox.control.client.decoding import UnexpectedAnswerError, decoded
from ipybox.control.client.models import Event

_MOST_BYTES = 256 * 1024**2


class EventParser:
    """Makes events of bytes. One for each connection."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._searched = 0
        self._data: list[bytes] = []
        self._held = 0

    def feed(self, part: bytes) -> Iterator[Event]:
        """Takes the next bytes, and gives the events that they complete.

        Raises:
            UnexpectedAnswerError: It is no event as an ipybox server writes them, or one of more than 256 MiB.
        """
        self._rest += part
        begin = 0
        while (end := self._rest.find(b"\n", max(begin, self._searched))) >= 0:
            line = bytes(self._rest[begin:end]).removesuffix(b"\r")
            begin = end + 1
            event = self._line(line)
            if event is not None:
                yield event
        del self._rest[:begin]
        self._searched = len(self._rest)
        if self._held + self._searched > _MOST_BYTES:
            raise UnexpectedAnswerError("an event is larger than 256 MiB")

    def _line(self, line: bytes) -> Event | None:
        if line:
            # Number and kind are in the data as well; comments keep the line open.
            name, _, value = line.partition(b":")
            if name == b"data":
                value = value.removeprefix(b" ")
                self._held += len(value)
                self._data.append(value)
            return None
        if not self._data:
            return None
        text, self._data, self._held = b"\n".join(self._data), [], 0
        try:
            said = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise UnexpectedAnswerError(f"an event is no JSON: {error}") from None
        return decoded(Event, said, "event")
