"""The same behind a real server, where bytes come as an attacker likes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from typing import Any

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from ipybox.control.access.connections import PromptHttp
from ipybox.control.access.guard import Guard
from ipybox.control.settings import ServerSettings
from tests.control.access.served import HANG, serving, spoken, status_of


async def reader(scope: Scope, receive: Receive, send: Send) -> None:
    """Reads the body and tells its size, or does not read it at all, or answers without end."""
    if scope["path"] == "/unread":
        size = 0
    elif scope["path"] == "/endless":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
    else:
        size, more = 0, True
        while more:
            message = await receive()
            size += len(message.get("body", b""))
            more = message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": str(size).encode()})


def guarded(body_seconds: float = 30.0, read_seconds: float = 30.0, **settings: Any) -> Guard:
    return Guard(reader, ServerSettings(**settings), body_seconds=body_seconds, read_seconds=read_seconds)


HEAD = b"POST / HTTP/1.1\r\nHost: localhost\r\n"
CLOSE = b"Connection: close\r\n"


CONFUSING: list[tuple[bytes, int]] = [
    (b"GET / HTTP/1.1\r\nHost: localhost\r\n", 200),
    (b"GET / HTTP/1.0\r\nHost: localhost\r\n", 200),
    (b"GET / HTTP/1.0\r\n", 400),
    (b"GET / HTTP/1.1\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: evil.example\r\nX-Forwarded-Host: localhost\r\n", 421),
    (b"GET http://localhost/ HTTP/1.1\r\nHost: evil.example\r\n", 400),
    (b"GET http://evil.example/ HTTP/1.1\r\nHost: localhost\r\n", 400),
    (b"CONNECT localhost:80 HTTP/1.1\r\nHost: localhost\r\n", 400),
    (b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: localhost\r\n evil.example\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost : localhost\r\n", 400),
    (b"POST / HTTP/1.1\r\nHOST: localhost\r\nORIGIN: NULL\r\n", 403),
    (b"POST / HTTP/1.1\r\nHost: localhost\r\nOrigin: http://evil.example\r\nContent-Length: 0\r\n", 403),
    (b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nContent-Length: 1\r\n", 400),
    (b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n", 400),
    (b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: identity\r\n", 400),
]


@pytest.mark.asyncio
async def test_heads_that_are_made_to_confuse_are_refused() -> None:
    async with serving(guarded()) as port:
        for head, status in CONFUSING:
            answer = await spoken(port, head + CLOSE + b"\r\n" + (b"0\r\n\r\n" if b"chunked" in head else b""))
            assert status_of(answer) == status, head


@pytest.mark.asyncio
async def test_a_body_that_stops_coming_is_answered_with_408_and_closed() -> None:
    async with serving(guarded(body_seconds=0.2)) as port:
        for begun in (b"Content-Length: 10\r\n\r\nabc", b"Transfer-Encoding: chunked\r\n\r\n5\r\nab"):
            answer = await spoken(port, HEAD + begun)
            assert status_of(answer) == 408
            assert b"connection: close" in answer.lower()
            assert json.loads(answer.partition(b"\r\n\r\n")[2])["status"] == 408


@pytest.mark.asyncio
async def test_a_byte_now_and_then_is_no_progress() -> None:
    async with serving(guarded(body_seconds=0.3)) as port, asyncio.timeout(HANG):
        reading, writing = await asyncio.open_connection("127.0.0.1", port)
        writing.write(HEAD + b"Content-Length: 1000000\r\n\r\n")
        answer = asyncio.create_task(reading.read())
        while not answer.done():
            writing.write(b"x")
            await asyncio.wait([answer], timeout=0.02)
        assert status_of(answer.result()) == 408
        writing.close()


@pytest.mark.asyncio
async def test_a_body_that_goes_on_may_take_longer() -> None:
    async with serving(guarded(body_seconds=1.0)) as port:
        reading, writing = await asyncio.open_connection("127.0.0.1", port)
        writing.write(HEAD + CLOSE + b"Content-Length: 24000\r\n\r\n")
        for _ in range(12):
            writing.write(b"x" * 2000)
            await writing.drain()
            await asyncio.sleep(0.1)  # slower in all than the second that it may stand still
        answer = await asyncio.wait_for(reading.read(), HANG)
        assert b"24000" in answer
        writing.close()


@pytest.mark.asyncio
async def test_a_client_that_sends_too_much_still_reads_why() -> None:
    async with serving(guarded(max_request_bytes=100_000)) as port:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:

            async def chunks() -> Any:
                for _ in range(100):
                    yield b"x" * 50_000

            for body in (b"x" * 5_000_000, chunks()):
                answer = await client.post("/", content=body)
                assert answer.status_code == 413
            assert (await client.post("/", content=b"x" * 100_000)).text == "100000"


@pytest.mark.asyncio
async def test_a_client_that_never_stops_sending_is_cut_off() -> None:
    async with serving(guarded(max_request_bytes=1000)) as port:
        _, writing = await asyncio.open_connection("127.0.0.1", port)
        writing.write(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        sent = 0
        with pytest.raises(ConnectionError):
            while sent < 1024**3:
                writing.write(b"10000\r\n" + b"x" * 65536 + b"\r\n")
                await asyncio.wait_for(writing.drain(), HANG)
                sent += 65536
        assert sent < 200 * 1024**2
        writing.close()


@pytest.mark.asyncio
async def test_a_client_that_waits_for_leave_is_refused_before_it_sends() -> None:
    async with serving(guarded(max_request_bytes=1000)) as port:
        answer = await spoken(port, HEAD + b"Content-Length: 5000\r\nExpect: 100-continue\r\n\r\n")
        assert status_of(answer) == 413
        assert b"100 Continue" not in answer


@pytest.mark.asyncio
async def test_what_is_left_of_a_body_is_not_the_next_request() -> None:
    inner = b"GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"
    async with serving(guarded()) as port:
        for path in (b"/unread", b"/"):
            head = b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % (path, len(inner))
            following = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
            answer = await spoken(port, head + inner + following)
            assert answer.count(b"HTTP/1.1 200") == 2
        refused = b"POST / HTTP/1.1\r\nHost: evil.example\r\nContent-Length: %d\r\n\r\n" % len(inner)
        answer = await spoken(port, refused + inner + following)
        assert [part[:3] for part in answer.split(b"HTTP/1.1 ")[1:]] == [b"421", b"200"]


@pytest.mark.asyncio
async def test_after_a_body_with_two_lengths_nothing_more_is_served() -> None:
    inner = b"GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"
    both = HEAD + b"Content-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" % (5 + len(inner))
    async with serving(guarded()) as port:
        answer = await spoken(port, both + inner)
        assert [part[:3] for part in answer.split(b"HTTP/1.1 ")[1:]] == [b"400"]


@pytest.mark.asyncio
async def test_a_client_that_does_not_read_holds_nothing() -> None:
    ended = asyncio.Event()
    guard = guarded(read_seconds=0.2)

    async def watched(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await guard(scope, receive, send)
        finally:
            ended.set()

    async with serving(watched) as port:
        with socket.create_connection(("127.0.0.1", port)) as line:
            line.sendall(b"GET /endless HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await asyncio.wait_for(ended.wait(), HANG)


@pytest.mark.asyncio
async def test_a_client_that_leaves_while_it_sends_holds_nothing() -> None:
    ended = asyncio.Event()
    guard = guarded()

    async def watched(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await guard(scope, receive, send)
        finally:
            ended.set()

    async with serving(watched) as port:
        _, writing = await asyncio.open_connection("127.0.0.1", port)
        writing.write(HEAD + b"Content-Length: 10\r\n\r\nabc")
        await writing.drain()
        writing.close()
        await asyncio.wait_for(ended.wait(), HANG)


class Hasty(PromptHttp):
    head_seconds = 0.2


@pytest.mark.asyncio
async def test_connections_on_which_no_request_comes_are_closed() -> None:
    async with serving(guarded(), Hasty) as port:
        for begun in (b"", b"GET / HTTP/1.1\r\nHost: local"):
            with contextlib.suppress(ConnectionResetError):
                assert await spoken(port, begun) == b""


@pytest.mark.asyncio
async def test_a_byte_of_a_head_now_and_then_holds_no_connection() -> None:
    async with serving(guarded(), Hasty) as port, asyncio.timeout(HANG):
        reading, writing = await asyncio.open_connection("127.0.0.1", port)
        first = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
        writing.write(first)
        await asyncio.wait_for(reading.readuntil(b"0\r\n\r\n"), HANG)  # it was served, and is kept for another one
        writing.write(first[:-2])
        ended = asyncio.create_task(reading.read())
        while not ended.done():
            writing.write(b"X: y\r\n")
            await asyncio.wait([ended], timeout=0.02)
        assert isinstance(ended.exception(), ConnectionResetError | None)
        writing.close()


@pytest.mark.asyncio
async def test_a_request_may_take_longer_than_its_head() -> None:
    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(Hasty.head_seconds * 2)
        await reader(scope, receive, send)

    async with serving(Guard(slow, ServerSettings()), Hasty) as port:
        assert status_of(await spoken(port, HEAD + CLOSE + b"Content-Length: 1\r\n\r\nx")) == 200


@pytest.mark.asyncio
async def test_a_connection_that_has_served_is_kept_for_longer_than_a_head_may_take() -> None:
    async with serving(guarded(), Hasty) as port:
        reading, writing = await asyncio.open_connection("127.0.0.1", port)
        for last in (b"", CLOSE):
            writing.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n" + last + b"\r\n")
            await asyncio.wait_for(reading.readuntil(b"0\r\n\r\n"), HANG)
            await asyncio.sleep(0 if last else Hasty.head_seconds * 2)
        writing.close()


class Impatient(PromptHttp):
    unread_seconds = 0.2
    lost: asyncio.Event

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.lost.set()


async def large(scope: Scope, receive: Receive, send: Send) -> None:
    """Hands over the whole of an answer at once."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"50000000")]})
    await send({"type": "http.response.body", "body": bytes(50_000_000)})


