"""What the proxy's parsers take, and what they refuse: HTTP heads and bodies, SOCKS5, TLS hellos, parent proxies."""

from __future__ import annotations

import ssl
from collections.abc import Generator
from typing import TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipybox.errors import PolicyError
from ipybox.sandbox.hosts import parse_host
from ipybox.sandbox.http_framing import ChunkedBody, FramingError, parse_response_head
from ipybox.sandbox.parent_proxy import ParentProxies, ParentProxy
from ipybox.sandbox.proxy_requests import (
    HttpRequest,
    RequestError,
    SocksError,
    parse_request_head,
    read_socks_greeting,
    read_socks_request,
)
from ipybox.sandbox.tls_hello import HelloError, HelloReader

T = TypeVar("T")


def parse(line: str, *headers: str) -> HttpRequest:
    return parse_request_head("\r\n".join([line, *headers, "", ""]).encode("latin-1"))


def get(*headers: str) -> HttpRequest:
    return parse("GET http://a.test/p?q HTTP/1.1", *headers)


# ---- HTTP requests ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "host", "port", "target"),
    [
        ("CONNECT a.test:443 HTTP/1.1", "a.test", 443, ""),
        ("CONNECT [::1]:443 HTTP/1.0", "[::1]", 443, ""),
        ("GET http://a.test/p?q HTTP/1.1", "a.test", 80, "/p?q"),
        ("GET HTTP://a.test HTTP/1.1", "a.test", 80, "/"),
        ("GET http://a.test?q HTTP/1.1", "a.test", 80, "/?q"),
        ("GET http://a.test:8080/ HTTP/1.1", "a.test", 8080, "/"),
        ("GET http://[::1]/ HTTP/1.1", "[::1]", 80, "/"),
        ("GET http://[::1]:81/ HTTP/1.1", "[::1]", 81, "/"),
        ("OPTIONS http://a.test HTTP/1.1", "a.test", 80, "*"),
        ("GET http://a.test/http://b.test@c:99/ HTTP/1.1", "a.test", 80, "/http://b.test@c:99/"),
        ("GET http://user@a.test/ HTTP/1.1", "user@a.test", 80, "/"),
    ],
)
def test_targets_are_taken_apart(line: str, host: str, port: int, target: str) -> None:
    request = parse(line)
    assert (request.host, request.port, request.target) == (host, port, target)


@pytest.mark.parametrize(
    "line",
    [
        "CONNECT a.test HTTP/1.1",
        "CONNECT a.test: HTTP/1.1",
        "CONNECT a.test:0 HTTP/1.1",
        "CONNECT a.test:65536 HTTP/1.1",
        "CONNECT a.test:65979 HTTP/1.1",
        "CONNECT a.test:80abc HTTP/1.1",
        "CONNECT a.test:+80 HTTP/1.1",
        "CONNECT ::1:443 HTTP/1.1",
        "CONNECT [::1] HTTP/1.1",
        "CONNECT http://a.test/ HTTP/1.1",
        "GET http://a.test:/ HTTP/1.1",
        "GET http://a.test:80abc/ HTTP/1.1",
        "GET http://a.test:65979/ HTTP/1.1",
        "GET http:a.test/ HTTP/1.1",
        "GET http:/a.test/ HTTP/1.1",
        "GET http://a.test/#f HTTP/1.1",
        "GET https://a.test/ HTTP/1.1",
        "GET ftp://a.test/ HTTP/1.1",
        "GET file:///etc/passwd HTTP/1.1",
        "GET / HTTP/1.1",
        "GET //a.test/ HTTP/1.1",
        "GET http://a.test/",
        "GET http://a.test/ HTTP/0.9",
        "GET http://a.test/ HTTP/2.0",
        "PRI * HTTP/2.0",
        "GET  http://a.test/ HTTP/1.1",
        "GET http://a.test/ x HTTP/1.1",
        "GET http://a.test/\x7f HTTP/1.1",
        "GET http://b\xfccher.test/ HTTP/1.1",
        "get http://a.test/ HTTP/1.1",
        "GET http://a.test/\tHTTP/1.1",
    ],
)
def test_other_targets_are_refused(line: str) -> None:
    with pytest.raises(RequestError) as error:
        parse(line)
    assert error.value.status == 400


