"""What the egress proxy decided reaches the execution that asked, and no kernel can make it up."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import pytest_asyncio
import zmq
from hypothesis import given, settings
from hypothesis import strategies as st
from jupyter_client.session import DELIM, Session

from ipybox.kernel_mgr import wire
from ipybox.kernel_mgr.execution_state import ExecutionState
from ipybox.kernel_mgr.hub import KernelHub
from ipybox.kernel_mgr.wire import Message
from ipybox.outputs import NetworkAccess

EXECUTION = "e1"
PATIENCE = 10.0

# ---- what an execution knows ------------------------------------------------------------------------------------


def egress(content: dict[str, Any]) -> Message:
    return Message("iopub", {"msg_id": "m", "msg_type": wire.EGRESS}, {"msg_id": EXECUTION}, {}, content)


def accesses(*contents: dict[str, Any]) -> tuple[NetworkAccess, ...]:
    state = ExecutionState(EXECUTION)
    for content in contents:
        assert state.feed(egress(content)) == []
    return state.result().network


def access(host: str, port: int = 443, allowed: bool = True, reason: str = "rule") -> dict[str, Any]:
    return {"host": host, "port": port, "allowed": allowed, "reason": reason}


def test_each_access_is_told_once_and_in_order() -> None:
    found = accesses(access("b"), access("a"), access("b"), access("b", 80), access("a", allowed=False), access("a"))
    assert found == (
        NetworkAccess("b", 443, True, "rule"),
        NetworkAccess("a", 443, True, "rule"),
        NetworkAccess("b", 80, True, "rule"),
        NetworkAccess("a", 443, False, "rule"),
    )


def test_what_was_refused_is_told_apart() -> None:
    state = ExecutionState(EXECUTION)
    for content in (access("a"), access("b", allowed=False, reason="not in the policy")):
        state.feed(egress(content))
    assert state.result().denied == (NetworkAccess("b", 443, False, "not in the policy"),)


def test_without_accesses_there_are_none() -> None:
    result = ExecutionState(EXECUTION).result()
    assert (result.network, result.denied) == ((), ())


def test_code_that_asks_for_ever_new_hosts_does_not_fill_the_memory() -> None:
    found = accesses(*(access(f"host{number}") for number in range(5000)))
    assert [each.host for each in found] == [f"host{number}" for number in range(1000)]
    assert accesses(*(access(f"host{number % 10}") for number in range(5000)), access("new"))[-1].host == "new"


def test_an_access_is_no_output_and_ends_nothing() -> None:
    state = ExecutionState(EXECUTION)
    state.feed(egress(access("a")))
    result = state.result()
    assert not state.is_over
    assert (result.text, result.outputs) == (None, ())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(["host", "port", "allowed", "reason", "x"]), JSON))
def test_nonsense_is_an_access_to_nowhere_that_was_not_allowed(content: dict[str, Any]) -> None:
    (found,) = accesses(content)
    assert isinstance(found.host, str)
    assert isinstance(found.reason, str)
    assert type(found.port) is int
    assert found.allowed is (content.get("allowed") is True)
    str(found)


# ---- who may say it ---------------------------------------------------------------------------------------------


class FakeKernel:
    """A kernel's end of the wire, which can say whatever it likes."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        self.session = Session(key=uuid4().bytes)
        self.sockets = {
            "iopub": context.socket(zmq.PUB),
            **{channel: context.socket(zmq.ROUTER) for channel in ("shell", "control", "stdin")},
        }
        ports = {f"{name}_port": socket.bind_to_random_port("tcp://127.0.0.1") for name, socket in self.sockets.items()}
        self.info = {
            "transport": "tcp",
            "ip": "127.0.0.1",
            "key": self.session.key,
            "signature_scheme": "hmac-sha256",
            **ports,
        }
        self.identities: set[bytes] = set()

    def say(self, header: bytes, content: bytes = b"{}", *, parent: bytes = b"{}") -> None:
        """Publishes a message that is signed as it should be."""
        parts = [header, parent, b"{}", content]
        self.sockets["iopub"].send_multipart([b"topic", DELIM, self.session.sign(parts), *parts])

    def answer(self, channel: str, identity: bytes, header: bytes, content: bytes = b"{}") -> None:
        """Sends a message on another channel."""
        parts = [header, b"{}", b"{}", content]
        self.sockets[channel].send_multipart([identity, DELIM, self.session.sign(parts), *parts])

    async def live(self, ready: asyncio.Future[None]) -> None:
        """Answers until the hub has heard it on both channels."""
        while not ready.done():
            while self.sockets["shell"].poll(0):
                identity = self.sockets["shell"].recv_multipart()[0]
                self.identities.add(identity)
                self.answer("shell", identity, b'{"msg_type": "kernel_info_reply"}')
            self.say(b'{"msg_type": "status"}', b'{"execution_state": "idle"}')
            await asyncio.sleep(0.01)  # the test's own end of the wire has no event loop

    async def identity(self, channel: str) -> bytes:
        """Who asked something on a channel."""
        assert await asyncio.to_thread(self.sockets[channel].poll, round(PATIENCE * 1000))
        return self.sockets[channel].recv_multipart()[0]


