"""The line to a server: requests, their repetition, and answers as JSON or as a stream. Floor: control."""

from __future__ import annotations

import asyncio
import json
import ssl
import uuid
from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar

from ipybox.control.client import wire
from ipybox.control.client.decoding import UnexpectedAnswerError
from ipybox.control.errors import ServerError

try:
    import httpx
except ModuleNotFoundError as error:
    if error.name != "httpx":
        raise
    raise ModuleNotFoundError('the client needs httpx: pip install "ipybox[client]"', name="httpx") from None

T = TypeVar("T")
Params = Mapping[str, str | int | float | bool | list[str] | None]
Content = bytes | AsyncIterable[bytes]
_MOST_BYTES = 256 * 1024**2
_MOST_OF_ERROR = 64 * 1024


class Line:
    """Requests to one server. An async context manager.

    Args:
        url: Address of the server, checked.
        key: What goes into ``Authorization``; None for nothing.
        timeout: Seconds without a sign of the server after which it counts as gone.
        retries: How often a request is repeated that may be.
        verify: TLS context for a server with a certificate of one's own.
    """

    def __init__(
        self, url: str, key: str | None, *, timeout: float, retries: int, verify: ssl.SSLContext | None = None
    ) -> None:
        self.url, self.timeout = url, timeout
        self._key, self._retries, self._verify = key, retries, verify
        self._http: httpx.AsyncClient | None = None

    async def __aenter__(self) -> Self:
        if self._http is not None:
            raise RuntimeError("this client is open already")
        headers = {"Accept-Encoding": "identity"}
        if self._key is not None:
            headers["Authorization"] = f"Bearer {self._key}"
        self._http = httpx.AsyncClient(
            headers=headers,
            timeout=self.timeout,
            trust_env=not wire.is_loopback(self.url),
            follow_redirects=False,  # a key goes where it was meant to go
            verify=True if self._verify is None else self._verify,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=20),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        http, self._http = self._http, None
        if http is not None:
            await http.aclose()

    def patience(self) -> wire.Patience:
        """For something that is repeated by whoever asks for it."""
        return wire.Patience(self._retries)

    async def call(
        self,
        method: str,
        path: str,
        reads: Callable[[Any], T],
        *,
        params: Params | None = None,
        body: Mapping[str, Any] | None = None,
        content: Callable[[], Content] | None = None,
        creates: bool = False,
        only_once: bool = False,
        timeout: float | None = None,
    ) -> T:
        """Asks for JSON, and once more if that can do no harm.

        Args:
            reads: Makes of the JSON what is wanted; raises :class:`UnexpectedAnswerError`. Gets None for no content.
            content: Makes a body that is no JSON, anew for each time.
            creates: Whether it is a POST that may be repeated, by a key that makes the server do it once.
            only_once: Whether it must not be repeated, whatever it is.
            timeout: Seconds until an answer, if these are others than those of the line.

        Raises:
            ServerError: The server refused, failed, answered something else, or could not be reached.
        """
        headers = {"Idempotency-Key": uuid.uuid4().hex} if creates else {}
        if body is not None:
            headers["Content-Type"] = "application/json"
            content = partial(wire.encoded, body)
            content()  # what can't be written is an error of whoever asks, before anything is sent
        patience = self.patience()
        was_lost = False
        while True:
            try:
                said = None if content is None else content()
                async with self.open(
                    method, path, params=params, content=said, headers=headers, timeout=timeout
                ) as response:
                    answer = await self._read(response)
                break
            except ServerError as error:
                if method == "DELETE" and error.status == 404 and was_lost:
                    answer = None  # it was done, and the answer got lost
                    break
                if only_once or (method == "POST" and not creates):
                    raise
                # Another 409 than "it is still being worked on" stays one.
                await asyncio.sleep(patience.wait_for(error, is_conflict_passing=creates and was_lost))
                was_lost = was_lost or error.status == 0
        try:
            return reads(answer)
        except UnexpectedAnswerError as error:
            raise self._strange(200, str(error)) from error

    @asynccontextmanager
    async def open(
        self,
        method: str,
        path: str,
        *,
        params: Params | None = None,
        content: Content | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> AsyncIterator[httpx.Response]:
        """An answer whose body has not been read; asks once.

        Raises:
            ServerError: As :meth:`call`; also while the body is read in the block.
        """
        if self._http is None:
            raise RuntimeError("this client is not open: use it in a with block")
        said = {name: value for name, value in (params or {}).items() if value is not None}
        try:
            async with self._http.stream(
                method,
                f"{self.url}{wire.PREFIX}{path}",
                params=said or None,
                content=content,
                headers=dict(headers or {}),
                timeout=httpx.Timeout(self.timeout, read=self.timeout if timeout is None else timeout),
            ) as response:
                if response.is_success:
                    yield response
                    return
                found = bytearray()
                async for part in response.aiter_bytes():
                    found += part
                    if len(found) > _MOST_OF_ERROR:
                        break
                raise wire.error_of(
                    response.status_code, response.reason_phrase, response.headers, bytes(found), self.url
                )
        except httpx.TransportError as error:
            words = str(error) or {"ReadTimeout": f"no answer within {self.timeout:g} s"}.get(type(error).__name__, "")
            title = "Too slow" if isinstance(error, httpx.TimeoutException) else "No connection"
            raise ServerError(0, title, f"{self.url}: {words or type(error).__name__}{_hint(error)}") from error
        except (httpx.InvalidURL, httpx.DecodingError) as error:
            raise self._strange(0, str(error)) from error

    async def _read(self, response: httpx.Response) -> Any:
        found = bytearray()
        async for part in response.aiter_bytes():
            found += part
            if len(found) > _MOST_BYTES:
                raise self._strange(response.status_code, f"an answer is larger than {_MOST_BYTES} bytes")
        if response.status_code == 204 or not found:
            return None
        try:
            return json.loads(found)
        except (ValueError, RecursionError):
            raise self._strange(response.status_code, "an answer is no JSON") from None

    def _strange(self, status: int, detail: str) -> ServerError:
        return ServerError(status, "Unexpected answer", f"{self.url}: {detail}; is it an ipybox server?")


def _hint(error: httpx.TransportError) -> str:
    words = str(error)
    if "self-signed" in words or "local issuer" in words:
        return "; who trusts it names a PEM file in IPYBOX_CA_FILE, or gives tls"
    return "; does a server run there?" if isinstance(error, httpx.ConnectError) and "SSL" not in words else ""
