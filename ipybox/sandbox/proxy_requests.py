"""What sandboxed programs say to the egress proxy: the head of an HTTP request, a SOCKS5 request. Floor: sandbox.

No I/O. Strict: whatever two programs could read in two ways is refused, since the server behind us is the second one.
"""

from __future__ import annotations

import re
from collections.abc import Generator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from ipybox.sandbox.hosts import Host
from ipybox.sandbox.http_framing import Body, ChunkedBody, SizedBody

LARGEST_HEAD = 64 * 1024
"""Bytes that the head of a request may take."""
MOST_HEADERS = 200
"""Headers that a request may have."""

_REQUEST_LINE = re.compile(rb"([A-Z][A-Z0-9_-]{0,31}) ([\x21-\x7e]+) HTTP/(1\.[01])")
_HEADER_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
_PORT = re.compile(r"[0-9]{1,5}")
_SIZE = re.compile(rb"[0-9]{1,18}")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_HOP_BY_HOP = frozenset(
    {b"connection", b"keep-alive", b"proxy-connection", b"proxy-authorization", b"proxy-authenticate", b"te"}
    | {b"upgrade", b"host"}
)
_FRAMING = frozenset({b"content-length", b"transfer-encoding", b"host"})


class RequestError(ValueError):
    """A request that is refused for how it is written, whatever it asks for.

    Attributes:
        status: The HTTP status to answer with.
    """

    def __init__(self, reason: str, status: int = 400) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """The head of a request to the proxy.

    Attributes:
        method: ``CONNECT`` or what is to be passed on.
        host: The host as it was written; not checked yet, :func:`ipybox.sandbox.hosts.parse_host` does that.
        port: The port, 1 to 65535.
        version: ``1.0`` or ``1.1``.
        target: Path and query for the server; empty for ``CONNECT``.
        headers: What is passed on, without ``Host`` and what was meant for the proxy.
        chunked: Whether the body comes in chunks.
        size: Size of the body in bytes, where the request says so.
        websocket: Whether it asks for an upgrade to a websocket.
    """

    method: str
    host: str
    port: int
    version: str
    target: str = ""
    headers: tuple[tuple[bytes, bytes], ...] = ()
    chunked: bool = False
    size: int | None = None
    websocket: bool = False

    @property
    def is_tunnel(self) -> bool:
        """Whether it is a ``CONNECT``."""
        return self.method == "CONNECT"

    def body(self) -> Body:
        """What tells where the body of this request ends."""
        return ChunkedBody() if self.chunked else SizedBody(self.size or 0)

    def head_for(self, host: Host, *, proxy_authorization: str | None = None, through_proxy: bool = False) -> bytes:
        """The head that goes to the server, whose ``Host`` is the host that was checked.

        With ``through_proxy`` the target is a whole URL, for a proxy in front of the server.
        """
        authority = str(host) if self.port == 80 else f"{host}:{self.port}"
        target = self.target
        if through_proxy:
            target = f"http://{authority}{'' if target == '*' else target}"
        lines = [f"{self.method} {target} HTTP/{self.version}".encode(), f"Host: {authority}".encode()]
        lines += [name + b": " + value for name, value in self.headers]
        if proxy_authorization:
            lines.append(f"Proxy-Authorization: {proxy_authorization}".encode())
        lines += [b"Connection: Upgrade", b"Upgrade: websocket"] if self.websocket else [b"Connection: close"]
        return b"\r\n".join([*lines, b"", b""])


def check_request_line(line: bytes) -> None:
    """Refuse early what can't become a request; ``line`` ends with its line break.

    Raises:
        RequestError: This is not how an HTTP/1 request begins.
    """
    if not _REQUEST_LINE.fullmatch(line.removesuffix(b"\r\n")):
        raise RequestError("malformed request line, or not HTTP/1")


def parse_request_head(head: bytes) -> HttpRequest:
    """Read the head of a request; it ends with the empty line.

    Raises:
        RequestError: It is malformed, ambiguous, or nothing for this proxy.
    """
    if len(head) > LARGEST_HEAD:
        raise RequestError("head too large", 431)
    if not head.endswith(b"\r\n\r\n"):
        raise RequestError("unfinished head")
    lines = head[:-4].split(b"\r\n")
    if any(b"\r" in line or b"\n" in line or b"\0" in line for line in lines):
        raise RequestError("bare line break or NUL in the head")
    if len(lines) - 1 > MOST_HEADERS:
        raise RequestError("too many headers", 431)
    match = _REQUEST_LINE.fullmatch(lines[0])
    if match is None:
        raise RequestError("malformed request line, or not HTTP/1")
    headers = [_parse_header(line) for line in lines[1:]]
    method, target, version = (part.decode("ascii") for part in match.groups())
    chunked, size = _framing(headers, version)
    if method == "CONNECT":
        if chunked or size:
            raise RequestError("CONNECT with a body")
        host, port = _split_authority(target, None)
        return HttpRequest(method, host, port, version)
    host, port, target = _parse_url(target, method)
    named = _connection_options(headers)
    websocket = b"upgrade" in named and [v.lower() for k, v in headers if k.lower() == b"upgrade"] == [b"websocket"]
    if websocket and (chunked or size):
        raise RequestError("upgrade with a body")
    dropped = _HOP_BY_HOP | named
    kept = tuple((name, value) for name, value in headers if name.lower() not in dropped)
    return HttpRequest(method, host, port, version, target, kept, chunked, size, websocket)


