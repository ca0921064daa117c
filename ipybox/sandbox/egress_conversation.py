"""One connection of sandboxed code to the egress proxy, from its first byte to its end. Floor: sandbox."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import TypeVar

from ipybox.sandbox.dialing import RefusedError, Route, UnreachableError
from ipybox.sandbox.egress_gate import EgressLimits, Gate, Protocol, log
from ipybox.sandbox.hosts import DEFAULT_PORTS, HostError, parse_host
from ipybox.sandbox.http_framing import EndlessBody, FramingError, parse_response_head
from ipybox.sandbox.proxy_requests import (
    LARGEST_HEAD,
    MOST_HEADERS,
    SOCKS_NO_AUTHENTICATION,
    SOCKS_NOT_ALLOWED,
    SOCKS_OK,
    SOCKS_UNREACHABLE,
    HttpRequest,
    RequestError,
    SocksError,
    check_request_line,
    parse_request_head,
    read_socks_greeting,
    read_socks_request,
    socks_reply,
)
from ipybox.sandbox.streams import Stream, Touch, idle_limit, splice
from ipybox.sandbox.tls_hello import HelloError, HelloReader

_SOCKS5 = b"\x05"
_SOCKS4 = b"\x04"
_LONGEST_HOST = 253
_PHRASES = {
    400: "Bad Request",
    403: "Forbidden",
    408: "Request Timeout",
    431: "Request Header Fields Too Large",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Gateway Timeout",
}

T = TypeVar("T")


def answer(status: int, text: str, denied: str | None = None) -> bytes:
    """A complete HTTP response in plain text."""
    body = f"ipybox: {text}\n".encode("ascii", "backslashreplace")
    lines = [f"HTTP/1.1 {status} {_PHRASES[status]}"]
    if denied is not None:
        lines.append(f"X-Ipybox-Denied: {denied}")
    lines += ["Content-Type: text/plain; charset=us-ascii", f"Content-Length: {len(body)}", "Connection: close"]
    return "\r\n".join([*lines, "", ""]).encode("ascii", "backslashreplace") + body


class Conversation:
    """One connection, which ends with :meth:`run`.

    Args:
        client: The end that leads into the sandbox.
        gate: Decides what may be reached.
        limits: Bound how long it may take.
    """

    def __init__(self, client: Stream, gate: Gate, limits: EgressLimits) -> None:
        self._client, self._gate, self._limits = client, gate, limits
        self._deadline = asyncio.get_running_loop().time() + limits.head

    async def run(self) -> None:
        """Serve the connection and close it."""
        try:
            async with asyncio.timeout_at(self._deadline):
                first = await self._client.read_exactly(1)
            if first == _SOCKS5:
                await self._socks()
            elif first == _SOCKS4:
                pass  # it has no reply that would not be taken for another protocol's
            else:
                await self._http(first)
        except (OSError, EOFError) as error:  # either end went away, or took too long
            log.debug("a connection broke: %r", error)
            self._client.reset()
        await self._client.hang_up(self._limits.idle)  # which is as long as what is unsent may take

    # ---- HTTP ---------------------------------------------------------------------------------------------------

    async def _http(self, first: bytes) -> None:
        try:
            request = await self._read_request(first)
        except RequestError as error:
            log.info("refused a request: %s", error)
            await self._answer(error.status, f"the proxy does not take this request: {error}")
            return
        protocol: Protocol = "connect" if request.is_tunnel else "http"
        route_name = f"{request.host[:_LONGEST_HOST]}:{request.port}"
        # A parent proxy is asked to tunnel websockets; plain requests it passes on itself.
        tunnel = request.is_tunnel or request.websocket
        try:
            route = await self._gate.admit(request.host, request.port, protocol)
            server = await self._gate.dial(route, tunnel=tunnel)
        except RefusedError as refusal:
            await self._answer(403, _explain(request.host, request.port, refusal.reason), refusal.reason)
            return
        except UnreachableError as error:
            await self._answer(502, f"can't reach {route_name}: {error}")
            return
        try:
            async with idle_limit(self._limits.idle) as touch:
                if request.is_tunnel:
                    await self._client.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
                    await self._tunnel(server, route, protocol, request.port, touch)
                else:
                    await self._exchange(server, request, route, touch)
        except TimeoutError:
            if self._client.has_sent:
                raise
            await self._answer(504, f"{route_name} did not answer in time")
        finally:
            server.abort()

    async def _read_request(self, first: bytes) -> HttpRequest:
        try:
            async with asyncio.timeout_at(self._deadline):
                head = first
                if not first.isalpha():
                    raise RequestError("neither HTTP nor SOCKS5")
                for _ in range(MOST_HEADERS + 2):
                    try:
                        line = await self._client.read_line(LARGEST_HEAD - len(head))
                    except ValueError:
                        raise RequestError("head too large", 431) from None
                    if not line.endswith(b"\r\n"):
                        raise RequestError("bare line feed in the head")
                    if head == first:
                        check_request_line(first + line)  # HTTP/0.9 would have us wait for headers
                    head += line
                    if line == b"\r\n":
                        return parse_request_head(head)
        except TimeoutError:
            raise RequestError("it took too long", 408) from None
        raise RequestError("too many headers", 431)

    async def _answer(self, status: int, text: str, denied: str | None = None) -> None:
        async with asyncio.timeout(self._limits.linger):
            await self._client.send(answer(status, text, denied))
        await self._client.linger(self._limits.linger)

    async def _exchange(self, server: Stream, request: HttpRequest, route: Route, touch: Touch) -> None:
        """One request and its response."""
        through = route.parent is not None and not request.websocket
        authorization = route.parent.authorization if route.parent and through else None
        host = route.host
        await server.send(request.head_for(host, proxy_authorization=authorization, through_proxy=through))
        faults: list[str] = []
        upload = asyncio.ensure_future(self._upload(server, request, faults, touch))
        try:
            await self._download(server, request, touch, through)
        except (OSError, EOFError, FramingError) as error:
            if self._client.has_sent:
                self._client.reset()  # the only way to say that the response is not complete
            elif faults:
                await self._answer(400, f"the proxy does not take this request: {faults[0]}")
            else:
                log.debug("no response: %r", error)
                await self._answer(502, f"{route.host}:{request.port} gave no usable response")
        else:
            upload.cancel()
            await self._client.flush()
            await self._client.linger(self._limits.linger)
        finally:
            upload.cancel()
            await asyncio.gather(upload, return_exceptions=True)

    async def _upload(self, server: Stream, request: HttpRequest, faults: list[str], touch: Touch) -> None:
        try:
            body = request.body()
            while not body.done:
                try:
                    data = await self._client.read()
                    if not data:
                        raise FramingError("unfinished body")
                    data = data[: body.feed(data)]
                except FramingError as error:
                    faults.append(str(error))
                    raise
                except OSError:
                    server.abort()
                    raise
                touch()
                await server.send(data)
        except OSError:
            pass  # the server takes no more of it; what it has to say about that is under way
        except Exception:
            server.abort()
            raise

    async def _download(self, server: Stream, request: HttpRequest, touch: Touch, through: bool) -> None:
        while True:
            response = parse_response_head(await _read_response_head(server), method=request.method)
            touch()
            if (response.status == 101 and not request.websocket) or (response.status == 407 and through):
                raise FramingError("a response to what the client did not ask for")
            await self._client.send(response.head)
            if response.status == 101:
                await splice(self._client, server, touch)
                return
            if not response.interim:
                break
        body = response.body
        while not body.done:
            data = await server.read()
            if not data:
                if isinstance(body, EndlessBody):
                    return
                raise EOFError("unfinished response")
            touch()
            await self._client.send(data[: body.feed(data)])

    # ---- SOCKS5 -------------------------------------------------------------------------------------------------

    async def _socks(self) -> None:
        try:
            async with asyncio.timeout_at(self._deadline):
                await self._drive(read_socks_greeting())
                await self._client.send(SOCKS_NO_AUTHENTICATION)
                host, port = await self._drive(read_socks_request())
        except SocksError as error:
            log.info("refused a request: %s", error)
            await self._end_socks(error.reply)
            return
        try:
            route = await self._gate.admit(host, port, "socks5")
            server = await self._gate.dial(route, tunnel=True)
        except RefusedError:
            await self._end_socks(socks_reply(SOCKS_NOT_ALLOWED))
            return
        except UnreachableError:
            await self._end_socks(socks_reply(SOCKS_UNREACHABLE))
            return
        try:
            async with idle_limit(self._limits.idle) as touch:
                await self._client.send(socks_reply(SOCKS_OK))
                await self._tunnel(server, route, "socks5", port, touch)
        finally:
            server.abort()

    async def _drive(self, reader: Generator[int, bytes, T]) -> T:
        wanted = next(reader)
        while True:
            data = await self._client.read_exactly(wanted)
            try:
                wanted = reader.send(data)
            except StopIteration as end:
                result: T = end.value
                return result

    async def _end_socks(self, reply: bytes) -> None:
        await self._client.send(reply)
        await self._client.linger(self._limits.linger)

    # ---- tunnels ------------------------------------------------------------------------------------------------

    async def _tunnel(self, server: Stream, route: Route, protocol: Protocol, port: int, touch: Touch) -> None:
        """Carry bytes, once a TLS client has asked for the very host that it was let through to.

        A server that hosts many names would otherwise be a way to those that are not allowed.
        """

        async def beginning() -> bytes:
            try:
                return await self._read_beginning(route, touch)
            except RefusedError as refusal:
                await self._gate.report(str(route.host), port, protocol, allowed=False, reason=refusal.reason)
                raise

        try:
            await splice(self._client, server, touch, beginning)
            await server.hang_up(self._limits.idle)
        except RefusedError:
            pass  # the tunnel is open already, so closing it is all that can be said

    async def _read_beginning(self, route: Route, touch: Touch) -> bytes:
        hello, held = HelloReader(), bytearray()
        data = await self._client.read()
        touch()
        try:
            async with asyncio.timeout(self._limits.hello):
                while data:
                    held += data
                    if hello.feed(data):
                        break
                    data = await self._client.read()
                else:
                    return b""  # nobody can make sense of it any more
            if hello.is_tls and hello.server_name is not None and parse_host(hello.server_name) != route.host:
                raise RefusedError("TLS server name is not the requested host")
        except HelloError as error:
            raise RefusedError(str(error)) from None
        except HostError:
            raise RefusedError("malformed TLS server name") from None
        except TimeoutError:
            raise RefusedError("unfinished ClientHello") from None
        return bytes(held)


async def _read_response_head(server: Stream) -> bytes:
    head = b""
    while len(head) < LARGEST_HEAD:
        try:
            line = await server.read_line(LARGEST_HEAD)
        except ValueError:
            break
        head += line
        if line in (b"\r\n", b"\n"):
            return head
    raise FramingError("head of the response too large")


def _explain(host: str, port: int, reason: str) -> str:
    """Why a host is refused, and what the user could do."""
    host = host[:_LONGEST_HOST]
    rule = host if port in DEFAULT_PORTS else f"{host}:{port}"
    if "deniedDomains" in reason:
        way_out = "network.deniedDomains of the sandbox configuration forbids it"
    elif reason.startswith(("not in", "port ")):
        way_out = f'to allow it, add "{rule}" to network.allowedDomains of the sandbox configuration'
    elif reason.endswith(" address"):
        way_out = (
            "only public addresses are reached by name; to allow another one, add the address itself to "
            "network.allowedDomains, or pin the name to it in network.hosts of the sandbox configuration"
        )
    else:
        way_out = "write the host in its usual form; network.allowedDomains says which hosts are allowed"
    return f"{host}:{port} is blocked: {reason}; {way_out}"
