"""Code that would harm the server, or take more of its disk than it may."""

from __future__ import annotations

import asyncio
import os
import textwrap
import threading
import time
from contextlib import suppress
from typing import Any

import pytest

from ipybox.control.runtime.connection import Connection
from ipybox.control.states import ExecutionStatus, Reason
from ipybox.session.frames import frame
from tests.control.runtime.boxes import HANG, MIB, Box, Boxes

pytestmark = [pytest.mark.sandbox, pytest.mark.asyncio(loop_scope="module")]

LINE = """
import json, os, struct
def line():
    for fd in range(3, 30):
        try:
            if 'socket' in os.readlink(f'/proc/self/fd/{fd}'):
                return fd
        except OSError:
            pass
def say(head, body):
    data = memoryview(struct.pack('!II', len(head), len(body)) + head + body)
    fd = line()
    while data:
        data = data[os.write(fd, data):]
"""


async def test_a_return_value_that_never_ends_is_refused_at_once(box: Box) -> None:
    """Each quotation mark could be the beginning of a string that has to be looked at to the end."""
    code = """
def handler(e):
    say(b'{"is": "value"}', b'"' + b'\\\\"' * 120_000)
    os._exit(0)
"""
    ran = await box.python(LINE + code)
    assert (ran.status, ran.outcome.reason) == (ExecutionStatus.FAILED, Reason.BAD_RESULT)


async def test_files_that_are_kept_on_their_way_through_a_socket_count(boxes: Boxes) -> None:
    """They are open nowhere, have no name, and take their room all the same."""
    box = await boxes.make()
    code = """
import os, socket, time
def handler(e):
    kept = []
    for number in range(10_000):
        kept.append(socket.socketpair())
        fd = os.open(f'file-{number}', os.O_RDWR | os.O_CREAT)
        os.unlink(f'file-{number}')
        os.write(fd, b'x' * 1000)
        socket.send_fds(kept[-1][0], [b'.'], [fd])
        os.close(fd)
        time.sleep(0.5)
"""
    ran = await box.python(code)
    assert (ran.status, ran.outcome.reason) == (ExecutionStatus.FAILED, Reason.DISK_FULL)
    assert "on their way" in (ran.outcome.error_message or "")
    assert (await box.python("handler = lambda e: 'well'")).outcome.return_value == "well"


async def test_what_goes_on_between_cells_can_not_fill_the_disk(notebook: Box) -> None:
    code = """
    import threading, time
    def fill():
        for number in range(10_000):
            with open(f'file-{number}', 'wb') as file:
                file.write(b'x' * (8 << 20))
            time.sleep(0.1)
    threading.Thread(target=fill).start()
    """
    assert (await notebook.cell(textwrap.dedent(code))).status is ExecutionStatus.COMPLETED

    def written() -> int:
        return sum(each.stat().st_size for each in notebook.workspace.iterdir())

    async with asyncio.timeout(HANG):
        while True:
            before = written()
            await asyncio.sleep(1.0)
            if written() == before > 64 * MIB:
                break
    for each in notebook.workspace.iterdir():
        each.unlink()
    assert "variables" in (await notebook.cell("1")).text("stderr")


async def test_an_agent_that_talks_without_end_leaves_others_their_turn() -> None:
    """Who chooses what an agent imports can take it over, and has a pipe to the server then."""
    requests, replies = os.pipe(), os.pipe()
    busy, done = 0.0, threading.Event()

    def take(head: dict[str, Any], body: bytes) -> None:
        nonlocal busy
        began = time.perf_counter()
        while time.perf_counter() < began + 0.00002:
            pass
        busy += time.perf_counter() - began

    def talk() -> None:
        with suppress(BrokenPipeError):
            while not done.is_set():
                os.write(replies[1], frame({"id": 0, "is": "pong"}) * 1000)

    talking = threading.Thread(target=talk)
    connection = Connection(
        requests[1], replies[0], head_limit=1000, body_limit=0, on_frame=take, on_broken=lambda reason: None
    )
    try:
        began = time.perf_counter()
        talking.start()
        await asyncio.sleep(1.0)
        assert 0 < busy < 0.5 * (time.perf_counter() - began)
    finally:
        done.set()
        connection.close()
        await asyncio.to_thread(talking.join)
        os.close(requests[0])
        os.close(replies[1])
