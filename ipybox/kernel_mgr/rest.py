"""A gateway's REST interface, as far as a client needs it. Floor: kernel_mgr."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import aiohttp

from ipybox.errors import GatewayConnectionError, KernelStartError


class KernelNotFoundError(LookupError):
    """The gateway has no kernel with that id."""


class KernelNotReadyError(RuntimeError):
    """The kernel is there and will not answer."""


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
        server = ""
        async with self._request("GET", "/api/kernels") as answer:
            server = answer.headers.get("Server", "")
            if answer.status == 200 and server.startswith("ipybox/"):
                return
            if server.startswith("ipybox/") and answer.status in (401, 403):
                raise self._refused(answer.status)
        what = f" ({server})" if server else ""
        raise GatewayConnectionError(self.address, f"the server there{what} is not an ipybox gateway")

    async def create_kernel(self, name: str | None) -> dict[str, Any]:
        """Starts a kernel and returns its model."""
        body = {} if name is None else {"name": name}
        return await self._json("POST", "/api/kernels", body)

    async def kernel(self, kernel_id: str) -> dict[str, Any]:
        """A kernel's model. Raises KernelNotFoundError."""
        return await self._json("GET", f"/api/kernels/{kernel_id}")

    async def delete_kernel(self, kernel_id: str) -> None:
        """Ends a kernel; one that is gone already is fine."""
        try:
            await self._json("DELETE", f"/api/kernels/{kernel_id}")
        except KernelNotFoundError:
            pass

    async def interrupt(self, kernel_id: str) -> None:
        """Interrupts a kernel."""
        await self._json("POST", f"/api/kernels/{kernel_id}/interrupt", {})

    async def restart(self, kernel_id: str) -> dict[str, Any]:
        """Replaces a kernel's process; returns the kernel's model when the new one answers."""
        return await self._json("POST", f"/api/kernels/{kernel_id}/restart", {})

    async def close(self) -> None:
        """Closes the connections."""
        http, self._http = self._http, None
        if http is not None:
            await http.close()

    def _request(self, method: str, path: str, body: Any = None) -> _Answer:
        if self._http is None:
            self._http = aiohttp.ClientSession(
                headers=self.headers,
                timeout=aiohttp.ClientTimeout(total=self._timeout),
                connector=aiohttp.TCPConnector(force_close=True),
            )
        return _Answer(self, self._http, method, path, body)

    async def _json(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        async with self._request(method, path, body) as answer:
            if answer.status == 404:
                raise KernelNotFoundError(path)
            if answer.status in (401, 403):
                raise self._refused(answer.status)
            text = await answer.text()
            if answer.status >= 400:
                raise KernelStartError(f"the gateway answered {answer.status} to {method} {path}: {text[:500]}")
            if not text:
                return {}
            try:
                model = await answer.json(content_type=None)
            except ValueError:
                model = None
            if not isinstance(model, dict):
                raise GatewayConnectionError(self.address, "the server there is not an ipybox gateway")
            return model

    def _refused(self, status: int) -> GatewayConnectionError:
        if status == 401:
            return GatewayConnectionError(self.address, "it requires a valid auth_token, and this one is not")
        return GatewayConnectionError(self.address, "it refuses requests that use this name for it")


class _Answer:
    """A request under way, whose network trouble becomes a GatewayConnectionError."""

    def __init__(self, api: GatewayApi, http: aiohttp.ClientSession, method: str, path: str, body: Any) -> None:
        self._api = api
        self._context = http.request(method, api.address + path, json=body, allow_redirects=False)

    async def __aenter__(self) -> aiohttp.ClientResponse:
        try:
            return await self._context.__aenter__()
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
            raise GatewayConnectionError(self._api.address, reason(error)) from error

    async def __aexit__(self, *details: Any) -> None:
        await self._context.__aexit__(*details)


def reason(error: BaseException) -> str:
    """Why a connection failed, in words."""
    if isinstance(error, aiohttp.ClientConnectorDNSError):
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