@pytest.mark.parametrize(
    "headers",
    [
        ("Content-Length: 1", "Transfer-Encoding: chunked"),
        ("Content-Length: 1", "Content-Length: 1"),
        ("Content-Length: 1, 1",),
        ("Content-Length: +1",),
        ("Content-Length: 0x1",),
        ("Content-Length:",),
        ("Transfer-Encoding: gzip, chunked",),
        ("Transfer-Encoding: chunked", "Transfer-Encoding: chunked"),
        ("Transfer-Encoding: xchunked",),
        ("Transfer-Encoding: identity",),
        ("Transfer-Encoding : chunked",),
        ("Transfer-Encoding\t: chunked",),
        ("Transfer-Encoding:\x0bchunked",),
        ("Host: a.test", "Host: b.test"),
        ("Host: a.test", "hOST: a.test"),
        (
            "X: a",
            " folded",
        ),
        ("X: a\0b",),
        ("X: a\nY: b",),
        ("X: a\rY: b",),
        ("X: a\x08",),
        ("no colon",),
        (": empty",),
        ("X Y: z",),
        ("Connection: content-length", "Content-Length: 1"),
        ("Connection: close, Transfer-Encoding", "Transfer-Encoding: chunked"),
        ("Connection: host",),
        ("Connection: Upgrade", "Upgrade: websocket", "Content-Length: 5"),
    ],
)
def test_ambiguous_heads_are_refused(headers: tuple[str, ...]) -> None:
    with pytest.raises(RequestError):
        get(*headers)


@pytest.mark.parametrize("headers", [("Content-Length: 1",), ("Transfer-Encoding: chunked",)])
def test_connect_has_no_body(headers: tuple[str, ...]) -> None:
    with pytest.raises(RequestError):
        parse("CONNECT a.test:443 HTTP/1.1", *headers)


def test_chunks_need_http_1_1() -> None:
    with pytest.raises(RequestError):
        parse("POST http://a.test/ HTTP/1.0", "Transfer-Encoding: chunked")


def test_heads_have_a_largest_size() -> None:
    get(*["X: y"] * 200)
    for headers in (["X: y"] * 201, ["X: " + "y" * 65536]):
        with pytest.raises(RequestError) as error:
            get(*headers)
        assert error.value.status == 431


@pytest.mark.parametrize("value", [" " * 60_000 + "\x01", "a" + " " * 60_000 + "\x01", "\t " * 30_000 + "\x7f"])
def test_no_header_takes_long_to_read(value: str) -> None:
    """Would run for minutes with a pattern that backtracks."""
    with pytest.raises(RequestError):
        get("X:" + value)


def test_the_server_sees_the_host_that_was_checked_and_nothing_meant_for_the_proxy() -> None:
    request = get(
        "Host: denied.test",
        "Proxy-Authorization: Basic eA==",
        "Proxy-Connection: keep-alive",
        "Connection: keep-alive, X-Drop",
        "Keep-Alive: 5",
        "X-Drop: 1",
        "TE: trailers",
        "Upgrade: h2c",
        "X-Keep:  2 ",
        "Content-Length: 3",
    )
    head = request.head_for(parse_host("A.test"))
    assert head == (b"GET /p?q HTTP/1.1\r\nHost: a.test\r\nX-Keep: 2\r\nContent-Length: 3\r\nConnection: close\r\n\r\n")


def test_the_port_is_named_unless_it_is_the_usual_one() -> None:
    request = parse("GET http://[::1]:8080/ HTTP/1.1")
    assert b"Host: [::1]:8080\r\n" in request.head_for(parse_host("[::1]"))


