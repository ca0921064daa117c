"""What every request passes before anything else looks at it, and every answer after. Floor: control.

In this order: it gets an id; its ``Host`` has to be one of ours; a page of a stranger may not change anything; its body
may be neither too large nor too slow. Answers get the id, headers for browsers, and a line in the log.

It has to be the outermost layer: ``application = Guard(FastAPI(...), settings, admit=Admission(...))``. Whoever finds
out who asks leaves a ``Principal`` in ``request.state.principal`` and a ``RateState`` in ``request.state.rate``.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import bind_contextvars, reset_contextvars

from ipybox.control.access.bodies import LimitedBody
from ipybox.control.access.cookies import harmless_cookies
from ipybox.control.access.hosts import AllowedHosts, HostPort, parse_host
from ipybox.control.access.metrics import ServerMetrics
from ipybox.control.access.origins import SAFE_METHODS, Origins
from ipybox.control.access.page_headers import API_HEADERS
from ipybox.control.access.problems import MEDIA_TYPE, Problem, problem, problem_of
from ipybox.control.access.rates import RateState
from ipybox.control.access.redaction import printable
from ipybox.control.access.scopes import Principal
from ipybox.control.access.tracing import called_by
from ipybox.control.errors import FileTooLargeError
from ipybox.control.settings import ServerSettings

log = logging.getLogger("ipybox.access")

BODY_SECONDS = 30.0
"""For how long the body of a request may make no progress."""
READ_SECONDS = 60.0
"""For how long a client may not read what it is sent."""
UNMATCHED = "unmatched"
"""The route of what has none."""

_API_PREFIX = "/api/v1"
_FRAMING_BYTES = 64 * 1024  # what multipart puts around a file
_UPLOAD_METHODS = frozenset({"POST", "PUT"})
_UPLOAD_PATH = re.compile(r"/(?:api/v1|console)/sessions/[^/]+/files(?:/.*)?", re.DOTALL)
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
_QUIET = frozenset({"/metrics", "/api/v1/health"})  # asked for every few seconds by machines
_LONGEST_PATH = 300
_PIECE = 64 * 1024
_LOOKED_AT = frozenset(
    {
        b"host",
        b"origin",
        b"sec-fetch-site",
        b"content-length",
        b"expect",
        b"transfer-encoding",
        b"traceparent",
        b"x-request-id",
        b"access-control-request-method",
        b"access-control-request-private-network",
    }
)
_ENCODED_HEADERS = tuple((name.lower().encode(), value.encode()) for name, value in API_HEADERS.items())


def is_upload(method: str, path: str) -> bool:
    """Whether the body of such a request is a file."""
    return method in _UPLOAD_METHODS and _UPLOAD_PATH.fullmatch(path) is not None


class Guard:
    """An ASGI application around another one.

    Args:
        admit: Finds out who asks, before anything of a body is read; what it raises is the answer.
        metrics: Where requests are counted.
        is_upload: Says of method and path whether the body may be as large as a file.
        body_seconds: For how long the body of a request may make no progress.
        read_seconds: For how long a client may not read what it is sent.

    Raises:
        ServerSettingsError: ``allowed_hosts`` or ``cors_origins`` make no sense.
    """

    def __init__(
        self,
        app: ASGIApp,
        settings: ServerSettings,
        *,
        admit: Callable[[Scope], Awaitable[None]] | None = None,
        metrics: ServerMetrics | None = None,
        is_upload: Callable[[str, str], bool] = is_upload,
        body_seconds: float = BODY_SECONDS,
        read_seconds: float = READ_SECONDS,
    ) -> None:
        self.app = app
        self._hosts = AllowedHosts(settings)
        self._origins = Origins(settings.cors_origins)
        self._limit = settings.max_request_bytes
        self._upload_limit = max(settings.max_upload_bytes + _FRAMING_BYTES, settings.max_request_bytes)
        self._is_upload = is_upload
        self._admit = admit
        self._metrics = metrics
        self._body_seconds = body_seconds
        self._read_seconds = read_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves a request; refuses websockets, which browsers let any page open."""
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        scope["headers"] = harmless_cookies(scope["headers"])
        headers = _looked_at(scope)
        request_id = _request_id(headers)
        scope.setdefault("state", {})["request_id"] = request_id
        tokens = bind_contextvars(request_id=request_id)
        called_by(headers.get(b"traceparent", [None])[0])
        limit = self._upload_limit if self._is_upload(scope["method"], scope["path"]) else self._limit
        body = LimitedBody(receive, limit, self._body_seconds)
        body.is_complete = not (headers.get(b"transfer-encoding") or headers.get(b"content-length", ["0"]) != ["0"])
        answer = _Answer(scope, send, request_id, body, self._read_seconds)
        began = time.monotonic()
        try:
            await self._serve(scope, headers, answer, limit)
        finally:
            self._note(scope, answer, time.monotonic() - began)
            reset_contextvars(**tokens)

    async def _serve(self, scope: Scope, headers: dict[bytes, list[str]], answer: _Answer, limit: int) -> None:
        body = answer.body
        answer.expects_continue = b"expect" in headers
        refusal = self._refusal(scope, headers, answer)
        if refusal is not None:
            await answer.problem(refusal)
            return
        length = headers.get(b"content-length")
        if length and int(length[0]) > limit:
            await answer.problem(problem_of(FileTooLargeError(limit, "body of the request")))
            return
        try:
            if self._admit is not None:
                await self._admit(scope)
            await self.app(scope, body, answer.send)
        except Exception as error:
            if answer.is_stalled or (body.failure is not None and not answer.is_started):
                pass
            elif answer.is_complete:
                log.exception("a request failed after it was answered")
            elif answer.is_started:
                raise  # the server closes the connection, so that the client sees that something is missing
            else:
                told = problem_of(error)
                if told.status >= 500:
                    log.exception("a request failed")
                await answer.problem(told)
        if answer.is_stalled:
            log.warning("a client did not read its answer for %g s", self._read_seconds)
        elif body.failure is not None and not answer.is_started:
            slow = isinstance(body.failure, TimeoutError)
            await answer.problem(problem(408, str(body.failure)) if slow else problem_of(body.failure))

    def _refusal(self, scope: Scope, headers: dict[bytes, list[str]], answer: _Answer) -> Problem | None:
        """Why a request is not served at all; None if it is."""
        if not scope["path"].startswith("/") or "\0" in scope["path"]:
            return problem(400, "the target of the request must be a path")
        named = headers.get(b"host", [])
        host = parse_host(named[0]) if len(named) == 1 else None
        if host is None:
            return problem(400, "the request needs one Host header, with a name or an address")
        if host not in self._hosts:
            return problem(
                421, f"this server is not called {host.host!r}; its setting allowed_hosts says by which names it is"
            )
        if any(len(headers.get(name, [])) > 1 for name in (b"origin", b"sec-fetch-site", b"content-length")):
            return problem(400, "Origin, Sec-Fetch-Site and Content-Length may be sent once")
        length = headers.get(b"content-length")
        if length and (not length[0].isascii() or not length[0].isdigit() or len(length[0]) > 18):
            return problem(400, "Content-Length must be a number")
        if length and b"transfer-encoding" in headers:
            # A proxy in front may go by the other one, and take what follows for a request of somebody else.
            said = "Content-Length and Transfer-Encoding contradict each other"
            return problem(400, said, headers={"Connection": "close"})
        return self._foreign(scope, headers, host, answer)

    def _foreign(
        self, scope: Scope, headers: dict[bytes, list[str]], host: HostPort, answer: _Answer
    ) -> Problem | None:
        """Refuses what a page of another origin may not send, and answers what a browser asks before it lets one."""
        origin = headers.get(b"origin", [None])[0]
        if not self._origins.is_empty:
            answer.vary_by_origin = True
            if origin is not None and self._origins.may_read(origin):
                answer.more_headers.update(self._origins.answer(origin))
        if scope["method"] == "OPTIONS" and origin is not None and b"access-control-request-method" in headers:
            private = headers.get(b"access-control-request-private-network", [""])[0].strip().lower() == "true"
            leave = self._origins.preflight(origin, private_network=private)
            if leave is not None:
                return Problem(204, {}, leave)
            return problem(403, "pages of that origin may not use this server; its setting cors_origins says which may")
        if scope["method"] not in SAFE_METHODS and not self._origins.may_change(
            origin=origin,
            fetch_site=headers.get(b"sec-fetch-site", [None])[0],
            host=host,
            scheme=scope.get("scheme", "http"),
        ):
            return problem(
                403,
                "a page of another origin may not change anything here; the setting cors_origins says which may",
                slug="foreign-origin",
            )
        return None

    def _note(self, scope: Scope, answer: _Answer, seconds: float) -> None:
        route = route_of(scope)
        if self._metrics is not None:
            self._metrics.observe_request(route, scope["method"], answer.status, seconds)
        principal = scope["state"].get("principal")
        path = scope["path"]
        level = logging.DEBUG if path in _QUIET and answer.status < 400 else logging.INFO
        log.log(
            level,
            "request",
            extra={
                "method": printable(scope["method"][:20]),
                # Never what stands after the '?', where people put what is secret.
                "path": printable(path[:_LONGEST_PATH]),
                "route": route,
                "status": answer.status,
                "complete": answer.is_complete,
                "duration_ms": round(seconds * 1000, 1),
                "bytes_in": answer.body.size,
                "bytes_out": answer.size,
                "address": address_of(scope),
                "key": principal.key_id if isinstance(principal, Principal) else None,
            },
        )


