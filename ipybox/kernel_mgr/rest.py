"""A gateway's REST interface, as far as a client needs it. Floor: kernel_mgr."""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import dataclass
from typing import Any

import aiohttp

from ipybox.errors import GatewayConnectionError, GatewayFullError, KernelStartError

_NOT_OURS = "the server there is not an ipybox gateway"


class KernelNotFoundError(LookupError):
    """The gateway has no kernel with that id."""


class KernelNotReadyError(RuntimeError):
    """The kernel is there and will not answer."""


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    server: str
    text: str
    retry_after: str | None


class GatewayApi:
    """Talks to one gateway.

    Args:
        host: Where it listens.
        port: Its port.
        auth_token: Its token, if it wants one.
        timeout: Seconds for one request.
    """

    def __init__(self, host: str, port: int, auth_token: str | None, timeout: float) -> None:
        self.address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        self.headers = {"Authorization": f"token {auth_token}"} if auth_token else {}
        self._timeout = timeout
        self._http: aiohttp.ClientSession | None = None

    async def check(self) -> None:
        """Makes sure that an ipybox gateway answers there and accepts us. Raises GatewayConnectionError."""
        answer = await self._call("GET", "/api/kernels")
        if not answer.server.startswith("ipybox/"):
            what = f" ({answer.server})" if answer.server else ""
            raise GatewayConnectionError(self.address, f"the server there{what} is not an ipybox gateway")
        if answer.status in (401, 403):
            raise self._refused(answer.status)
        if answer.status != 200:
            raise GatewayConnectionError(self.address, f"it answered {answer.status}: {answer.text[:500]}")

    async def create_kernel(self, name: str | None) -> dict[str, Any]:
        """Starts a kernel and returns its model. Raises KernelStartError and GatewayFullError."""
        model = await self._model("POST", "/api/kernels", {} if name is None else {"name": name}, starts=True)
        if not isinstance(model.get("id"), str):
            raise GatewayConnectionError(self.address, _NOT_OURS)
        return model

    async def kernel(self, kernel_id: str) -> dict[str, Any]:
        """A kernel's model. Raises KernelNotFoundError."""
        return await self._model("GET", f"/api/kernels/{kernel_id}")

    async def delete_kernel(self, kernel_id: str) -> None:
        """Ends a kernel; one that is gone already is fine."""
        try:
            await self._model("DELETE", f"/api/kernels/{kernel_id}")
        except KernelNotFoundError:
            pass

    async def interrupt(self, kernel_id: str) -> None:
        """Interrupts a kernel."""
        await self._model("POST", f"/api/kernels/{kernel_id}/interrupt", {})

    async def restart(self, kernel_id: str) -> dict[str, Any]:
        """Replaces a kernel's process; returns the kernel's model when the new one answers.

        Raises KernelStartError and KernelNotFoundError.
        """
        return await self._model("POST", f"/api/kernels/{kernel_id}/restart", {}, starts=True)

    async def close(self) -> None:
        """Closes the connections."""
        http, self._http = self._http, None
        if http is not None:
            await http.close()

    async def _model(self, method: str, path: str, body: Any = None, starts: bool = False) -> dict[str, Any]:
        answer = await self._call(method, path, body)
        if answer.status == 404:
            if path == "/api/kernels":
                raise GatewayConnectionError(self.address, _NOT_OURS)
            raise KernelNotFoundError(path)
        if answer.status in (401, 403):
            raise self._refused(answer.status)
        if answer.status == 503 and starts and (answer.retry_after or "").isdecimal():
            raise GatewayFullError(self.address, _message(answer.text), float(answer.retry_after or 0))
        if answer.status >= 400:
            why = f"the gateway answered {answer.status} to {method} {path}: {answer.text[:500]}"
            raise KernelStartError(why) if starts else GatewayConnectionError(self.address, why)
        if not answer.text:
            return {}
        try:
            model = json.loads(answer.text)
        except (ValueError, RecursionError):
            model = None
        if not isinstance(model, dict):
            raise GatewayConnectionError(self.address, _NOT_OURS)
        return model

    async def _call(self, method: str, path: str, body: Any = None) -> _Answer:
        """One request with its whole answer. All trouble on the way is a GatewayConnectionError."""
        if self._http is None:
            self._http = aiohttp.ClientSession(
                headers=self.headers,
                timeout=aiohttp.ClientTimeout(total=self._timeout),
                connector=aiohttp.TCPConnector(force_close=True),
            )
        try:
            url = self.address + path
            async with self._http.request(method, url, json=body, allow_redirects=False) as answer:
                content = await answer.content.read()
                server = answer.headers.get("Server", "")
                retry_after = answer.headers.get("Retry-After")
                return _Answer(answer.status, server, content.decode("utf-8", "replace"), retry_after)
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
            raise GatewayConnectionError(self.address, reason(error)) from error

    def _refused(self, status: int) -> GatewayConnectionError:
        if status == 401:
            return GatewayConnectionError(self.address, "it requires a valid auth_token, and this one is not")
        return GatewayConnectionError(self.address, "it refuses requests that use this name for it")


def _message(text: str) -> str:
    """What a gateway says in an error."""
    try:
        return str(json.loads(text)["message"])[:500]
    except (ValueError, RecursionError, KeyError, TypeError):
        return text[:500]


def reason(error: BaseException) -> str:
    """Why a connection failed, in words."""
    if isinstance(error, aiohttp.ClientConnectorDNSError | UnicodeError):
        return "the host name does not resolve"
    if isinstance(error, asyncio.TimeoutError):
        return "it did not answer in time"
    if isinstance(error, aiohttp.ClientConnectorError):
        number = error.os_error.errno
        return os.strerror(number) if number else str(error)
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "the server there closed the connection without an answer"
    if isinstance(error, aiohttp.ClientResponseError):
        return "the server there does not speak HTTP"
    return str(error) or type(error).__name__