def test_websocket_upgrades_are_kept() -> None:
    request = get("Connection: keep-alive, Upgrade", "Upgrade: WebSocket", "Sec-WebSocket-Key: k")
    assert request.websocket
    assert request.head_for(parse_host("a.test")).endswith(
        b"Key: k\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    )


@settings(max_examples=500, deadline=None, database=None)
@given(st.binary(max_size=80), st.sampled_from([b"GET ", b"CONNECT ", b"GET http://a.test/ HTTP/1.1\r\n", b""]))
def test_no_bytes_make_the_parser_fail_in_another_way(data: bytes, start: bytes) -> None:
    try:
        parse_request_head(start + data + b"\r\n\r\n")
    except RequestError:
        pass


# ---- bodies and responses ---------------------------------------------------------------------------------------

CHUNKED = b"5;x=y\r\nhello\r\n0A\r\n0123456789\r\n0\r\nTrailer: x\r\n\r\n"


@pytest.mark.parametrize("step", [1, 2, 3, 7, 1000])
def test_the_end_of_a_chunked_body_is_found_in_any_pieces(step: int) -> None:
    body, taken = ChunkedBody(), 0
    data = CHUNKED + b"NEXT"
    for at in range(0, len(data), step):
        taken += body.feed(data[at : at + step])
    assert body.done
    assert taken == len(CHUNKED)


@pytest.mark.parametrize(
    "data",
    [
        b"5\nhello\r\n",
        b"5\r\nhelloX\r\n",
        b"5\r\nhello\n",
        b"-5\r\n",
        b"0x5\r\n",
        b" 5\r\n",
        b"\r\n",
        b"5;\x00\r\n",
        b"5;a\rb\r\n",
        b"f" * 16 + b"\r\n",
        b"5;" + b"x" * 10_000,
        b"0\r\nno colon\r\n",
        b"0\r\n" + b"X: y\r\n" * 20_000,
    ],
)
def test_malformed_chunks_are_refused(data: bytes) -> None:
    with pytest.raises(FramingError):
        ChunkedBody().feed(data)


@pytest.mark.parametrize(
    ("method", "head", "body"),
    [
        ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", "SizedBody"),
        ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", "done"),
        ("GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", "done"),
        ("GET", "HTTP/1.1 204\r\n\r\n", "done"),
        ("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n", "ChunkedBody"),
        ("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", "EndlessBody"),
        ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", "EndlessBody"),
        ("GET", "HTTP/1.0 200 OK\n\n", "EndlessBody"),
    ],
)
def test_the_end_of_a_response_is_known(method: str, head: str, body: str) -> None:
    response = parse_response_head(head.encode(), method=method)
    assert "done" if response.body.done else type(response.body).__name__ == body


def test_clients_are_told_that_the_connection_ends_whatever_the_server_says() -> None:
    response = parse_response_head(
        b"HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nKeep-Alive: timeout=5\r\nX: y\r\n\r\n", method="GET"
    )
    assert response.head == b"HTTP/1.1 200 OK\r\nX: y\r\nConnection: close\r\n\r\n"


@pytest.mark.parametrize("head", [b"hello\r\n\r\n", b"HTTP/2 200\r\n\r\n", b"HTTP/1.1 20\r\n\r\n", b"\r\n\r\n"])
def test_what_is_no_response_is_refused(head: bytes) -> None:
    with pytest.raises(FramingError):
        parse_response_head(head, method="GET")


# ---- SOCKS5 -----------------------------------------------------------------------------------------------------


def drive(reader: Generator[int, bytes, T], data: bytes) -> T:
    wanted = next(reader)
    while True:
        piece, data = data[:wanted], data[wanted:]
        assert len(piece) == wanted
        try:
            wanted = reader.send(piece)
        except StopIteration as end:
            assert data == b""
            result: T = end.value
            return result


@pytest.mark.parametrize(
    ("data", "host"),
    [
        (b"\x05\x01\x00\x03\x06a.test\x01\xbb", b"a.test"),
        (b"\x05\x01\x00\x01\x7f\x00\x00\x01\x01\xbb", b"127.0.0.1"),
        (b"\x05\x01\x00\x04" + bytes(15) + b"\x01\x01\xbb", b"[::1]"),
        (b"\x05\x01\x00\x03\x00\x01\xbb", b""),
        (b"\x05\x01\x00\x03\x03a\0b\x01\xbb", b"a\0b"),
    ],
)
def test_socks_requests_name_a_host(data: bytes, host: bytes) -> None:
    assert drive(read_socks_request(), data) == (host, 443)


@pytest.mark.parametrize(
    ("data", "code"),
    [(b"\x05\x02\x00\x01", 7), (b"\x05\x03\x00\x01", 7), (b"\x05\x01\x00\x09", 8), (b"\x04\x01\x00\x01", 1)],
)
def test_other_socks_requests_are_refused(data: bytes, code: int) -> None:
    with pytest.raises(SocksError) as error:
        drive(read_socks_request(), data)
    assert error.value.reply == bytes([5, code, 0, 1, 0, 0, 0, 0, 0, 0])


def test_socks_needs_no_password_and_takes_none() -> None:
    drive(read_socks_greeting(), b"\x02\x02\x00")
    for greeting in (b"\x01\x02", b"\x00"):
        with pytest.raises(SocksError) as error:
            drive(read_socks_greeting(), greeting)
        assert error.value.reply == b"\x05\xff"


# ---- TLS --------------------------------------------------------------------------------------------------------


def client_hello(server_name: str | None) -> bytes:
    """What Python's own TLS client sends."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname=server_name).do_handshake()
    return outgoing.read()


def in_records(hello: bytes, size: int) -> bytes:
    """The same hello, in TLS records of at most so many bytes."""
    message = hello[5:]
    pieces = [message[at : at + size] for at in range(0, len(message), size)]
    return b"".join(hello[:3] + len(piece).to_bytes(2, "big") + piece for piece in pieces)


@pytest.mark.parametrize("record", [1, 7, 100, 16384])
@pytest.mark.parametrize("segment", [1, 6, 1000])
@pytest.mark.parametrize("name", ["a.test", None])
def test_the_server_name_is_found_in_any_fragments(record: int, segment: int, name: str | None) -> None:
    data = in_records(client_hello(name), record)
    reader = HelloReader()
    done = [reader.feed(data[at : at + segment]) for at in range(0, len(data), segment)]
    assert done == [False] * (len(done) - 1) + [True]
    assert reader.is_tls
    assert reader.server_name == (name.encode() if name else None)


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1", b"SSH-2.0-x", b"\x00", b"\x15\x02", b"\x80\x2e\x01\x03\x01"])
def test_other_protocols_are_known_at_once(data: bytes) -> None:
    reader = HelloReader()
    assert reader.feed(data)
    assert reader.is_tls is False


def hello_with(extensions: bytes) -> bytes:
    body = b"\x03\x03" + bytes(32) + b"\x00" + b"\x00\x02\x13\x01" + b"\x01\x00"
    body += len(extensions).to_bytes(2, "big") + extensions
    message = b"\x01" + len(body).to_bytes(3, "big") + body
    return b"\x16\x03\x01" + len(message).to_bytes(2, "big") + message


def names(*entries: bytes, kind: int = 0) -> bytes:
    listed = b"".join(bytes([kind]) + len(entry).to_bytes(2, "big") + entry for entry in entries)
    content = len(listed).to_bytes(2, "big") + listed
    return b"\x00\x00" + len(content).to_bytes(2, "big") + content


def test_a_hello_made_by_hand_is_read() -> None:
    reader = HelloReader()
    assert reader.feed(hello_with(names(b"a.test")) + b"early data")
    assert reader.server_name == b"a.test"


@pytest.mark.parametrize(
    "data",
    [
        hello_with(names(b"a.test") + names(b"b.test")),
        hello_with(names(b"a.test", b"b.test")),
        hello_with(names()),
        hello_with(names(b"")),
        hello_with(names(b"a.test", kind=1)),
        hello_with(names(b"a.test")[:-1]),
        hello_with(b"\x00\x00\x00\x00"),
        hello_with(b"\x00"),
        b"\x15\x03\x01\x00\x02\x01\x5a" + hello_with(names(b"b.test")),
        b"\x14\x03\x03\x00\x01\x01" + hello_with(names(b"b.test")),
        b"\x16\x02\x01\x00\x05",
        b"\x16\x03\x01\x00\x00",
        b"\x16\x03\x01\xff\xff",
        b"\x16\x03\x01\x00\x01\x02",
        b"\x16\x03\x01\x00\x04\x01\xff\xff\xff",
        b"\x16\x03\x01\x00\x05\x01\x00\x00\x00\x00",
        b"\x16\x03\x01\x00\x04\x01\x00\x00\x00",
        b"\x16\x03\x01\x00\x04\x01\x00\x80\x00\x15\x03\x01\x00\x00",
        b"\x16\x03\x01\x00\x04\x01\x00\xff\x00" + b"\x16\x03\x01\x00\x01\x00" * 11_000,
    ],
)
def test_what_looks_like_tls_but_is_no_clear_hello_is_refused(data: bytes) -> None:
    with pytest.raises(HelloError):
        HelloReader().feed(data)


@settings(max_examples=500, deadline=None, database=None)
@given(st.binary(max_size=120), st.integers(0, 60))
def test_no_bytes_make_the_hello_reader_fail_in_another_way(data: bytes, keep: int) -> None:
    reader = HelloReader()
    try:
        reader.feed(hello_with(names(b"a.test"))[:keep] + data)
    except HelloError:
        pass


# ---- parent proxies ---------------------------------------------------------------------------------------------


def test_credentials_are_decoded_and_not_shown() -> None:
    proxy = ParentProxy.parse("http://us%40er:p%3Ass@proxy.test:3128/", "x")
    assert (proxy.host, proxy.port) == ("proxy.test", 3128)
    assert proxy.authorization == "Basic dXNAZXI6cDpzcw=="
    assert "dXNA" not in repr(proxy)


@pytest.mark.parametrize("url", ["https://p:1", "socks5://p:1", "http://", "http://p:99999", "http://s3cret:x@p:y"])
def test_other_parent_proxies_are_refused_without_repeating_them(url: str) -> None:
    with pytest.raises(PolicyError) as error:
        ParentProxy.parse(url, "HTTPS_PROXY")
    assert error.value.where == "HTTPS_PROXY"
    assert "s3cret" not in str(error.value)


@pytest.mark.parametrize(
    ("no_proxy", "host", "direct"),
    [
        ("", "a.test", False),
        ("*", "a.test", True),
        ("a.test", "a.test", True),
        ("a.test", "x.a.test", True),
        (".a.test", "x.a.test", True),
        ("*.a.test", "x.a.test", True),
        ("a.test", "xa.test", False),
        ("b.test, A.TEST", "a.test", True),
        ("a.test:443", "a.test", True),
        ("a.test:80", "a.test", False),
        ("10.0.0.0/8", "10.1.2.3", True),
        ("10.1.2.3", "10.1.2.3", True),
        ("::1", "::1", True),
        ("[::1]:443", "::1", True),
        ("10.0.0.0/8", "a.test", False),
        ("2.3", "10.1.2.3", False),
    ],
)
def test_no_proxy_is_honoured(no_proxy: str, host: str, direct: bool) -> None:
    proxies = ParentProxies(None, {"HTTPS_PROXY": "http://p:1", "NO_PROXY": no_proxy})
    assert (proxies.for_host(parse_host(host), 443, plain=False) is None) is direct


def test_each_kind_of_request_has_its_own_variable() -> None:
    host = parse_host("a.test")
    proxies = ParentProxies(None, {"https_proxy": "s:1", "HTTPS_PROXY": "x:9", "ALL_PROXY": "http://a:2"})
    assert proxies.for_host(host, 443, plain=False) == ParentProxy("s", 1)
    assert proxies.for_host(host, 80, plain=True) == ParentProxy("a", 2)
    assert ParentProxies("", {"ALL_PROXY": "a:2"}).for_host(host, 80, plain=True) is None
    assert ParentProxies("http://c:3", {"ALL_PROXY": "a:2"}).for_host(host, 80, plain=True) == ParentProxy("c", 3)