def _parse_header(line: bytes) -> tuple[bytes, bytes]:
    if line[:1] in (b" ", b"\t"):
        raise RequestError("header folded over two lines")
    name, colon, value = line.partition(b":")
    if not colon or not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
        raise RequestError("malformed header")
    return name, value.strip(b" \t")


def _framing(headers: list[tuple[bytes, bytes]], version: str) -> tuple[bool, int | None]:
    values: dict[bytes, list[bytes]] = {name: [] for name in _FRAMING}
    for name, value in headers:
        if name.lower() in values:
            values[name.lower()].append(value)
    codings, sizes = values[b"transfer-encoding"], values[b"content-length"]
    if len(values[b"host"]) > 1:
        raise RequestError("more than one Host header")
    if codings and sizes:
        raise RequestError("both Transfer-Encoding and Content-Length")
    if codings and (version == "1.0" or [value.lower() for value in codings] != [b"chunked"]):
        raise RequestError("a Transfer-Encoding other than chunked")
    if len(sizes) > 1 or (sizes and not _SIZE.fullmatch(sizes[0])):
        raise RequestError("malformed Content-Length")
    return bool(codings), int(sizes[0]) if sizes else None


def _connection_options(headers: list[tuple[bytes, bytes]]) -> frozenset[bytes]:
    named = frozenset(
        option.strip().lower()
        for name, value in headers
        if name.lower() == b"connection"
        for option in value.split(b",")
    )
    if named & _FRAMING:  # would leave the server with another idea of where this request ends
        raise RequestError("Connection names a header that frames the request")
    return named


def _parse_url(url: str, method: str) -> tuple[str, int, str]:
    scheme = _SCHEME.match(url)
    if scheme is None:
        raise RequestError("this is a proxy; requests to it name a whole URL")
    if scheme[1].lower() == "https":
        raise RequestError("https:// goes through CONNECT")
    if scheme[1].lower() != "http" or not url[scheme.end() :].startswith("//"):
        raise RequestError("only http:// and CONNECT go through here")
    if "#" in url:
        raise RequestError("fragment in the URL")
    authority = re.split(r"[/?]", rest := url[scheme.end() + 2 :], maxsplit=1)[0]
    host, port = _split_authority(authority, 80)
    target = rest[len(authority) :]
    if not target:
        return host, port, "*" if method == "OPTIONS" else "/"
    return host, port, target if target.startswith("/") else "/" + target


def _split_authority(authority: str, default: int | None) -> tuple[str, int]:
    host, colon, port_text = authority.rpartition(":")
    if authority.endswith("]") or not colon:
        host, colon, port_text = authority, "", ""
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        raise RequestError("malformed host and port")
    if not colon and default is not None:
        return host, default
    if not _PORT.fullmatch(port_text) or not 1 <= int(port_text) <= 65535:
        raise RequestError("missing or malformed port")
    return host, int(port_text)


class SocksError(Exception):
    """A SOCKS5 conversation that ends here.

    Attributes:
        reply: What to send before closing.
    """

    def __init__(self, reason: str, reply: bytes) -> None:
        super().__init__(reason)
        self.reply = reply


SOCKS_NO_AUTHENTICATION = b"\x05\x00"
SOCKS_OK = 0
SOCKS_FAILED = 1
SOCKS_NOT_ALLOWED = 2
SOCKS_UNREACHABLE = 4
SOCKS_COMMAND_UNKNOWN = 7
SOCKS_ADDRESS_UNKNOWN = 8

_SOCKS_VERSION = 5
_SOCKS_CONNECT = 1


def socks_reply(code: int) -> bytes:
    """The reply to a SOCKS5 request. The address in it is all zeros: where we dial from is not the sandbox's."""
    return bytes([_SOCKS_VERSION, code, 0, 1]) + bytes(6)


def read_socks_greeting() -> Generator[int, bytes, None]:
    """Read a SOCKS5 greeting behind its version byte. Yields how many bytes it wants next.

    Raises:
        SocksError: The client insists on authentication.
    """
    (count,) = yield 1
    methods = (yield count) if count else b""
    if 0 not in methods:
        raise SocksError("no acceptable authentication", b"\x05\xff")


def read_socks_request() -> Generator[int, bytes, tuple[bytes, int]]:
    """Read a SOCKS5 request. Yields how many bytes it wants next; returns host and port, neither checked.

    Raises:
        SocksError: It is malformed, or not a CONNECT.
    """
    version, command, reserved, kind = yield 4
    if version != _SOCKS_VERSION or reserved != 0:
        raise SocksError("malformed SOCKS5 request", socks_reply(SOCKS_FAILED))
    if command != _SOCKS_CONNECT:
        raise SocksError("SOCKS5 command other than CONNECT", socks_reply(SOCKS_COMMAND_UNKNOWN))
    if kind == 1:
        host = str(IPv4Address((yield 4))).encode()
    elif kind == 4:
        host = b"[%s]" % str(IPv6Address((yield 16))).encode()
    elif kind == 3:
        (size,) = yield 1
        host = (yield size) if size else b""
    else:
        raise SocksError("unknown SOCKS5 address type", socks_reply(SOCKS_ADDRESS_UNKNOWN))
    return host, int.from_bytes((yield 2), "big")
