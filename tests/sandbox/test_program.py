"""A program is followed by its lead, whatever comes through it and in whatever order."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from ipybox.errors import ProgramStartError
from ipybox.sandbox.program import SandboxedProgram

pytestmark = pytest.mark.asyncio
HANG = 20.0


class Inside:
    """Pid 1 of a sandbox, as played by the test; its processes are real."""

    def __init__(self) -> None:
        self.lead, self.socket = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.process = subprocess.Popen(["/bin/sleep", "999"])

    def say(self, **facts: Any) -> None:
        self.socket.send(json.dumps(facts).encode())

    def start(self) -> None:
        fds = [os.pidfd_open(self.process.pid) for _ in range(2)]
        socket.send_fds(self.socket, [b'{"started": true}'], fds)
        for fd in fds:
            os.close(fd)

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def inside() -> Iterator[Inside]:
    one = Inside()
    yield one
    one.end()
    one.socket.close()


async def test_it_starts_and_ends(inside: Inside) -> None:
    program = SandboxedProgram(inside.lead)
    inside.start()
    async with asyncio.timeout(HANG):
        await program.started()
        assert (program.pid, program.init_pid) == (inside.process.pid, inside.process.pid)
        inside.say(exit=5)
        assert not program.is_over  # as long as anything of it is left
        inside.end()
        assert await program.ended() == 5
    program.close()


async def test_all_of_it_killed_from_outside_has_no_code(inside: Inside) -> None:
    program = SandboxedProgram(inside.lead)
    inside.start()
    async with asyncio.timeout(HANG):
        await program.started()
        program.kill()
        assert await program.ended() is None
    program.close()


async def test_one_that_was_over_before_it_was_looked_at(inside: Inside) -> None:
    inside.start()
    inside.say(exit=0)
    inside.end()
    inside.socket.close()
    program = SandboxedProgram(inside.lead)
    async with asyncio.timeout(HANG):
        await program.started()
        assert await program.ended() == 0
    program.kill()
    program.close()


@pytest.mark.parametrize("say", [True, False])
async def test_one_that_does_not_start_has_a_reason(inside: Inside, say: bool) -> None:
    program = SandboxedProgram(inside.lead)
    if say:
        inside.say(error="no such thing")
    inside.socket.close()
    async with asyncio.timeout(HANG):
        with pytest.raises(ProgramStartError, match="no such thing" if say else "ended before it was up"):
            await program.started()
        assert await program.ended() is None
    program.close()


async def test_a_kill_before_the_start_is_the_end(inside: Inside) -> None:
    program = SandboxedProgram(inside.lead)
    program.kill()
    with pytest.raises(ProgramStartError, match="killed"):
        await program.started()
    program.close()
    assert inside.socket.recv(10) == b""


async def test_signals_are_asked_for(inside: Inside) -> None:
    program = SandboxedProgram(inside.lead)
    program.signal(10)
    assert json.loads(inside.socket.recv(100)) == {"signal": 10}
    program.close()
    program.signal(10)


async def test_a_listener_is_handed_over_or_closed(inside: Inside) -> None:
    got: asyncio.Future[socket.socket] = asyncio.get_running_loop().create_future()

    async def on_listener(listener: socket.socket) -> None:
        got.set_result(listener)

    with socket.create_server(("127.0.0.1", 0)) as server:
        program = SandboxedProgram(inside.lead, on_listener)
        socket.send_fds(inside.socket, [b'{"listener": true}'], [server.fileno()])
        inside.start()
        async with asyncio.timeout(HANG):
            await program.started()
            assert (await got).getsockname() == server.getsockname()
    got.result().close()
    program.close()


async def test_letting_go_leaves_no_descriptor(inside: Inside) -> None:
    before = len(os.listdir("/proc/self/fd"))
    program = SandboxedProgram(inside.lead)
    inside.start()
    async with asyncio.timeout(HANG):
        await program.started()
    program.close()
    program.close()
    assert len(os.listdir("/proc/self/fd")) == before - 1  # without the lead itself
    with pytest.raises(asyncio.CancelledError):
        await program.ended()
