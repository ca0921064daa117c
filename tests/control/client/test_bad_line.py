"""Lines that break: nothing is lost, nothing comes twice, nothing is made twice, and nobody waits for ever."""

from __future__ import annotations

import http.server
import socket
import threading
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from ipybox.control.client import AsyncControlClient
from ipybox.control.errors import ServerError
from tests.control.bad_line import BadLine

BUSY = b"HTTP/1.1 503 Busy\r\nRetry-After: 0\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
LATER = BUSY.replace(b"After: 0", b"After: 3600")


@pytest_asyncio.fixture
async def line(url: str) -> AsyncIterator[BadLine]:
    async with BadLine(url) as line:
        yield line


@pytest_asyncio.fixture
async def client(line: BadLine) -> AsyncIterator[AsyncControlClient]:
    async with AsyncControlClient(line.url) as client:
        yield client


@pytest.mark.sandbox
@pytest.mark.asyncio
async def test_a_stream_goes_on_where_its_connection_broke(url: str, line: BadLine) -> None:
    async with AsyncControlClient(url) as straight, straight.session() as session:
        execution = await session.start("for i in $(seq 1 400); do echo line $i; sleep 0.001; done", language="shell")
        line.cut_after = [700, 1500, 400, 2500, 3000, 650]  # some within an event, some before the first
        async with AsyncControlClient(line.url) as client:
            events = [event async for event in client.executions.stream(execution.id)]
        assert not line.cut_after
        assert [event.seq for event in events] == list(range(1, len(events) + 1))
        assert "".join(event.text for event in events) == "".join(f"line {i}\n" for i in range(1, 401))
        assert events[-1].kind == "end"


@pytest.mark.sandbox
@pytest.mark.asyncio
async def test_a_session_whose_answer_got_lost_is_made_once(line: BadLine, client: AsyncControlClient) -> None:
    line.cut_after = [0, 20]
    session = await client.sessions.create("python", tags={"lost": "answer"})
    assert line.connections == 3
    assert [each.id for each in (await client.sessions.list(tags={"lost": "answer"})).items] == [session.id]
    await client.sessions.delete(session.id)


@pytest.mark.sandbox
@pytest.mark.asyncio
async def test_what_is_gone_though_the_answer_got_lost_is_gone(url: str, line: BadLine) -> None:
    async with AsyncControlClient(url) as straight:
        session = await straight.sessions.create("python")
    line.cut_after = [20]
    async with AsyncControlClient(line.url) as client:
        await client.sessions.delete(session.id)
        with pytest.raises(ServerError, match="404"):
            await client.sessions.delete(session.id)


@pytest.mark.sandbox
@pytest.mark.asyncio
async def test_a_download_goes_on_where_its_connection_broke(url: str, line: BadLine) -> None:
    content = bytes(range(256)) * 8192
    async with AsyncControlClient(url) as straight, straight.session() as session:
        await session.upload("a", content)
        line.cut_after = [0, 300_000, 700_000, 200]
        async with AsyncControlClient(line.url) as client:
            assert await client.files.download(session.id, "a") == content
        assert not line.cut_after


@pytest.mark.sandbox
@pytest.mark.asyncio
async def test_a_file_that_changed_meanwhile_is_not_put_together_of_two(url: str, line: BadLine) -> None:
    async with AsyncControlClient(url) as straight, straight.session() as session:
        await session.upload("a", b"1" * 2_000_000)
        line.cut_after = [500_000]
        async with AsyncControlClient(line.url) as client:
            parts = client.files.parts(session.id, "a")
            await anext(parts)
            await session.upload("a", b"2" * 2_000_000)
            with pytest.raises(ServerError, match="changed"):
                async for _ in parts:
                    pass


@pytest.mark.asyncio
async def test_a_server_that_has_no_room_is_asked_again(line: BadLine, client: AsyncControlClient) -> None:
    line.answers = [BUSY, BUSY]
    assert (await client.server.health()).status == "healthy"
    assert line.connections == 3


@pytest.mark.asyncio
async def test_who_is_told_to_come_back_in_an_hour_is_told_so(line: BadLine, client: AsyncControlClient) -> None:
    line.answers = [LATER]
    with pytest.raises(ServerError) as caught:
        await client.templates.list()
    assert (caught.value.status, caught.value.retry_after, line.connections) == (503, 3600.0, 1)


@pytest.mark.asyncio
async def test_what_is_neither_read_nor_made_is_asked_once(line: BadLine, client: AsyncControlClient) -> None:
    line.answers = [BUSY, BUSY]
    with pytest.raises(ServerError):
        await client.sessions.renew("sess_1")
    with pytest.raises(ServerError):
        await client.keys.create("a", "b")
    assert line.connections == 2


@pytest.mark.asyncio
async def test_a_server_that_always_breaks_off_is_given_up(line: BadLine) -> None:
    line.cut_after = [0] * 10
    async with AsyncControlClient(line.url, retries=2) as client:
        with pytest.raises(ServerError) as caught:
            await client.server.health()
    assert (caught.value.status, line.connections) == (0, 3)


@pytest.mark.asyncio
async def test_where_no_server_is_that_is_said_with_its_address() -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        address = f"http://127.0.0.1:{gone.getsockname()[1]}"
    async with AsyncControlClient(address, retries=1) as client:
        with pytest.raises(ServerError, match=address) as caught:
            await client.server.health()
    assert caught.value.status == 0


@pytest.mark.asyncio
async def test_a_server_that_says_nothing_is_given_up_after_a_while() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        async with AsyncControlClient(url, timeout=0.1, retries=0) as client:
            with pytest.raises(ServerError, match="no answer within"):
                await client.server.health()


class Pages(http.server.BaseHTTPRequestHandler):
    """A web server that is not ours."""

    def do_GET(self) -> None:
        """A page for everything, and a way that leads elsewhere."""
        is_health = self.path.endswith("/health")
        content = b"<html>welcome</html>"
        self.send_response(200 if is_health else 302)
        self.send_header("Location", "http://198.51.100.1/")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments: object) -> None:
        """Says nothing."""


@pytest.fixture
def stranger() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Pages) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.mark.asyncio
async def test_another_server_is_known_as_such_and_its_ways_are_not_followed(stranger: str) -> None:
    async with AsyncControlClient(stranger, "ipybox_secret") as client:
        with pytest.raises(ServerError, match="is it an ipybox server"):
            await client.server.health()
        with pytest.raises(ServerError, match="302"):
            await client.templates.list()


@pytest.mark.asyncio
async def test_no_proxy_of_the_environment_sees_what_goes_to_this_machine(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    async with AsyncControlClient(url, retries=0) as client:
        assert (await client.server.health()).status == "healthy"
