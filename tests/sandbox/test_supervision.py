"""The client's end of the wire, with a supervisor at the other that is played by the test."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from ipybox.errors import ProgramStartError
from ipybox.exit_status import ExitStatus
from ipybox.sandbox.launcher import Program
from ipybox.sandbox.supervision import RemoteProgram, SupervisorLink

pytestmark = pytest.mark.asyncio

HANG = 20.0
PROGRAM = Program(argv=["/bin/program", "ä"], env={"A": "1"}, cwd="/", fds=[5])


class Played:
    """A supervisor that says what the test wants."""

    def __init__(self) -> None:
        ours, self.socket = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.setblocking(False)
        self.egress: list[dict[str, Any]] = []
        self.link = SupervisorLink(ours.detach(), self.egress.append)

    def say(self, **packet: Any) -> None:
        self.socket.send(json.dumps(packet).encode())

    async def hear(self) -> dict[str, Any]:
        async with asyncio.timeout(HANG):
            data = await asyncio.get_running_loop().sock_recv(self.socket, 65536)
        packet: dict[str, Any] = json.loads(data)
        return packet


@pytest_asyncio.fixture
async def played() -> AsyncIterator[Played]:
    one = Played()
    yield one
    one.link.close()
    one.socket.close()


async def started(played: Played) -> tuple[RemoteProgram, int]:
    start = asyncio.ensure_future(played.link.start(PROGRAM, [], "tag"))
    number = (await played.hear())["id"]
    played.say(op="started", id=number, pid=4711)
    async with asyncio.timeout(HANG):
        return await start, number


async def test_a_start_is_one_packet_with_the_program_and_its_descriptors(played: Played) -> None:
    read, write = os.pipe()
    start = asyncio.ensure_future(played.link.start(PROGRAM, [write], "tag"))
    await asyncio.sleep(0)
    packet, fds, _, _ = socket.recv_fds(played.socket, 65536, 10)
    assert json.loads(packet) == {"op": "start", "id": 1, "tag": "tag"}
    with os.fdopen(fds[0]) as file:
        file.seek(0)
        told = Program.from_json(file.read())
    assert (list(told.argv), dict(told.env), list(told.fds)) == (["/bin/program", "ä"], {"A": "1"}, [5])
    os.write(fds[1], b"x")
    assert os.read(read, 1) == b"x"
    played.say(op="started", id=1, pid=4711)
    assert (await start).pid == 4711
    for fd in (fds[1], read, write):
        os.close(fd)


async def test_the_end_is_told_once_and_to_the_right_one(played: Played) -> None:
    (first, one), (second, two) = await started(played), await started(played)
    assert one != two
    played.say(op="ended", id=two, status=ExitStatus("exited", code=2).to_dict())
    played.say(op="ended", id=two, status=ExitStatus("exited", code=3).to_dict())
    played.say(op="ended", id=99, status=ExitStatus("exited", code=4).to_dict())
    played.say(op="ended", id=one, status=ExitStatus("exited", code=1).to_dict())
    async with asyncio.timeout(HANG):
        assert [(await each.ended()).code for each in (first, second)] == [1, 2]


async def test_a_failure_is_an_error_with_the_reason(played: Played) -> None:
    start = asyncio.ensure_future(played.link.start(PROGRAM, [], "tag"))
    number = (await played.hear())["id"]
    played.say(op="failed", id=number, reason="no such thing")
    with pytest.raises(ProgramStartError, match="no such thing"):
        await start


async def test_signals_and_kills_name_the_program(played: Played) -> None:
    remote, number = await started(played)
    remote.signal(10)
    assert await played.hear() == {"op": "signal", "id": number, "signal": 10}
    remote.kill(ExitStatus("restarted"))
    remote.kill(ExitStatus("memory"))
    assert await played.hear() == {"op": "kill", "id": number}
    played.say(op="ended", id=number, status=ExitStatus("signalled", signal=9).to_dict())
    async with asyncio.timeout(HANG):
        assert await remote.ended() == ExitStatus("restarted")  # who killed it first knows why


async def test_whoever_waits_for_the_end_may_give_up(played: Played) -> None:
    remote, number = await started(played)
    waiting = asyncio.ensure_future(remote.ended())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    played.say(op="ended", id=number, status=ExitStatus("exited", code=0).to_dict())
    async with asyncio.timeout(HANG):
        assert (await remote.ended()).code == 0


async def test_a_start_that_is_given_up_is_a_kill(played: Played) -> None:
    start = asyncio.ensure_future(played.link.start(PROGRAM, [], "tag"))
    number = (await played.hear())["id"]
    start.cancel()
    assert await played.hear() == {"op": "kill", "id": number}


async def test_what_the_proxy_decided_is_handed_on_and_confirmed(played: Played) -> None:
    played.say(op="egress", id=7, tag="t", host="h", port=1, allowed=False, reason="r")
    assert await played.hear() == {"op": "heard", "id": 7}
    assert played.egress[0]["host"] == "h"


async def test_stop_is_handed_on(played: Played) -> None:
    told = asyncio.Event()
    played.say(op="stop", id=0)  # nobody listens yet
    played.link.on_stop = told.set
    played.say(op="stop", id=0)
    async with asyncio.timeout(HANG):
        await told.wait()


async def test_without_a_supervisor_nothing_starts_and_what_ran_is_gone(played: Played) -> None:
    remote, _ = await started(played)
    waiting = asyncio.ensure_future(played.link.start(PROGRAM, [], "tag"))
    await played.hear()
    played.socket.close()
    async with asyncio.timeout(HANG):
        assert (await remote.ended()).reason == "unknown"
        with pytest.raises(ProgramStartError, match="gone"):
            await waiting
        with pytest.raises(ProgramStartError, match="gone"):
            await played.link.start(PROGRAM, [], "tag")
    remote.signal(15)
    remote.kill()