class Reader:
    """Reads the journal as a client does."""

    def __init__(self, hub: KernelHub) -> None:
        self.hub = hub
        self.cursor = hub.journal.next
        self.messages: list[Message] = []
        self.changed = asyncio.Event()

    def pump(self) -> None:
        while self.cursor < self.hub.journal.next:
            self.messages.append(wire.decode(wire.numbered(self.cursor, self.hub.read(self.cursor))))
            self.cursor += 1
        self.changed.set()

    async def until(self, type: str) -> list[Message]:
        """All messages up to one of this type."""
        async with asyncio.timeout(PATIENCE):
            while not any(message.type == type for message in self.messages):
                self.changed.clear()
                await self.changed.wait()
        return self.messages


@pytest_asyncio.fixture
async def wired(tmp_path: Path) -> AsyncIterator[tuple[KernelHub, FakeKernel, Reader]]:
    """A hub, the kernel that it is connected to, and somebody who listens."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    context.setsockopt(zmq.LINGER, 0)
    kernel = FakeKernel(context)
    hub = KernelHub("k", context, tmp_path, 1024 * 1024, lambda state: None)
    hub.open(kernel.info)
    ready = asyncio.ensure_future(hub.wait_ready(PATIENCE))
    await kernel.live(ready)
    await ready
    reader = Reader(hub)
    hub.subscribe(reader)
    yield hub, kernel, reader
    hub.close()
    for socket in kernel.sockets.values():
        socket.close()
    context.term()


def header(type: str, **more: str) -> bytes:
    return json.dumps({"msg_id": uuid4().hex, "msg_type": type, **more}).encode()


def escaped(data: bytes) -> bytes:
    """The same JSON, with all letters of its strings escaped."""
    return (
        json.dumps(json.loads(data))
        .translate({ord(letter): f"\\u{ord(letter):04x}" for letter in "abcdefghijklmnopqrstuvwxyz_-"})
        .encode()
    )


FORGED = {
    "plain": lambda type: header(type),
    "escaped": lambda type: escaped(header(type)),
    "one letter escaped": lambda type: header(type).replace(b"ipybox_", b"\\u0069pybox_"),
    "utf-16": lambda type: header(type).decode().encode("utf-16"),
    "utf-32": lambda type: header(type).decode().encode("utf-32"),
    "said twice": lambda type: b'{"msg_type": "stream", ' + escaped(header(type))[1:],
}


@pytest.mark.parametrize("type", [wire.EGRESS, wire.GAP, wire.OVER])
@pytest.mark.parametrize("form", list(FORGED))
@pytest.mark.asyncio
async def test_a_kernel_can_not_speak_in_the_gateway_s_name(
    wired: tuple[KernelHub, FakeKernel, Reader], form: str, type: str
) -> None:
    _, kernel, reader = wired
    kernel.say(FORGED[form](type), json.dumps(access("made.up")).encode())
    kernel.say(header("the_end"))
    assert type not in [message.type for message in await reader.until("the_end")]


@pytest.mark.parametrize("form", [lambda header: header, escaped])
@pytest.mark.asyncio
async def test_a_kernel_can_not_announce_its_own_death(wired: tuple[KernelHub, FakeKernel, Reader], form: Any) -> None:
    _, kernel, reader = wired
    kernel.say(form(header("status", session=wire.HUB_SESSION)), b'{"execution_state": "dead"}')
    kernel.say(header("the_end"))
    sessions = [message.header.get("session") for message in await reader.until("the_end")]
    assert wire.HUB_SESSION not in sessions


@pytest.mark.parametrize("channel", ["shell", "control", "stdin"])
@pytest.mark.parametrize("type", [wire.EGRESS, wire.GAP, wire.OVER])
@pytest.mark.asyncio
async def test_nor_on_another_channel(wired: tuple[KernelHub, FakeKernel, Reader], channel: str, type: str) -> None:
    hub, kernel, reader = wired
    request = wire.request(channel, "hello_request", {}, session="a client")
    hub.send("a client", channel, request.parts())
    identity = await kernel.identity(channel)
    kernel.answer(channel, identity, header(type), json.dumps(access("made.up")).encode())
    kernel.answer(channel, identity, header("the_end"))
    assert type not in [message.type for message in await reader.until("the_end")]


@pytest.mark.asyncio
async def test_the_gateway_s_own_message_names_the_execution_that_runs(
    wired: tuple[KernelHub, FakeKernel, Reader],
) -> None:
    hub, kernel, reader = wired
    asked = json.dumps({"msg_id": EXECUTION, "msg_type": "execute_request"}).encode()
    kernel.say(header("status"), b'{"execution_state": "busy"}', parent=asked)
    await reader.until("status")
    hub.note_egress("example.org", 443, False, "not in the policy")
    message = (await reader.until(wire.EGRESS))[-1]
    assert message.parent_id == EXECUTION
    assert message.header["session"] == wire.HUB_SESSION
    state = ExecutionState(EXECUTION)
    state.feed(message)
    assert state.result().network == (NetworkAccess("example.org", 443, False, "not in the policy"),)
    hub.close()
    hub.note_egress("late.example", 443, True, "")  # a hub that was closed has nobody to tell
