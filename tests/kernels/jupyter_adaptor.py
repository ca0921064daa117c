"""Jupyter's own blocking client on a gateway's websocket: what the client does is Jupyter's, the way there is ours.

Frames are made and read by jupyter_server's functions, so that the gateway is not measured by its own yardstick.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from queue import Empty
from typing import Any
from urllib.request import ProxyHandler, Request, build_opener
from uuid import uuid4

from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.jsonutil import extract_dates, json_default
from jupyter_server.services.kernels.connection.base import (
    deserialize_binary_message,
    deserialize_msg_from_ws_v1,
    serialize_binary_message,
    serialize_msg_to_ws_v1,
)
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from tests.kernels.helpers import HANG

STANDARD = "v1.kernel.websocket.jupyter.org"
"""The binary subprotocol. Without a subprotocol, messages are JSON texts, and binary only when they have buffers."""


_opener = build_opener(ProxyHandler({}))


def rest(method: str, url: str, body: dict[str, Any] | None = None) -> Any:
    """Calls the gateway's REST API and returns the decoded answer, None for an empty one."""
    data = json.dumps(body or {}).encode() if method == "POST" else None
    with _opener.open(Request(url, data, method=method), timeout=HANG) as response:
        answer = response.read()
    return json.loads(answer) if answer else None


class Channel:
    """One of a kernel's channels, with the interface that jupyter_client's channels have."""

    def __init__(self, name: str, client: WebsocketClient) -> None:
        self.messages: deque[dict[str, Any]] = deque()
        self._name = name
        self._client = client

    def get_msg(self, timeout: float | None = None) -> dict[str, Any]:
        """The next message. Waits as long as a message may take here, whatever the caller thinks of that."""
        deadline = time.monotonic() + max(HANG, timeout or 0.0)
        while not self.messages:
            try:
                self._client.receive(deadline - time.monotonic())
            except TimeoutError:
                raise Empty from None
        return self.messages.popleft()

    def send(self, message: dict[str, Any]) -> None:
        """Sends a message."""
        self._client.send(self._name, message)

    def start(self) -> None:
        """Nothing to start: the connection is there."""

    def is_alive(self) -> bool:
        """Whether there is something to stop."""
        return False


class WebsocketClient(BlockingKernelClient):  # type: ignore[misc]
    """Speaks with one kernel over ``/api/kernels/<id>/channels``.

    Args:
        websocket: The open connection.
        kernel_url: The kernel in the gateway's REST API.
    """

    def __init__(self, websocket: ClientConnection, kernel_url: str) -> None:
        super().__init__()
        self.kernel_url = kernel_url
        self._websocket = websocket
        self._channels = {name: Channel(name, self) for name in ("shell", "iopub", "stdin", "control")}

    @property
    def negotiated(self) -> str | None:
        """The subprotocol that the gateway chose."""
        return self._websocket.subprotocol

    @property
    def shell_channel(self) -> Channel:
        """Requests and their replies."""
        return self._channels["shell"]

    @property
    def iopub_channel(self) -> Channel:
        """Output and status."""
        return self._channels["iopub"]

    @property
    def stdin_channel(self) -> Channel:
        """Questions of the code, and answers."""
        return self._channels["stdin"]

    @property
    def control_channel(self) -> Channel:
        """Requests that don't wait for their turn."""
        return self._channels["control"]

    def send(self, channel: str, message: dict[str, Any]) -> None:
        """Sends a message on a channel, in the connection's protocol."""
        if self.negotiated == STANDARD:
            parts = [self.session.pack(message[part]) for part in ("header", "parent_header", "metadata", "content")]
            self._websocket.send(serialize_msg_to_ws_v1([*parts, *message.get("buffers", [])], channel))
            return
        whole = {**message, "channel": channel, "buffers": message.get("buffers", [])}
        if whole["buffers"]:
            self._websocket.send(serialize_binary_message(whole))
        else:
            self._websocket.send(json.dumps(whole, default=json_default))

    def receive(self, timeout: float) -> None:
        """Takes one message from the connection and puts it where it belongs. Raises ``TimeoutError``."""
        data = self._websocket.recv(timeout=max(0.0, timeout))
        if self.negotiated == STANDARD:
            assert isinstance(data, bytes)
            channel, parts = deserialize_msg_from_ws_v1(data)
            header, parent, metadata, content = (self.session.unpack(part) for part in parts[:4])
            message = {
                "header": extract_dates(header),
                "msg_id": header["msg_id"],
                "msg_type": header["msg_type"],
                "parent_header": extract_dates(parent),
                "metadata": metadata,
                "content": content,
                "buffers": [bytes(part) for part in parts[4:]],
            }
        else:
            message = json.loads(data) if isinstance(data, str) else deserialize_binary_message(data)
            message["buffers"] = [bytes(part) for part in message["buffers"]]
            channel = message["channel"]
        self._channels[channel].messages.append(message)


@contextmanager
def joined_kernel(url: str, kernel_id: str, subprotocol: str | None) -> Iterator[WebsocketClient]:
    """Connects to a running kernel of the gateway at ``url``; the kernel lives on.

    Args:
        url: The gateway's ``http`` address.
        kernel_id: The kernel.
        subprotocol: :data:`STANDARD`, or None for the older one without a name.
    """
    kernel_url = f"{url}/api/kernels/{kernel_id}"
    with connect(
        f"ws{kernel_url.removeprefix('http')}/channels?session_id={uuid4().hex}",
        subprotocols=None if subprotocol is None else [Subprotocol(subprotocol)],
        max_size=None,
        open_timeout=HANG,
        proxy=None,
    ) as websocket:
        yield WebsocketClient(websocket, kernel_url)
