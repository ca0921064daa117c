"""The egress proxy against real sockets: what it reaches, what it refuses, and that nothing wears it out."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address

import pytest

from ipybox.errors import PolicyError
from ipybox.sandbox.addresses import IPAddress
from ipybox.sandbox.dialing import OwnInterfaces, SystemResolver, connect
from ipybox.sandbox.egress import EgressEvent, EgressLimits, EgressProxy
from ipybox.sandbox.hosts import HostRules
from ipybox.sandbox.policy import NetworkPolicy
from tests.sandbox.test_proxy_requests import client_hello, hello_with, in_records, names

PATIENCE = 10.0
PUBLIC = "93.184.216.34"
ALLOWED = ("allowed.test", "*.wild.test", "portonly.test:8080", "raw.test:22")
DENIED = ("bad.wild.test",)

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Outside:
    """The network outside: one local server behind every address, and the names that lead to it."""

    port: int
    heads: list[bytes] = field(default_factory=list)
    dialled: list[tuple[str, int]] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    names: dict[str, list[str]] = field(default_factory=dict)
    dead: set[str] = field(default_factory=set)

    async def resolve(self, name: str) -> Sequence[IPAddress]:
        self.asked.append(name)
        return [ip_address(text) for text in self.names.get(name, [PUBLIC])]

    async def connect(self, address: IPAddress, port: int) -> socket.socket:
        self.dialled.append((str(address), port))
        if str(address) in self.dead:
            raise ConnectionRefusedError(f"nobody at {address}")
        return await connect(ip_address("127.0.0.1"), self.port)


@dataclass
class Inside:
    """What a kernel has: a port where the proxy listens."""

    proxy: EgressProxy
    port: int
    events: list[EgressEvent]

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def ask(self, data: bytes, *, end: bool = False) -> bytes:
        """Send, and read until the proxy closes."""
        reader, writer = await self.open()
        try:
            return await exchange(reader, writer, data, end=end)
        finally:
            await hang_up(writer)

    async def connect(self, target: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await self.open()
        writer.write(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
        assert await head_of(reader) == b"HTTP/1.1 200 Connection established\r\n\r\n"
        return reader, writer


async def hang_up(writer: asyncio.StreamWriter) -> None:
    writer.close()
    try:
        await writer.wait_closed()
    except OSError:
        pass


async def rest_of(reader: asyncio.StreamReader) -> bytes:
    got = b""
    try:
        async with asyncio.timeout(PATIENCE):
            while data := await reader.read(65536):
                got += data
    except ConnectionError:
        pass
    return got


async def exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, data: bytes, *, end: bool) -> bytes:
    try:
        writer.write(data)
        if end:
            writer.write_eof()
        await writer.drain()
    except ConnectionError:
        pass
    return await rest_of(reader)


async def soon(queue: asyncio.Queue[bytes]) -> bytes:
    async with asyncio.timeout(PATIENCE):
        return await queue.get()


async def head_of(reader: asyncio.StreamReader) -> bytes:
    async with asyncio.timeout(PATIENCE):
        return await reader.readuntil(b"\r\n\r\n")


@asynccontextmanager
async def outside(handler: Handler | None = None) -> AsyncIterator[Outside]:
    """A server that answers "hello" to HTTP requests and echoes everything else, or does what the handler does."""
    writers: list[asyncio.StreamWriter] = []

    async def default(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = await reader.read(4)
        if first in (b"GET ", b"POST", b"HEAD"):
            out.heads.append(first + await reader.readuntil(b"\r\n\r\n"))
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: keep-alive\r\n\r\nhello")
            await reader.read()  # keeps the connection open, whatever the request says
            return
        writer.write(first)
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        try:
            await (handler or default)(reader, writer)
        except (OSError, EOFError):
            pass
        finally:
            await hang_up(writer)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    out = Outside(server.sockets[0].getsockname()[1])
    try:
        yield out
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()
        await server.wait_closed()


def listening(family: socket.AddressFamily = socket.AF_INET) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.bind(("127.0.0.1" if family == socket.AF_INET else "::1", 0))
    listener.listen(1024)
    return listener


@asynccontextmanager
async def inside(
    out: Outside,
    *,
    allowed: Sequence[str] = ALLOWED,
    denied: Sequence[str] = DENIED,
    hosts: Sequence[tuple[str, str]] = (),
    parent: str | None = None,
    environment: dict[str, str] | None = None,
    own: Sequence[IPAddress] | None = (),
    learn: bool = False,
    limits: EgressLimits | None = None,
    on_event: Callable[[EgressEvent], Awaitable[None]] | None = None,
    real: bool = False,
) -> AsyncIterator[Inside]:
    events: list[EgressEvent] = []

    async def record(event: EgressEvent) -> None:
        events.append(event)

    policy = NetworkPolicy(
        allowed_domains=tuple(allowed), denied_domains=tuple(denied), hosts=tuple(hosts), parent_proxy=parent
    )
    tasks = asyncio.all_tasks()
    async with EgressProxy(
        policy,
        resolver=out.resolve,
        environment=environment or {},
        own_addresses=own,
        learn=learn,
        on_event=on_event or record,
        limits=limits,
        connector=connect if real else out.connect,
    ) as proxy:
        listener = listening()
        port = listener.getsockname()[1]
        await proxy.listen(listener, "kernel")
        yield Inside(proxy, port, events)
    assert listener.fileno() == -1
    left = {task for task in asyncio.all_tasks() - tasks if "_Kernel" in repr(task.get_coro())}
    assert not left


def socks(host: bytes, port: int = 443, kind: int = 3, command: int = 1) -> bytes:
    address = bytes([len(host)]) + host if kind == 3 else host
    return b"\x05\x01\x00" + bytes([5, command, 0, kind]) + address + port.to_bytes(2, "big")


def url(host: str) -> bytes:
    return f"GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\n\r\n".encode("latin-1")


def tunnel(host: str) -> bytes:
    return f"CONNECT {host} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode("latin-1")


# ---- who is let through -----------------------------------------------------------------------------------------

REACHED = ["allowed.test", "sub.wild.test", "AlLoWeD.TeSt", "allowed.test."]
REFUSED = [
    *("denied.test", "evilwild.test", "wild.test", "bad.wild.test", "BAD.wild.test", "bad.wild.test."),
    *("10.99.0.2", "174260226", "0x0a630002", "012.0143.0.02", "127.1", "0", "0.0.0.0", "127.0.0.1", "169.254.169.254"),
    *("[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:10.99.0.2]", "[64:ff9b::a63:2]", "[2002:a63:2::]"),
    *("user@allowed.test", "allowed.test@denied.test", "allowed.test\\.denied.test", "allowed.test%00.denied.test"),
    *("[::1%25allowed.test]", "allowed..test", "xallowed.test", "allowed.test.denied.test", "-.wild.test"),
]


@pytest.mark.asyncio
async def test_allowed_hosts_are_reached_by_every_protocol() -> None:
    async with outside() as out, inside(out) as box:
        for host in REACHED:
            assert (await box.ask(url(host))).endswith(b"\r\n\r\nhello")
            assert (await box.ask(tunnel(f"{host}:443") + b"ping", end=True)).endswith(b"\r\n\r\nping")
            answer = await box.ask(socks(host.encode()) + b"ping", end=True)
            assert answer == b"\x05\x00" + b"\x05\x00\x00\x01" + bytes(6) + b"ping"
        assert [event.protocol for event in box.events] == ["http", "connect", "socks5"] * len(REACHED)
        assert all(event.allowed and event.tag == "kernel" for event in box.events)
        assert {event.host for event in box.events} == {"allowed.test", "sub.wild.test"}


@pytest.mark.asyncio
async def test_other_hosts_are_refused_by_every_protocol_and_never_looked_up() -> None:
    async with outside() as out, inside(out) as box:
        for host in REFUSED:
            for request in (url(host), tunnel(f"{host}:443")):
                answer = await box.ask(request)
                assert answer.startswith(b"HTTP/1.1 403 Forbidden\r\nX-Ipybox-Denied: "), (host, answer)
                assert b"network." in answer
            answer = await box.ask(socks(host.strip("[]").encode()))
            assert answer == b"\x05\x00" + b"\x05\x02\x00\x01" + bytes(6), host
        assert out.dialled == []
        assert out.asked == []
        assert len(box.events) == 3 * len(REFUSED)
        assert not any(event.allowed for event in box.events)


@pytest.mark.parametrize(
    ("request_", "answer"),
    [
        (socks(b"\x0a\x63\x00\x02", kind=1), b"\x02"),
        (socks(bytes(15) + b"\x01", kind=4), b"\x02"),
        (socks(ip_address("::ffff:10.99.0.2").packed, kind=4), b"\x02"),
        (socks(b"10.99.0.2"), b"\x02"),
        (socks(b"10.99.0.2\0.wild.test"), b"\x02"),
        (socks(b"::ffff:10.99.0.2%x.wild.test"), b"\x02"),
        (socks(b"allowed.test\r\n"), b"\x02"),
        (socks(b"a/.wild.test"), b"\x02"),
        (socks(b"a b.wild.test"), b"\x02"),
        (socks(b"\xef\xbd\x81.wild.test"), b"\x02"),
        (socks(b""), b"\x02"),
        (socks(b"allowed.test", port=0), b"\x02"),
        (socks(b"allowed.test", port=22), b"\x02"),
        (socks(b"allowed.test", command=2), b"\x07"),
        (socks(b"allowed.test", command=3), b"\x07"),
        (socks(b"", kind=9), b"\x08"),
    ],
)
@pytest.mark.asyncio
async def test_socks_refusals(request_: bytes, answer: bytes) -> None:
    async with outside() as out, inside(out) as box:
        assert await box.ask(request_) == b"\x05\x00" + b"\x05" + answer + b"\x00\x01" + bytes(6)
        assert out.dialled == []


@pytest.mark.asyncio
async def test_socks4_is_closed_without_a_word() -> None:
    async with outside() as out, inside(out) as box:
        assert await box.ask(b"\x04\x01\x01\xbb\x0a\x63\x00\x02\x00") == b""
        assert await box.ask(b"\x05\x01\x02") == b"\x05\xff"


@pytest.mark.parametrize(
    "request_",
    [
        *(tunnel(f"allowed.test{port}") for port in (":0", ":65536", ":65979", ":80abc", ":", "")),
        *(url(f"allowed.test{port}") for port in (":0", ":65536", ":65979", ":80abc", ":")),
        *(b"GET %s://allowed.test/ HTTP/1.1\r\n\r\n" % scheme for scheme in (b"ftp", b"file", b"https", b"gopher")),
        b"GET http://allowed.test/\r\n",
        b"GET / HTTP/1.1\r\nHost: allowed.test\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x00\x05hello",
        b"GET http://allowed.test/ HTTP/1.1\nHost: allowed.test\n\n",
        b"GET http://allowed.test/ HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET http://allowed.test/ HTTP/1.1\r\nA: b\r\n folded\r\n\r\n",
        b"POST http://allowed.test/ HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST http://allowed.test/ HTTP/1.1\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
        b"GET http://allowed.test/ HTTP/1.1\r\nX: " + b"y" * 1_000_000 + b"\r\n\r\n",
        b"GET http://allowed.test/ HTTP/1.1\r\n" + b"X: y\r\n" * 10_000 + b"\r\n",
        b"GET http://allowed.test/" + b"x" * 1_000_000,
        b"x" * 1_000_000,
    ],
    ids=lambda data: repr(data[:50]),
)
@pytest.mark.asyncio
async def test_malformed_requests_are_refused_without_dialling(request_: bytes) -> None:
    async with outside() as out, inside(out) as box:
        answer = await box.ask(request_)
        assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 431 ")), answer[:100]
        assert out.dialled == []


@pytest.mark.asyncio
async def test_ports_are_those_of_the_rules() -> None:
    async with outside() as out, inside(out) as box:
        answer = await box.ask(tunnel("portonly.test:443"))
        assert b"X-Ipybox-Denied: port 443 is not allowed for portonly.test (rules: portonly.test:8080)\r\n" in answer
        assert b'add "portonly.test" to network.allowedDomains' in answer
        assert b'add "allowed.test:22" to' in await box.ask(tunnel("allowed.test:22"))
        assert (await box.ask(url("portonly.test:8080"))).endswith(b"hello")
        assert out.dialled == [(PUBLIC, 8080)]


# ---- where names lead -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        ("127.0.0.1", "a loopback"),
        ("169.254.169.254", "a metadata"),
        ("169.254.7.7", "a link-local"),
        ("10.0.0.1", "a private"),
        ("fd00::1", "a private"),
        ("100.64.0.1", "a carrier-grade NAT"),
        ("::ffff:10.0.0.1", "a private"),
        ("64:ff9b::a00:1", "a private"),
        ("8.8.4.4", "an own interface"),
        ("0.0.0.0", "an unspecified"),
    ],
)
@pytest.mark.asyncio
async def test_names_do_not_lead_to_inner_addresses_and_nothing_tells_them(
    address: str, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "ipybox.egress")
    async with outside() as out, inside(out, own=[ip_address("8.8.4.4")]) as box:
        out.names["x.wild.test"] = [address]
        answer = await box.ask(url("x.wild.test"))
        assert f"X-Ipybox-Denied: resolves to {kind} address\r\n".encode() in answer
        assert b"network.hosts" in answer
        assert await box.ask(socks(b"x.wild.test")) == b"\x05\x00\x05\x02\x00\x01" + bytes(6)
        assert out.dialled == []
        told = answer.decode() + caplog.text + repr(box.events)
        assert address not in told
        assert f"refused x.wild.test:80 (http): resolves to {kind} address" in caplog.text


@pytest.mark.asyncio
async def test_of_mixed_answers_only_the_public_ones_are_dialled() -> None:
    async with outside() as out, inside(out) as box:
        out.names["allowed.test"] = ["127.0.0.1", "10.0.0.1", PUBLIC, "::1"]
        assert (await box.ask(url("allowed.test"))).endswith(b"hello")
        assert out.dialled == [(PUBLIC, 80)]


@pytest.mark.asyncio
async def test_a_name_is_resolved_once_so_that_what_is_dialled_is_what_was_checked() -> None:
    async with outside() as out, inside(out) as box:
        answers = iter([[ip_address(PUBLIC)], [ip_address("127.0.0.1")]])

        async def rebind(name: str) -> Sequence[IPAddress]:
            return next(answers)

        out.resolve = rebind  # type: ignore[method-assign]
        async with inside(out) as fresh:
            assert (await fresh.ask(url("allowed.test"))).endswith(b"hello")
            assert b" 403 " in await fresh.ask(url("allowed.test"))
        assert out.dialled == [(PUBLIC, 80)]
        assert box.events == []


@pytest.mark.asyncio
async def test_up_to_four_addresses_are_tried() -> None:
    addresses = [f"93.184.216.{i}" for i in range(6)]
    async with outside() as out, inside(out) as box:
        out.names["allowed.test"] = addresses
        out.dead = set(addresses[:3])
        assert (await box.ask(url("allowed.test"))).endswith(b"hello")
        out.dead.add(addresses[3])
        answer = await box.ask(url("allowed.test"))
        assert answer.startswith(b"HTTP/1.1 502 ")
        assert b"93.184" not in answer
        assert [address for address, _ in out.dialled] == addresses[:4] * 2
        assert await box.ask(socks(b"allowed.test")) == b"\x05\x00\x05\x04\x00\x01" + bytes(6)


@pytest.mark.asyncio
async def test_a_denied_address_is_not_reached_by_name() -> None:
    async with outside() as out, inside(out, denied=[PUBLIC]) as box:
        answer = await box.ask(url("allowed.test"))
        assert b"X-Ipybox-Denied: resolves to an address in deniedDomains\r\n" in answer
        assert PUBLIC.encode() not in answer


@pytest.mark.asyncio
async def test_a_listed_private_address_is_reached_on_its_port_by_number_and_by_name() -> None:
    async with outside() as out, inside(out, allowed=["10.0.0.5:8080", "allowed.test", "allowed.test:8080"]) as box:
        out.names["allowed.test"] = ["10.0.0.5"]
        assert (await box.ask(url("10.0.0.5:8080"))).endswith(b"hello")
        assert (await box.ask(url("allowed.test:8080"))).endswith(b"hello")
        assert b" 403 " in await box.ask(url("allowed.test"))
        assert b" 403 " in await box.ask(url("10.0.0.5"))
        assert b" 403 " in await box.ask(url("10.0.0.6:8080"))
        assert out.dialled == [("10.0.0.5", 8080)] * 2


@pytest.mark.asyncio
async def test_a_pin_takes_the_place_of_dns_but_not_of_the_rules() -> None:
    async with outside() as out:
        pins = [("allowed.test", f"127.0.0.1:{out.port}"), ("other.test", f"127.0.0.1:{out.port}")]
        async with inside(out, hosts=pins, own=None, real=True) as box:
            assert (await box.ask(url("allowed.test"))).endswith(b"hello")
            assert b"\r\nHost: allowed.test\r\n" in out.heads[0]
            assert b" 403 " in await box.ask(url("other.test"))
        assert out.asked == []


@pytest.mark.asyncio
async def test_names_without_an_address_are_unreachable_not_forbidden() -> None:
    async with outside() as out, inside(out) as box:
        out.names["allowed.test"] = []
        assert (await box.ask(url("allowed.test"))).startswith(b"HTTP/1.1 502 ")
        assert [(event.host, event.allowed) for event in box.events] == [("allowed.test", True)]

        async def fail(name: str) -> Sequence[IPAddress]:
            raise socket.gaierror(-2, "no such name")

        out.resolve = fail  # type: ignore[method-assign]
        async with inside(out) as other:
            assert (await other.ask(url("allowed.test"))).startswith(b"HTTP/1.1 502 ")
            assert await other.ask(socks(b"allowed.test")) == b"\x05\x00\x05\x04\x00\x01" + bytes(6)


@pytest.mark.asyncio
async def test_own_addresses_are_found_by_asking_the_system() -> None:
    own = OwnInterfaces()
    assert ip_address("127.0.0.1") in own
    assert ip_address("192.88.99.77") not in own
    assert "127.0.0.1" not in own
    resolver = SystemResolver()
    assert ip_address("127.0.0.1") in await resolver("127.0.0.1")
    resolver.close()


# ---- HTTP -------------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_the_host_header_is_the_host_that_was_checked() -> None:
    async with outside() as out, inside(out) as box:
        await box.ask(b"GET http://allowed.test/p HTTP/1.1\r\nHost: denied.test\r\n\r\n")
        assert out.heads == [b"GET /p HTTP/1.1\r\nHost: allowed.test\r\nConnection: close\r\n\r\n"]
        assert b" 403 " in await box.ask(b"GET http://denied.test/p HTTP/1.1\r\nHost: allowed.test\r\n\r\n")


@pytest.mark.asyncio
async def test_one_request_goes_out_per_connection_and_the_client_is_told() -> None:
    async with outside() as out, inside(out) as box:
        answer = await box.ask(url("allowed.test") + url("denied.test") + url("allowed.test"))
        assert answer == b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello"
        assert len(out.heads) == 1


@pytest.mark.asyncio
async def test_bodies_go_out_in_full_and_nothing_behind_them() -> None:
    got: asyncio.Queue[bytes] = asyncio.Queue()
    chunked = b"5\r\nhello\r\n0\r\n\r\n"

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await head_of(reader)
        size = len(chunked) if b"chunked" in head else 300_000
        got.put_nowait(await reader.readexactly(size))
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nbye")
        writer.write_eof()
        got.put_nowait(await reader.read())

    async with outside(handler) as out, inside(out) as box:
        for framing, body in ((b"Transfer-Encoding: chunked", chunked), (b"Content-Length: 300000", b"x" * 300_000)):
            head = b"POST http://allowed.test/ HTTP/1.1\r\n" + framing + b"\r\n\r\n"
            assert (await box.ask(head + body + b"GET /smuggled")).endswith(b"bye")
            assert [await soon(got), await soon(got)] == [body, b""]


@pytest.mark.parametrize("body", [b"5\nhello", b"x\r\n", b"5\r\nhelloworld\r\n"])
@pytest.mark.asyncio
async def test_a_malformed_chunk_ends_the_request(body: bytes) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with outside(handler) as out, inside(out) as box:
        head = b"POST http://allowed.test/ HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
        assert (await box.ask(head + body)).startswith(b"HTTP/1.1 400 ")


@pytest.mark.asyncio
async def test_expect_100_continue_works() -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert b"Expect: 100-continue" in await head_of(reader)
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = await reader.readexactly(4)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n" + body)

    async with outside(handler) as out, inside(out) as box:
        reader, writer = await box.open()
        writer.write(b"POST http://allowed.test/ HTTP/1.1\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n")
        assert await head_of(reader) == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert (await exchange(reader, writer, b"body", end=False)).endswith(b"\r\n\r\nbody")
        await hang_up(writer)


@pytest.mark.asyncio
async def test_an_early_answer_to_a_large_upload_arrives() -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head_of(reader)
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig")
        await reader.readexactly(100)
        writer.write_eof()
        await reader.read()

    async with outside(handler) as out, inside(out) as box:
        head = b"POST http://allowed.test/ HTTP/1.1\r\nContent-Length: 100000000\r\n\r\n"
        assert (await box.ask(head + b"x" * 200_000)).endswith(b"\r\n\r\nbig")


@pytest.mark.asyncio
async def test_a_refusal_arrives_although_the_client_is_still_sending() -> None:
    async with outside() as out, inside(out) as box:
        head = b"POST http://denied.test/ HTTP/1.1\r\nContent-Length: 500000\r\n\r\n"
        assert b"X-Ipybox-Denied: not in allowedDomains" in await box.ask(head + b"x" * 500_000)


@pytest.mark.asyncio
async def test_large_responses_are_streamed_to_their_end() -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head_of(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        for _ in range(320):
            writer.write(b"x" * 65536)
            await writer.drain()

    async with outside(handler) as out, inside(out) as box:
        answer = await box.ask(url("allowed.test"))
        assert len(answer.partition(b"\r\n\r\n")[2]) == 320 * 65536


@pytest.mark.asyncio
async def test_a_cut_response_does_not_look_complete() -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head_of(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel")

    async with outside(handler) as out, inside(out) as box:
        reader, writer = await box.open()
        writer.write(url("allowed.test"))
        with pytest.raises(ConnectionResetError):
            while await reader.read(100):
                pass
        await hang_up(writer)


@pytest.mark.parametrize("answer", [b"", b"SSH-2.0-x\r\n\r\n", b"HTTP/1.1 101 x\r\n\r\n", b"HTTP/1.1 200 OK\r\n"])
@pytest.mark.asyncio
async def test_what_is_no_response_is_a_502(answer: bytes) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head_of(reader)
        writer.write(answer)

    async with outside(handler) as out, inside(out) as box:
        assert (await box.ask(url("allowed.test"))).startswith(b"HTTP/1.1 502 ")


# ---- tunnels ----------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_half_close_is_passed_on_in_both_directions() -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"%d" % len(await reader.read()))

    async with outside(handler) as out, inside(out) as box:
        assert (await box.ask(tunnel("allowed.test:80") + b"x" * 100_000, end=True)).endswith(b"\r\n\r\n100000")

    async def finish_first(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"first")
        writer.write_eof()
        got.put_nowait(await reader.read())

    got: asyncio.Queue[bytes] = asyncio.Queue()
    async with outside(finish_first) as out, inside(out) as box:
        reader, writer = await box.connect("allowed.test:80")
        assert await rest_of(reader) == b"first"
        writer.write(b"second")
        await hang_up(writer)
        assert await soon(got) == b"second"


@pytest.mark.asyncio
async def test_servers_may_speak_first() -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-server\r\n")
        writer.write(await reader.readline())

    async with outside(handler) as out, inside(out) as box:
        reader, writer = await box.connect("raw.test:22")
        assert await reader.readline() == b"SSH-2.0-server\r\n"
        assert await exchange(reader, writer, b"SSH-2.0-client\r\n", end=False) == b"SSH-2.0-client\r\n"
        await hang_up(writer)


MISMATCHES = {
    "another name": client_hello("denied.test"),
    "a subdomain": client_hello("x.allowed.test"),
    "fragmented records": in_records(client_hello("denied.test"), 3),
    "two names": hello_with(names(b"allowed.test", b"denied.test")),
    "a malformed name": hello_with(names(b"allowed.test\0x")),
    "an address": hello_with(names(b"127.0.0.1")),
    "an alert first": b"\x15\x03\x01\x00\x02\x01\x5a" + client_hello("denied.test"),
    "no hello": b"\x16\x03\x01\x00\x04\x02\x00\x00\x00",
    "too large": b"\x16\x03\x01\x40\x00\x01\x01\x00\x00" + b"x" * 70_000,
}


@pytest.mark.parametrize("hello", MISMATCHES.values(), ids=MISMATCHES.keys())
@pytest.mark.parametrize("start", [tunnel("allowed.test:443"), socks(b"allowed.test")], ids=["connect", "socks5"])
@pytest.mark.asyncio
async def test_a_server_name_that_is_not_the_requested_host_ends_the_tunnel(start: bytes, hello: bytes) -> None:
    got: asyncio.Queue[bytes] = asyncio.Queue()

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got.put_nowait(await rest_of(reader))

    async with outside(handler) as out, inside(out) as box:
        await box.ask(start + hello)
        assert [event.allowed for event in box.events] == [True, False]
        assert box.events[1].host == "allowed.test"
        assert await soon(got) == b""


@pytest.mark.parametrize("start", [tunnel("ALLOWED.test:443"), socks(b"allowed.test.")], ids=["connect", "socks5"])
@pytest.mark.parametrize("record", [2, 16384])
@pytest.mark.parametrize("name", ["allowed.test", "Allowed.Test", None])
@pytest.mark.asyncio
async def test_the_same_server_name_or_none_passes(start: bytes, record: int, name: str | None) -> None:
    hello = in_records(client_hello(name), record)
    async with outside() as out, inside(out) as box:
        reader, writer = await box.open()
        writer.write(start)
        for at in range(0, len(hello), 50):  # in many segments
            writer.write(hello[at : at + 50])
            await asyncio.sleep(0)
        assert (await exchange(reader, writer, b"", end=True)).endswith(hello)
        await hang_up(writer)


# ---- parent proxy -----------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_a_parent_proxy_is_gone_through_and_the_policy_still_applies() -> None:
    heads: list[bytes] = []

    async def parent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await head_of(reader))
        if heads[-1].startswith(b"CONNECT"):
            writer.write(b"HTTP/1.1 200 fine\r\nVia: x\r\n\r\n")
            writer.write(await reader.read(100))
        else:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")

    async with outside(parent) as out:
        environment = {
            "HTTPS_PROXY": "http://user:pass@192.0.2.9:3128",
            "http_proxy": "http://user:pass@192.0.2.9:3128",
            "NO_PROXY": "direct.wild.test",
        }
        async with inside(
            out, environment=environment, allowed=[*ALLOWED, "8.8.4.4"], own=[ip_address("8.8.4.4")]
        ) as box:
            assert (await box.ask(tunnel("allowed.test:443") + b"ping", end=True)).endswith(b"\r\n\r\nping")
            assert (await box.ask(socks(b"allowed.test") + b"ping", end=True)).endswith(b"ping")
            assert (await box.ask(url("allowed.test"))).endswith(b"hello")
            assert out.asked == []
            assert {address for address, _ in out.dialled} == {"192.0.2.9"}
            for host in ("denied.test", "bad.wild.test", "127.0.0.1", "169.254.169.254"):
                assert b" 403 " in await box.ask(tunnel(f"{host}:443"))
            await box.ask(url("direct.wild.test"))
            assert out.asked == ["direct.wild.test"]
    expected = b"CONNECT allowed.test:443 HTTP/1.1\r\nHost: allowed.test:443\r\n"
    expected += b"Proxy-Authorization: Basic dXNlcjpwYXNz\r\n\r\n"
    assert heads[:2] == [expected] * 2
    assert heads[2].startswith(b"GET http://allowed.test/ HTTP/1.1\r\nHost: allowed.test\r\n")
    assert b"Basic dXNlcjpwYXNz" in heads[2]
    assert heads[3].startswith(b"GET / HTTP/1.1\r\n")
    assert b"Authorization" not in heads[3]


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 407 no\r\nX: secret\r\n\r\n", b"what\r\n\r\n", b"", b"HTTP/1.1 200 OK\r\n"]
)
@pytest.mark.asyncio
async def test_a_parent_proxy_that_refuses_is_a_502_without_its_words(answer: bytes) -> None:
    async def parent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head_of(reader)
        writer.write(answer)

    async with outside(parent) as out, inside(out, parent="http://192.0.2.9:3128") as box:
        for request in (tunnel("allowed.test:443"), url("allowed.test")):
            if request.startswith(b"GET") and b"200" in answer:
                continue
            got = await box.ask(request)
            assert got.startswith(b"HTTP/1.1 502 ")
            assert b"secret" not in got


def test_an_impossible_policy_is_refused_at_once() -> None:
    for policy in (
        NetworkPolicy(allowed_domains=("*",)),
        NetworkPolicy(denied_domains=("http://x",)),
        NetworkPolicy(hosts=(("a.test", "b.test"),)),
        NetworkPolicy(parent_proxy="socks5://x:1"),
    ):
        with pytest.raises(PolicyError):
            EgressProxy(policy, environment={})


# ---- events and learning ----------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_the_host_knows_of_a_refusal_before_the_sandbox_does() -> None:
    seen, go_on = asyncio.Event(), asyncio.Event()

    async def slow(event: EgressEvent) -> None:
        assert event == EgressEvent("kernel", "denied.test", 443, False, "not in allowedDomains", "connect")
        seen.set()
        await go_on.wait()

    async with outside() as out, inside(out, on_event=slow) as box:
        reader, writer = await box.open()
        writer.write(tunnel("denied.test:443"))
        answer = asyncio.ensure_future(rest_of(reader))
        await seen.wait()
        for _ in range(20):
            await asyncio.sleep(0)
        assert not answer.done()
        go_on.set()
        assert b" 403 " in await answer
        await hang_up(writer)


@pytest.mark.asyncio
async def test_a_failing_event_handler_changes_nothing() -> None:
    async def fail(event: EgressEvent) -> None:
        raise RuntimeError("handler is broken")

    async with outside() as out, inside(out, on_event=fail) as box:
        assert (await box.ask(url("allowed.test"))).endswith(b"hello")
        assert b" 403 " in await box.ask(url("denied.test"))


@pytest.mark.asyncio
async def test_a_bug_closes_its_connection_only(caplog: pytest.LogCaptureFixture) -> None:
    async with outside() as out:

        async def broken(name: str) -> Sequence[IPAddress]:
            if name == "x.wild.test":
                raise ZeroDivisionError
            return [ip_address(PUBLIC)]

        out.resolve = broken  # type: ignore[method-assign]
        async with inside(out) as box:
            assert await box.ask(url("x.wild.test")) == b""
            assert (await box.ask(url("allowed.test"))).endswith(b"hello")
            assert box.events[0].host == "allowed.test"
    assert "unexpected error" in caplog.text


@pytest.mark.asyncio
async def test_learning_lets_through_what_nothing_denies_but_no_inner_address() -> None:
    async with outside() as out, inside(out, allowed=[], learn=True) as box:
        out.names["inner.test"] = ["10.0.0.1"]
        assert (await box.ask(url("new.test:8081"))).endswith(b"hello")
        assert box.events == [EgressEvent("kernel", "new.test", 8081, True, "learned", "http")]
        for host in ("bad.wild.test", "inner.test", "127.0.0.1", "127.1", "[::1]"):
            assert b" 403 " in await box.ask(url(host))
        assert (await box.ask(socks(b"new.test", port=0)))[3] == 2


# ---- wear and tear ----------------------------------------------------------------------------------------------

SHORT = EgressLimits(head=0.1, hello=0.1, dial=0.1, idle=0.1, linger=0.1)


@pytest.mark.parametrize("start", [b"", b"GET http://allowed.test/ HTTP/1.1\r\nX: ", b"\x05", b"\x05\x01\x00\x05"])
@pytest.mark.asyncio
async def test_slow_requests_are_given_up(start: bytes) -> None:
    async with outside() as out, inside(out, limits=SHORT) as box:
        answer = await box.ask(start)
        assert answer in (b"", b"\x05\x00") or answer.startswith(b"HTTP/1.1 408 ")
        assert out.dialled == []


@pytest.mark.asyncio
async def test_slow_hellos_dials_and_servers_are_given_up() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async def never(name: str) -> Sequence[IPAddress]:
        await asyncio.Event().wait()
        return []

    async with outside(silent) as out:
        async with inside(out, limits=EgressLimits(hello=0.1)) as box:
            await box.ask(tunnel("allowed.test:443") + client_hello("allowed.test")[:20])
            assert box.events[-1].reason == "unfinished ClientHello"
        async with inside(out, limits=SHORT) as box:
            await box.ask(tunnel("allowed.test:443"))
            assert (await box.ask(url("allowed.test"))).startswith(b"HTTP/1.1 504 ")
        out.resolve = never  # type: ignore[method-assign]
        async with inside(out, limits=SHORT) as box:
            assert b"could not be resolved in time" in await box.ask(url("allowed.test"))


@pytest.mark.asyncio
async def test_of_too_many_connections_the_rest_is_turned_away_and_the_first_ones_work() -> None:
    async with outside() as out, inside(out) as box:
        held = [await box.connect("allowed.test:80") for _ in range(256)]
        refused = await asyncio.gather(*(box.ask(b"") for _ in range(244)))
        assert all(answer.startswith(b"HTTP/1.1 503 ") for answer in refused)
        for reader, writer in held[::50]:
            writer.write(b"ping")
            assert await reader.read(100) == b"ping"
        listener = listening()
        other = Inside(box.proxy, listener.getsockname()[1], [])
        await box.proxy.listen(listener, "another kernel")
        assert (await other.ask(url("allowed.test"))).endswith(b"hello")
        for _, writer in held:
            await hang_up(writer)


@pytest.mark.asyncio
async def test_a_kernel_with_rules_of_its_own_reaches_what_both_allow() -> None:
    async with outside() as out, inside(out) as box:
        for rules, expected in ((HostRules.parse(["other.test"]), b"HTTP/1.1 403 "), (None, b"HTTP/1.1 200 ")):
            listener = listening()
            own = Inside(box.proxy, listener.getsockname()[1], [])
            await box.proxy.listen(listener, f"own {rules}", rules)
            assert (await own.ask(url("allowed.test"))).startswith(expected)
            assert (await own.ask(url("other.test"))).startswith(b"HTTP/1.1 403 ")


@pytest.mark.asyncio
async def test_500_connects_at_once_leave_nothing_behind() -> None:
    async with outside() as out, inside(out, limits=EgressLimits(connections=1000)) as box:
        answers = await asyncio.gather(
            *(box.ask(url("denied.test")) for _ in range(250)), *(box.ask(url("allowed.test")) for _ in range(250))
        )
        assert all(b" 403 " in answer for answer in answers[:250])
        assert all(answer.endswith(b"hello") for answer in answers[250:])
        assert len(box.events) == 500


@pytest.mark.asyncio
async def test_a_peer_that_does_not_read_stops_the_other_one() -> None:
    sent = 0
    stuck = asyncio.Event()

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.transport.set_write_buffer_limits(0)
        while sent < 500_000_000:
            writer.write(b"x" * 65536)
            try:
                async with asyncio.timeout(0.3):
                    await writer.drain()
            except TimeoutError:
                stuck.set()
                return
            sent += 65536

    async with outside(flood) as out, inside(out) as box:
        _, writer = await box.connect("allowed.test:80")
        async with asyncio.timeout(PATIENCE):
            await stuck.wait()
        assert sent < 100_000_000
        await hang_up(writer)


@pytest.mark.asyncio
async def test_a_forgotten_kernel_loses_its_connections_and_others_keep_theirs() -> None:
    async with outside() as out, inside(out) as box:
        listener = listening(socket.AF_INET6) if socket.has_ipv6 else listening()
        host, port = listener.getsockname()[:2]
        await box.proxy.listen(listener, "other")
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(tunnel("allowed.test:80"))
        await head_of(reader)
        kept_reader, kept_writer = await box.connect("allowed.test:80")
        await box.proxy.forget("other")
        assert listener.fileno() == -1
        assert await rest_of(reader) == b""
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(host, port)
        kept_writer.write(b"ping")
        assert await kept_reader.read(100) == b"ping"
        await box.proxy.forget("other")
        await box.proxy.close()
        assert await rest_of(kept_reader) == b""
        late = listening()
        with pytest.raises(RuntimeError):
            await box.proxy.listen(late, "late")
        assert late.fileno() == -1
        await hang_up(writer)
        await hang_up(kept_writer)
