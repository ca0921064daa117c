"""The server name that a TLS client asks for, read from the first bytes that it sends. Floor: sandbox.

No I/O. Strict: what looks like TLS but does not begin with one well-formed ClientHello is refused, since a lenient
server might see another name in it than we do. With encrypted ClientHello the outer name is what counts.
"""

from __future__ import annotations

LARGEST_HELLO = 64 * 1024
"""Bytes that a ClientHello may take, record headers included."""

_HANDSHAKE = 0x16
_RECORD_TYPES = range(0x14, 0x19)
_LARGEST_RECORD = 16384 + 2048
_CLIENT_HELLO = 1
_SERVER_NAME = 0
_HOST_NAME = 0


class HelloError(ValueError):
    """Bytes that look like TLS, but hold no well-formed ClientHello."""


class HelloReader:
    """Takes the first bytes of a client, in pieces of any size, until it is clear which server name they ask for.

    Attributes:
        is_tls: Whether the client speaks TLS; None while that is open.
        server_name: The name in the ClientHello as it was sent; None without one.
    """

    def __init__(self) -> None:
        self.is_tls: bool | None = None
        self.server_name: bytes | None = None
        self._size = 0
        self._records = bytearray()
        self._message = bytearray()

    def feed(self, data: bytes) -> bool:
        """Take more bytes; True when no more are needed.

        Raises:
            HelloError: This looks like TLS, but is no well-formed ClientHello of a sensible size.
        """
        self._records += data
        self._size += len(data)
        if self.is_tls is None:
            self.is_tls = self._looks_like_tls()
        if not self.is_tls:
            return self.is_tls is False
        while (record := self._next_record()) is not None:
            self._message += record
            if self._message[0] != _CLIENT_HELLO:
                raise HelloError("TLS that does not begin with a ClientHello")
            if len(self._message) >= 4:
                size = 4 + int.from_bytes(self._message[1:4], "big")
                if len(self._message) > size:
                    raise HelloError("more than a ClientHello in its record")
                if len(self._message) == size:
                    self.server_name = _server_name(bytes(self._message[4:]))
                    return True
                if size > LARGEST_HELLO:
                    raise HelloError("ClientHello too large")
        if self._size > LARGEST_HELLO:
            raise HelloError("ClientHello too large")
        return False

    def _looks_like_tls(self) -> bool | None:
        if not self._records:
            return None
        if self._records[0] not in _RECORD_TYPES:
            return False
        if len(self._records) < 2:
            return None
        if self._records[1] == 3:
            return True
        if self._records[0] == _HANDSHAKE:
            raise HelloError("TLS record of an unknown version")
        return False

    def _next_record(self) -> bytes | None:
        if len(self._records) < 5:
            return None
        size = int.from_bytes(self._records[3:5], "big")
        # Alerts and the like before the hello: some servers skip them, and would then see a hello that we did not.
        if self._records[0] != _HANDSHAKE or self._records[1] != 3:
            raise HelloError("TLS that does not begin with a ClientHello")
        if not 0 < size <= _LARGEST_RECORD:
            raise HelloError("TLS record of an impossible size")
        if len(self._records) < 5 + size:
            return None
        record = bytes(self._records[5 : 5 + size])
        del self._records[: 5 + size]
        return record


class _Fields:
    """Reads fields off the front of a message."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def take(self, size: int) -> bytes:
        taken = self._data[self._at : self._at + size]
        if len(taken) != size:
            raise HelloError("malformed ClientHello")
        self._at += size
        return taken

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def vector(self, length_size: int) -> bytes:
        return self.take(self.number(length_size))


def _server_name(hello: bytes) -> bytes | None:
    fields = _Fields(hello)
    fields.take(2 + 32)  # version, random
    session = fields.vector(1)
    ciphers = fields.vector(2)
    compressions = fields.vector(1)
    if len(session) > 32 or not ciphers or len(ciphers) % 2 or not compressions:
        raise HelloError("malformed ClientHello")
    if not fields:
        return None
    extensions = _Fields(fields.vector(2))
    if fields:
        raise HelloError("malformed ClientHello")
    name: bytes | None = None
    while extensions:
        kind, content = extensions.number(2), extensions.vector(2)
        if kind == _SERVER_NAME:
            if name is not None:
                raise HelloError("two server names in a ClientHello")
            name = _only_name(content)
    return name


def _only_name(content: bytes) -> bytes:
    outer = _Fields(content)
    names = _Fields(outer.vector(2))
    kind, name = names.number(1), names.vector(2)
    if outer or names or kind != _HOST_NAME or not name:
        raise HelloError("malformed server name in a ClientHello")
    return name
