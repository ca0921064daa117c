"""Jupyter messages on the websocket. Pure. Floor: kernel_mgr.

A message travels in the framing of ``v1.kernel.websocket.jupyter.org``: little-endian 64-bit offsets, the channel's
name, then header, parent header, metadata, content and buffers as they are on ZMQ. Our own subprotocol puts the
message's number in the kernel's journal in front, as a little-endian 64-bit integer, so that a client can say after a
broken connection what it has got. From the client to the gateway there is no number.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

SUBPROTOCOL = "v1.kernel.websocket.ipybox"
PROTOCOL_VERSION = "5.4"
METADATA_KEY = "ipybox"
"""Where a message's metadata keeps what is ours."""
CURSOR_HEADER = "X-Ipybox-Cursor"
"""Header of the handshake's answer: number of the first message that the connection gets."""
GAP = "ipybox_gap"
"""Type of the message that takes the place of messages which left the journal."""
OVER = "ipybox_over"
"""Type of the message that says that an execution is over, to a client that may have missed its end."""
EGRESS = "ipybox_egress"
"""Type of the message that says what the egress proxy decided about a host."""
HUB_SESSION = "ipybox-hub"
"""Session of the messages that the gateway itself sends."""
_WORD = 8


@dataclass(slots=True)
class Message:
    """One Jupyter message. ``sequence`` is its number in the kernel's journal, when it came from there."""

    channel: str
    header: dict[str, Any]
    parent: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    content: dict[str, Any] = field(default_factory=dict)
    buffers: list[bytes] = field(default_factory=list)
    sequence: int | None = None

    @property
    def id(self) -> str:
        """Id of this message."""
        return str(self.header.get("msg_id", ""))

    @property
    def type(self) -> str:
        """Such as ``stream`` or ``execute_reply``."""
        return str(self.header.get("msg_type", ""))

    @property
    def parent_id(self) -> str:
        """Id of the request that this answers; empty when it answers none."""
        return str(self.parent.get("msg_id", ""))

    def parts(self) -> list[bytes]:
        """Header, parent header, metadata, content and buffers as bytes."""
        return [pack(self.header), pack(self.parent), pack(self.metadata), pack(self.content), *self.buffers]


def request(
    channel: str,
    type: str,
    content: dict[str, Any],
    *,
    session: str,
    message_id: str | None = None,
    parent: dict[str, Any] | None = None,
    metadata: dict[str, Any] | None = None,
) -> Message:
    """A new message. ``message_id`` defaults to a random one."""
    header = {
        "msg_id": message_id or uuid4().hex,
        "msg_type": type,
        "session": session,
        "username": "",
        "date": datetime.now(UTC).isoformat(),
        "version": PROTOCOL_VERSION,
    }
    return Message(channel, header, parent or {}, metadata or {}, content)


def pack(value: Any) -> bytes:
    """JSON as UTF-8, with lone surrogates escaped."""
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        return json.dumps(value, separators=(",", ":")).encode()


def unpack(data: bytes | memoryview) -> dict[str, Any]:
    """Reads JSON; bytes that are no UTF-8 become replacement characters, as elsewhere in Jupyter."""
    raw = bytes(data)
    try:
        value = json.loads(raw)
    except UnicodeDecodeError:
        value = json.loads(raw.decode("utf-8", "replace"))
    except RecursionError:
        raise ValueError("a part of a Jupyter message is nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError("a part of a Jupyter message must be a JSON object")
    return value


def frame(channel: str, parts: Sequence[bytes | memoryview]) -> bytes:
    """Puts a message into its websocket frame, without a journal number."""
    name = channel.encode()
    offsets = [_WORD * (len(parts) + 3)]
    offsets.append(offsets[-1] + len(name))
    for part in parts:
        offsets.append(offsets[-1] + len(part))
    head = b"".join(number.to_bytes(_WORD, "little") for number in [len(offsets), *offsets])
    return b"".join([head, name, *parts])


def unframe(data: bytes | memoryview) -> tuple[str, list[memoryview]]:
    """Takes a websocket frame without a journal number apart. Raises ``ValueError`` for anything else."""
    view = memoryview(data)
    count = int.from_bytes(view[:_WORD], "little")
    if count < 6 or len(view) < _WORD * (count + 1):
        raise ValueError("not a framed Jupyter message")
    offsets = [int.from_bytes(view[_WORD * i : _WORD * (i + 1)], "little") for i in range(1, count + 1)]
    if offsets != sorted(offsets) or offsets[-1] != len(view) or offsets[0] != _WORD * (count + 1):
        raise ValueError("not a framed Jupyter message: its offsets don't fit")
    channel = bytes(view[offsets[0] : offsets[1]]).decode("ascii")
    return channel, [view[offsets[i] : offsets[i + 1]] for i in range(1, count - 1)]


def numbered(sequence: int, framed: bytes) -> bytes:
    """Puts the journal number in front of a frame."""
    return sequence.to_bytes(_WORD, "little") + framed


def sequence_of(data: bytes) -> int:
    """The journal number in front of a frame. Raises ``ValueError`` when there is none."""
    if len(data) < _WORD:
        raise ValueError("too short for a journal number")
    return int.from_bytes(data[:_WORD], "little")


def decode(data: bytes) -> Message:
    """Reads what a gateway sent in our subprotocol. Raises ``ValueError`` for anything else."""
    sequence = sequence_of(data)
    channel, parts = unframe(memoryview(data)[_WORD:])
    header, parent, metadata, content = (unpack(part) for part in parts[:4])
    return Message(channel, header, parent, metadata, content, [bytes(part) for part in parts[4:]], sequence)
