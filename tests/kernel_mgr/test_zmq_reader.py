"""Every message of a ZMQ socket arrives, in order, and nobody else in the loop starves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import pytest
import zmq

from ipybox.kernel_mgr.zmq_reader import ZmqReader

PATIENCE = 10.0
Socket = zmq.Socket[bytes]


class Inbox:
    """What a reader handed over."""

    def __init__(self) -> None:
        self.messages: list[bytes] = []
        self.on_message: Callable[[bytes], None] = lambda data: None
        self._changed = asyncio.Event()

    def __call__(self, frames: list[bytes]) -> None:
        self.messages.append(frames[-1])
        self._changed.set()
        self.on_message(frames[-1])

    async def until(self, count: int) -> None:
        async with asyncio.timeout(PATIENCE):
            while len(self.messages) < count:
                self._changed.clear()
                await self._changed.wait()


@pytest.fixture
def pair() -> Iterator[tuple[Socket, Socket]]:
    """A sender and a receiver without a high-water mark."""
    with zmq.Context[Socket]() as context:
        context.setsockopt(zmq.LINGER, 0)
        for option in (zmq.SNDHWM, zmq.RCVHWM):
            context.setsockopt(option, 0)
        sender, receiver = context.socket(zmq.PAIR), context.socket(zmq.PAIR)
        receiver.bind("inproc://test")
        sender.connect("inproc://test")
        yield sender, receiver
        sender.close()
        receiver.close()


def numbers(count: int, first: int = 0) -> list[bytes]:
    return [b"%d" % number for number in range(first, first + count)]


async def turns(count: int) -> None:
    """Lets the loop turn, so that whatever is scheduled has run."""
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.mark.asyncio
async def test_what_came_before_and_what_comes_after_arrives_in_order(pair: tuple[Socket, Socket]) -> None:
    sender, receiver = pair
    for data in numbers(700):
        sender.send(data)
    inbox = Inbox()
    reader = ZmqReader(receiver, inbox, asyncio.get_running_loop())
    await inbox.until(700)
    for data in numbers(700, first=700):
        sender.send(data)
    await inbox.until(1400)
    reader.close()
    assert inbox.messages == numbers(1400)


@pytest.mark.asyncio
async def test_all_frames_of_a_message_arrive_together(pair: tuple[Socket, Socket]) -> None:
    sender, receiver = pair
    seen: list[list[bytes]] = []
    reader = ZmqReader(receiver, seen.append, asyncio.get_running_loop())
    sender.send_multipart([b"a", b"", b"c"])
    assert reader.read() == 1
    reader.close()
    assert seen == [[b"a", b"", b"c"]]


@pytest.mark.parametrize(("size", "most"), [(1, 200), (3 * 1024 * 1024, 2)])
@pytest.mark.asyncio
async def test_a_flood_leaves_the_loop_its_turns(pair: tuple[Socket, Socket], size: int, most: int) -> None:
    sender, receiver = pair
    count = 5 * most
    for _ in range(count):
        sender.send(b"x" * size)
    loop = asyncio.get_running_loop()
    inbox = Inbox()
    handled = [0]

    def tick() -> None:
        handled.append(len(inbox.messages))
        if len(inbox.messages) < count:
            loop.call_soon(tick)

    loop.call_soon(tick)
    reader = ZmqReader(receiver, inbox, loop)
    await inbox.until(count)
    reader.close()
    # At most two looks in one turn: one for the wake-up, one for the kick.
    assert max(after - before for before, after in pairwise(handled)) <= 2 * most


@pytest.mark.asyncio
async def test_a_pause_holds_messages_back_and_loses_none(pair: tuple[Socket, Socket]) -> None:
    sender, receiver = pair
    inbox = Inbox()
    reader = ZmqReader(receiver, inbox, asyncio.get_running_loop())
    inbox.on_message = lambda data: reader.pause() if data == b"9" else None
    for data in numbers(500):
        sender.send(data)
    await inbox.until(10)
    for data in numbers(10, first=500):
        sender.send(data)
    await turns(20)
    assert reader.read() == 0
    assert inbox.messages == numbers(10)
    reader.resume()
    await inbox.until(510)
    reader.close()
    assert inbox.messages == numbers(510)


@pytest.mark.asyncio
async def test_resuming_what_was_not_paused_is_fine(pair: tuple[Socket, Socket]) -> None:
    sender, receiver = pair
    inbox = Inbox()
    reader = ZmqReader(receiver, inbox, asyncio.get_running_loop())
    reader.resume()
    sender.send(b"0")
    await inbox.until(1)
    reader.close()


@pytest.mark.asyncio
async def test_an_answer_arrives_although_the_socket_was_written_to(pair: tuple[Socket, Socket]) -> None:
    # Sending takes the wake-up of what has arrived meanwhile; the kick brings it back.
    sender, receiver = pair
    inbox = Inbox()
    reader = ZmqReader(receiver, inbox, asyncio.get_running_loop())
    for number in range(100):
        sender.send(b"%d" % number)
        receiver.send(b"answer")
        reader.kick()
        await inbox.until(number + 1)
    reader.close()
    assert inbox.messages == numbers(100)


@pytest.mark.asyncio
async def test_after_closing_nothing_is_read_any_more(pair: tuple[Socket, Socket]) -> None:
    sender, receiver = pair
    inbox = Inbox()
    reader = ZmqReader(receiver, inbox, asyncio.get_running_loop())
    for data in numbers(10):
        sender.send(data)
    inbox.on_message = lambda data: reader.close() if data == b"3" else None
    await inbox.until(4)
    reader.close()
    reader.kick()
    reader.resume()
    assert reader.read() == 0
    await turns(20)
    assert inbox.messages == numbers(4)
    assert receiver.recv(zmq.NOBLOCK) == b"4"


@pytest.mark.asyncio
async def test_a_closed_socket_ends_the_reader_quietly(pair: tuple[Socket, Socket]) -> None:
    _, receiver = pair
    inbox = Inbox()
    reader = ZmqReader(receiver, inbox, asyncio.get_running_loop())
    await turns(2)
    receiver.close()
    assert reader.read() == 0
    reader.kick()
    await turns(5)
    assert inbox.messages == []


@pytest.mark.asyncio
async def test_a_handler_that_raises_does_not_hold_up_the_messages_after_it(pair: tuple[Socket, Socket]) -> None:
    sender, receiver = pair
    loop = asyncio.get_running_loop()
    complaints: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda loop, context: complaints.append(context))
    inbox = Inbox()

    def stumble(data: bytes) -> None:
        if data == b"1":
            raise LookupError(data)

    inbox.on_message = stumble
    reader = ZmqReader(receiver, inbox, loop)
    await turns(5)
    for data in numbers(4):
        sender.send(data)
    await turns(20)
    reader.close()
    assert inbox.messages == numbers(4)
    assert len(complaints) == 1