@pytest.mark.asyncio
async def test_an_answer_that_nobody_reads_does_not_hold_its_connection_for_ever() -> None:
    Impatient.lost = asyncio.Event()
    async with serving(Guard(large, ServerSettings(), read_seconds=0.2), Impatient) as port:
        with socket.create_connection(("127.0.0.1", port)) as line:
            line.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await asyncio.wait_for(Impatient.lost.wait(), HANG)


@pytest.mark.asyncio
async def test_the_end_of_an_answer_that_nobody_reads_does_not_hold_its_connection_for_ever() -> None:
    """When all of it is handed over, nothing waits for the client any more but the connection."""
    Impatient.lost = asyncio.Event()
    async with serving(large, Impatient, timeout_keep_alive=1) as port:
        with socket.create_connection(("127.0.0.1", port)) as line:
            line.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await asyncio.wait_for(Impatient.lost.wait(), HANG)


@pytest.mark.asyncio
async def test_who_reads_slowly_gets_all_of_an_answer() -> None:
    async with serving(Guard(large, ServerSettings(), read_seconds=0.5), Impatient) as port:
        reading, writing = await asyncio.open_connection("127.0.0.1", port)
        writing.write(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        got = 0
        while chunk := await asyncio.wait_for(reading.read(2_000_000), HANG):
            got += len(chunk)
            await asyncio.sleep(0.02)  # longer in all than it may stand still
        assert got > 50_000_000
        writing.close()


@pytest.mark.asyncio
async def test_an_answer_is_handed_over_no_faster_than_it_is_read() -> None:
    """Of what nobody reads, the server holds little, and the client's time counts for each piece."""
    handed: list[int] = []

    async def slow_line(message: Any) -> None:
        handed.append(len(message.get("body", b"")))
        if len(handed) > 5:
            await asyncio.Event().wait()

    async def nothing() -> Any:
        return {"type": "http.request"}

    scope = {"type": "http", "method": "GET", "path": "/", "client": None, "headers": [(b"host", b"localhost")]}
    await Guard(large, ServerSettings(), read_seconds=0.05)(scope, nothing, slow_line)
    assert handed == [0, *[65536] * 5]
