"""The owner's end, with an agent that was taken over."""

from __future__ import annotations

import asyncio
import os
import struct
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from ipybox.session.connection import AgentConnection, ConnectionEndedError
from ipybox.session.frames import Decoder, frame

pytestmark = pytest.mark.asyncio


class Agent:
    """The other end of the pipes, in our hands."""

    def __init__(self) -> None:
        self.requests, ours_out = os.pipe()
        ours_in, self.replies = os.pipe()
        self.reasons: list[str] = []
        self.connection = AgentConnection(ours_out, ours_in, self.reasons.append)
        self._decoder = Decoder()

    async def request(self) -> dict[str, object]:
        data = await asyncio.to_thread(os.read, self.requests, 65536)
        ((head, _),) = self._decoder.feed(data)
        return head

    def say(self, data: bytes) -> None:
        os.write(self.replies, data)

    def close(self) -> None:
        self.connection.close()
        for fd in (self.requests, self.replies):
            os.close(fd)


@pytest_asyncio.fixture
async def agent() -> AsyncIterator[Agent]:
    made = Agent()
    yield made
    made.close()


async def test_answers_find_who_asked_in_whatever_order_they_come(agent: Agent) -> None:
    one = asyncio.create_task(agent.connection.ask({"op": "one"}, seconds=None))
    first = await agent.request()
    other = asyncio.create_task(agent.connection.ask({"op": "other"}, seconds=None))
    second = await agent.request()
    agent.say(frame({"id": 999}) + frame({"id": second["id"], "a": 2}, b"2") + frame({"id": first["id"], "a": 1}))
    assert (await one)[0]["a"] == 1
    assert (await other)[1] == b"2"


@pytest.mark.parametrize(
    "said",
    [b"x" * 64, struct.pack("!II", 2**31, 0), frame({}), frame({"id": "1"}), frame({"id": True}), frame({"id": 0})],
    ids=["noise", "too large", "no id", "text", "flag", "last words"],
)
async def test_what_makes_no_sense_ends_the_connection(agent: Agent, said: bytes) -> None:
    asking = asyncio.create_task(agent.connection.ask({"op": "x"}, seconds=None))
    await agent.request()
    agent.say(said)
    with pytest.raises(ConnectionEndedError):
        await asking
    assert len(agent.reasons) == 1
    with pytest.raises(ConnectionEndedError):
        await agent.connection.ask({"op": "x"}, seconds=None)


async def test_an_agent_that_does_not_answer_ends_the_connection(agent: Agent) -> None:
    with pytest.raises(ConnectionEndedError):
        await agent.connection.ask({"op": "x"}, seconds=0.05)
    assert "did not answer" in agent.reasons[0]


async def test_an_agent_that_does_not_read_ends_the_connection(agent: Agent) -> None:
    asking = [agent.connection.ask({"op": "x"}, bytes(1_000_000), seconds=0.05) for _ in range(3)]
    found = await asyncio.gather(*asking, return_exceptions=True)
    assert [type(each) for each in found] == [ConnectionEndedError] * 3
    assert len(agent.reasons) == 1


async def test_whoever_is_cancelled_has_what_runs_called_off_first(agent: Agent) -> None:
    asking = asyncio.create_task(agent.connection.ask({"op": "command"}, seconds=None))
    asked = await agent.request()
    asking.cancel()
    calling_off = await agent.request()
    assert (calling_off["op"], calling_off["which"]) == ("cancel", asked["id"])
    assert not asking.done()
    agent.say(frame({"id": asked["id"]}))
    with pytest.raises(asyncio.CancelledError):
        await asking


async def test_closing_wakes_all_who_wait(agent: Agent) -> None:
    asking = asyncio.create_task(agent.connection.ask({"op": "x"}, seconds=None))
    await agent.request()
    agent.connection.close()
    agent.connection.close()
    with pytest.raises(ConnectionEndedError):
        await asking
    assert agent.reasons == []
