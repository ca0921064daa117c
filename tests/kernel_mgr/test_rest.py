"""What a client says about whatever answers at an address, against small real servers."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from ipybox.errors import GatewayConnectionError, IpyboxError, KernelStartError
from ipybox.kernel_mgr.rest import GatewayApi, KernelNotFoundError

PATIENCE = 10.0
ENOUGH = 5.0
"""Seconds for a request that is answered at once."""
SHORT = 0.1
"""Seconds for a request that is never answered."""
OURS = "ipybox/9.9"
NO_NAME = ".".join(["a" * 60] * 6)
"""Longer than a host name can be, so no name server is asked for it."""


@dataclass
class Server:
    """What answers, and what it was asked."""

    port: int = 0
    requests: list[str] = field(default_factory=list)

    @property
    def body(self) -> Any:
        """Body of the only request, as JSON."""
        (request,) = self.requests
        return json.loads(request.partition("\r\n\r\n")[2])

    def header(self, name: str) -> str | None:
        """A header of the only request."""
        (request,) = self.requests
        found = re.search(rf"^{name}: (.*)\r$", request, re.MULTILINE | re.IGNORECASE)
        return found[1] if found else None


@asynccontextmanager
async def serving(answer: bytes, *, hang_up: bool = True, host: str = "127.0.0.1") -> AsyncIterator[Server]:
    """A server that answers each request with the same bytes, and then hangs up or says no more."""
    server = Server()
    over = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
            body = await reader.readexactly(int(length[1])) if length else b""
            server.requests.append((head + body).decode())
            writer.write(answer)
            await writer.drain()
            if not hang_up:
                await over.wait()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client left first
        finally:
            writer.close()

    listener = await asyncio.start_server(serve, host, 0)
    server.port = listener.sockets[0].getsockname()[1]
    async with listener:
        try:
            yield server
        finally:
            over.set()


@contextmanager
def silent_port() -> Iterator[int]:
    """A port of the loopback interface that is ours, on which nobody listens."""
    with ExitStack() as stack:
        port = 0
        for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
            try:
                holder = stack.enter_context(socket.socket(family))
                holder.bind((address, port))
            except OSError:
                continue  # no IPv6 here, so nobody listens there either
            port = holder.getsockname()[1]
        yield port


@asynccontextmanager
async def talking_to(
    port: int, *, host: str = "127.0.0.1", token: str | None = None, timeout: float = ENOUGH
) -> AsyncIterator[GatewayApi]:
    api = GatewayApi(host, port, token, timeout)
    try:
        async with asyncio.timeout(PATIENCE):
            yield api
    finally:
        await api.close()


def http(status: str = "200 OK", body: bytes | str = b"", *, server: str | None = OURS, **headers: str) -> bytes:
    content = body.encode() if isinstance(body, str) else body
    lines = [f"HTTP/1.1 {status}"]
    given = {"Content-Length": str(len(content)), **{name.replace("_", "-"): text for name, text in headers.items()}}
    if server is not None:
        given["Server"] = server
    lines += [f"{name}: {text}" for name, text in given.items()]
    return "\r\n".join([*lines, "", ""]).encode() + content


async def complaint(answer: bytes, *, hang_up: bool = True, timeout: float = ENOUGH) -> GatewayConnectionError:
    """How :meth:`GatewayApi.check` refuses a server."""
    async with serving(answer, hang_up=hang_up) as server, talking_to(server.port, timeout=timeout) as api:
        with pytest.raises(GatewayConnectionError) as caught:
            await api.check()
    assert caught.value.address == f"http://127.0.0.1:{server.port}"
    return caught.value


# ---- is it a gateway of ours? -----------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_a_gateway_of_ours_is_accepted() -> None:
    async with serving(http(body="[]")) as server, talking_to(server.port) as api:
        await api.check()
    assert server.requests[0].startswith("GET /api/kernels HTTP/1.1\r\n")


@pytest.mark.parametrize("status", ["200 OK", "404 Not Found", "401 Unauthorized", "500 Oops", "302 Found"])
@pytest.mark.parametrize("name", ["nginx/1.2", None])
@pytest.mark.asyncio
async def test_any_other_server_is_called_what_it_is_not(status: str, name: str | None) -> None:
    error = await complaint(http(status, "<html>", server=name, Location="/elsewhere"))
    assert "is not an ipybox gateway" in error.reason
    assert (name or "there is") in error.reason


@pytest.mark.parametrize(("status", "word"), [("401 Unauthorized", "auth_token"), ("403 Forbidden", "refuses")])
@pytest.mark.asyncio
async def test_a_gateway_of_ours_that_does_not_let_us_in_says_what_is_missing(status: str, word: str) -> None:
    error = await complaint(http(status))
    assert word in error.reason
    assert "is not an ipybox gateway" not in error.reason


@pytest.mark.asyncio
async def test_a_gateway_of_ours_in_trouble_is_not_called_somebody_else() -> None:
    error = await complaint(http("500 Internal Server Error", "out of memory"))
    assert "500" in error.reason
    assert "is not an ipybox gateway" not in error.reason


@pytest.mark.asyncio
async def test_a_redirect_is_not_followed_so_that_the_token_stays_here() -> None:
    async with serving(http(body="[]")) as elsewhere:
        target = f"http://127.0.0.1:{elsewhere.port}/api/kernels"
        async with serving(http("302 Found", Location=target)) as server, talking_to(server.port, token="s") as api:
            with pytest.raises(GatewayConnectionError):
                await api.check()
    assert elsewhere.requests == []


# ---- trouble on the way -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer", [b"SSH-2.0-OpenSSH_9.2p1\r\n", b"\0" * 100, b"HTTP/1.1 abc\r\n\r\n", b"\x15\x03\x01\r\n\r\n"]
)
@pytest.mark.asyncio
async def test_a_server_of_another_kind_does_not_speak_http(answer: bytes) -> None:
    assert (await complaint(answer)).reason == "the server there does not speak HTTP"


@pytest.mark.asyncio
async def test_a_server_that_hangs_up_did_not_answer() -> None:
    assert "closed the connection" in (await complaint(b"")).reason


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\nServer: ipybox/1\r\n"])
@pytest.mark.asyncio
async def test_a_server_that_says_nothing_did_not_answer_in_time(answer: bytes) -> None:
    error = await complaint(answer, hang_up=False, timeout=SHORT)
    assert error.reason == "it did not answer in time"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
@pytest.mark.asyncio
async def test_a_port_without_a_listener_refuses(host: str) -> None:
    with silent_port() as port:
        async with talking_to(port, host=host) as api:
            with pytest.raises(GatewayConnectionError) as caught:
                await api.check()
    assert "refused" in caught.value.reason


@pytest.mark.parametrize("host", [NO_NAME, "a..b", "x" * 70])
@pytest.mark.asyncio
async def test_a_name_that_is_none_does_not_resolve(host: str) -> None:
    async with talking_to(8888, host=host) as api:
        with pytest.raises(GatewayConnectionError) as caught:
            await api.check()
    assert caught.value.reason == "the host name does not resolve"


@pytest.mark.asyncio
async def test_a_proxy_of_the_environment_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    with silent_port() as port:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{port}")
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        async with serving(http(body="[]")) as server, talking_to(server.port) as api:
            await api.check()


CUT_SHORT = b"HTTP/1.1 200 OK\r\nServer: ipybox/1\r\nContent-Length: 100\r\n\r\n" + b'{"id": '


@pytest.mark.asyncio
async def test_an_answer_that_breaks_off_is_a_connection_error() -> None:
    async with serving(CUT_SHORT) as server, talking_to(server.port) as api:
        with pytest.raises(GatewayConnectionError):
            await api.create_kernel(None)


@pytest.mark.asyncio
async def test_an_answer_that_stops_half_way_did_not_come_in_time() -> None:
    async with serving(CUT_SHORT, hang_up=False) as server, talking_to(server.port, timeout=SHORT) as api:
        with pytest.raises(GatewayConnectionError) as caught:
            await api.create_kernel(None)
    assert caught.value.reason == "it did not answer in time"


@pytest.mark.parametrize(
    "answer",
    [
        http(body=b"\xff\xfe\xfd"),
        http(body=b"\xff" * 9, Content_Encoding="gzip"),
        http(body="<html>"),
        http(body="[1]"),
        http(body="null"),
        http(body='{"no": "id"}'),
        http(body="[" * 100_000),
        http(),
    ],
    ids=["no UTF-8", "no gzip", "HTML", "list", "null", "no id", "deep", "empty"],
)
@pytest.mark.asyncio
async def test_a_new_kernel_that_nobody_can_read_is_a_connection_error(answer: bytes) -> None:
    async with serving(answer) as server, talking_to(server.port) as api:
        with pytest.raises(GatewayConnectionError):
            await api.create_kernel(None)


# ---- requests ---------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_the_token_travels_in_a_header_of_every_request_and_nowhere_else() -> None:
    async with serving(http(body='{"id": "k"}')) as server, talking_to(server.port, token="hunter2") as api:
        await api.kernel("k")
    assert server.header("Authorization") == "token hunter2"
    assert server.requests[0].count("hunter2") == 1


@pytest.mark.asyncio
async def test_without_a_token_none_is_sent() -> None:
    async with serving(http(body='{"id": "k"}')) as server, talking_to(server.port) as api:
        await api.kernel("k")
    assert server.header("Authorization") is None


@pytest.mark.parametrize(("name", "body"), [(None, {}), ("python3", {"name": "python3"})])
@pytest.mark.asyncio
async def test_a_new_kernel_is_asked_for_by_name_when_there_is_one(name: str | None, body: dict[str, str]) -> None:
    async with serving(http("201 Created", '{"id": "k1"}')) as server, talking_to(server.port) as api:
        assert (await api.create_kernel(name))["id"] == "k1"
    assert server.requests[0].startswith("POST /api/kernels HTTP/1.1\r\n")
    assert server.body == body


@pytest.mark.parametrize("verb", ["interrupt", "restart"])
@pytest.mark.asyncio
async def test_a_kernel_is_told_by_its_id(verb: str) -> None:
    async with serving(http(body='{"id": "k1"}')) as server, talking_to(server.port) as api:
        await getattr(api, verb)("k1")
    assert server.requests[0].startswith(f"POST /api/kernels/k1/{verb} HTTP/1.1\r\n")


@pytest.mark.parametrize("status", ["204 No Content", "404 Not Found"])
@pytest.mark.asyncio
async def test_a_kernel_that_is_gone_already_can_be_deleted(status: str) -> None:
    async with serving(http(status)) as server, talking_to(server.port) as api:
        await api.delete_kernel("k1")
    assert server.requests[0].startswith("DELETE /api/kernels/k1 HTTP/1.1\r\n")


@pytest.mark.parametrize("verb", ["kernel", "interrupt", "restart"])
@pytest.mark.asyncio
async def test_a_kernel_that_does_not_exist_is_not_found(verb: str) -> None:
    async with serving(http("404 Not Found", "no")) as server, talking_to(server.port) as api:
        with pytest.raises(KernelNotFoundError):
            await getattr(api, verb)("k1")


@pytest.mark.asyncio
async def test_a_gateway_that_can_not_start_kernels_says_why() -> None:
    async with serving(http("500 Oops", "no such kernelspec" + "x" * 5_000)) as server, talking_to(server.port) as api:
        with pytest.raises(KernelStartError) as caught:
            await api.create_kernel("nope")
    assert "500" in caught.value.reason
    assert "no such kernelspec" in caught.value.reason
    assert len(caught.value.reason) < 1_000


@pytest.mark.asyncio
async def test_a_new_kernel_that_is_not_found_is_an_error_of_ours() -> None:
    async with serving(http("404 Not Found", "no such kernelspec")) as server, talking_to(server.port) as api:
        with pytest.raises(IpyboxError):
            await api.create_kernel("nope")


@pytest.mark.parametrize(("status", "word"), [("401 No", "auth_token"), ("403 No", "refuses")])
@pytest.mark.asyncio
async def test_a_refused_request_says_what_is_missing(status: str, word: str) -> None:
    async with serving(http(status)) as server, talking_to(server.port) as api:
        with pytest.raises(GatewayConnectionError, match=word):
            await api.create_kernel(None)


@pytest.mark.asyncio
async def test_closing_twice_is_fine_and_a_closed_api_can_be_used_again() -> None:
    async with serving(http(body="[]")) as server, talking_to(server.port) as api:
        await api.close()
        await api.check()
        await api.close()
        await api.close()
        await api.check()
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("host", "address"),
    [("localhost", "http://localhost:80"), ("10.0.0.1", "http://10.0.0.1:80"), ("::1", "http://[::1]:80")],
)
def test_an_address_is_written_as_browsers_write_it(host: str, address: str) -> None:
    assert GatewayApi(host, 80, None, 1).address == address


@pytest.mark.asyncio
async def test_an_ipv6_address_can_be_connected_to() -> None:
    try:
        context = serving(http(body="[]"), host="::1")
        server = await context.__aenter__()
    except OSError as error:
        pytest.skip(f"no IPv6 here: {error}")
    async with talking_to(server.port, host="::1") as api:
        await api.check()
    await context.__aexit__(None, None, None)