def route_of(scope: Scope) -> str:
    """Template of the route that a request has taken, such as ``/api/v1/sessions/{id}``; ``unmatched`` for none."""
    path = getattr(scope.get("route"), "path", None)
    if not isinstance(path, str):
        return UNMATCHED
    # The framework leaves out the prefix with which a router is included.
    if scope["path"].startswith(f"{_API_PREFIX}/") and not path.startswith(_API_PREFIX):
        return _API_PREFIX + path
    return path


def address_of(scope: Scope) -> str:
    """Address of the client; empty if the server does not know it."""
    client = scope.get("client")
    return str(client[0]) if client else ""


class _Answer:
    """The answer to one request on its way out."""

    def __init__(self, scope: Scope, send: Send, request_id: str, body: LimitedBody, read_seconds: float) -> None:
        self.status = 0
        self.size = 0
        self.is_started = self.is_complete = self.is_stalled = False
        self.body = body
        self.expects_continue = False
        self.more_headers: dict[str, str] = {}
        self.vary_by_origin = False
        self._overruled = False
        self._scope = scope
        self._send = send
        self._request_id = request_id
        self._read_seconds = read_seconds

    async def send(self, message: Message) -> None:
        """What the application sends with."""
        if not self.is_started and self.body.failure is not None and not self._overruled:
            return  # the client is told something else, whatever was made of the failure
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message = {**message, "headers": self._completed(list(message.get("headers", ())))}
            if not self.body.is_complete:
                if not self.expects_continue:
                    await self.body.discard()
                if not self.body.is_complete:
                    message["headers"].append((b"connection", b"close"))
        for part in _parts(message):
            try:
                async with asyncio.timeout(self._read_seconds) as timeout:
                    await self._send(part)
            except TimeoutError:
                if not timeout.expired():
                    raise
                self.is_stalled = True
                raise ConnectionResetError("the client does not read") from None
            self.is_started = True
            if part["type"] == "http.response.body":
                self.size += len(part.get("body", b""))
                self.is_complete = not part.get("more_body", False)
            elif part["type"] == "http.response.pathsend":
                self.is_complete = True

    async def problem(self, told: Problem) -> None:
        """Answers in place of the application."""
        self._overruled = True
        body = b""
        headers = [(name.lower().encode(), value.encode("latin-1")) for name, value in told.headers.items()]
        if told.status != 204:
            told.body["request_id"] = self._request_id
            told.body["instance"] = self._scope["path"][:_LONGEST_PATH]
            body = told.encoded()
            headers += [(b"content-type", MEDIA_TYPE.encode()), (b"content-length", str(len(body)).encode())]
        await self.send({"type": "http.response.start", "status": told.status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})

    def _completed(self, headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        present = {name.lower() for name, _ in headers}
        headers += [each for each in _ENCODED_HEADERS if each[0] not in present]
        headers = [each for each in headers if each[0].lower() != b"x-request-id"]
        headers.append((b"x-request-id", self._request_id.encode()))
        rate = self._scope["state"].get("rate")
        more: Mapping[str, str] = self.more_headers
        if isinstance(rate, RateState):
            more = {**more, **rate.headers}
        headers += [
            (name.lower().encode(), value.encode())
            for name, value in more.items()
            if name.lower().encode() not in present
        ]
        if self.vary_by_origin:
            headers.append((b"vary", b"Origin"))
        return headers


def _parts(message: Message) -> Iterator[Message]:
    """What is large, in pieces. Handed over at once, all of it is held for who does not read, and no limit counts."""
    body = message.get("body", b"")
    if len(body) <= _PIECE:
        yield message
        return
    for start in range(0, len(body), _PIECE):
        more = start + _PIECE < len(body) or message.get("more_body", False)
        yield {"type": message["type"], "body": body[start : start + _PIECE], "more_body": more}


def _looked_at(scope: Scope) -> dict[bytes, list[str]]:
    """The headers that matter here, each with all of its values."""
    found: dict[bytes, list[str]] = {}
    for name, value in scope["headers"]:
        name = name.lower()
        if name in _LOOKED_AT:
            found.setdefault(name, []).append(value.decode("latin-1").strip(" \t"))
    return found


def _request_id(headers: dict[bytes, list[str]]) -> str:
    given = headers.get(b"x-request-id", [])
    if len(given) == 1 and _REQUEST_ID.fullmatch(given[0]):
        return given[0]
    return f"req_{secrets.token_hex(8)}"
