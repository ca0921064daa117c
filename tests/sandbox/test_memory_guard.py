"""Programs that use too much are noticed once, with what they started; others are left alone."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from ipybox.process import memory
from ipybox.process.memory import resident
from ipybox.sandbox import memory_guard
from ipybox.sandbox.memory_guard import Guarded, MemoryGuard

HANG = 10.0
MIB = 1024 * 1024
HOARD = f"""
import ctypes, os, sys, threading, time
if sys.argv[1] == 'child' and os.fork():
    time.sleep(999)
hoard = b'x' * {60 * MIB}
if sys.argv[1] == 'forks':
    for _ in range(40):
        if not os.fork():
            time.sleep(999)
def go_on():
    print('up', flush=True)
    time.sleep(999)
if sys.argv[1] == 'thread':
    threading.Thread(target=lambda: (time.sleep(0.2), go_on())).start()
    ctypes.CDLL(None).pthread_exit(None)
go_on()
"""


@contextmanager
def hoarder(where: str) -> Iterator[int]:
    """A process with 60 MiB: its own, in a child, shared with forks, or of a thread that is left of it."""
    argv = [sys.executable, "-I", "-S", "-c", HOARD, where]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, process_group=0)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == b"up\n"
        yield process.pid
    finally:
        import os

        os.killpg(process.pid, 9)
        process.wait()
        process.stdout.close()


def test_resident_is_what_a_process_has_and_nothing_when_it_is_gone() -> None:
    with hoarder("own") as pid:
        assert 60 * MIB < resident(pid) < 120 * MIB
    assert resident(pid) == 0
    assert resident(-1) == 0


@pytest.mark.parametrize("where", ["own", "child"])
@pytest.mark.asyncio
async def test_too_much_is_told_once(where: str) -> None:
    told: list[int] = []
    noticed = asyncio.Event()

    def on_excess(used: int) -> None:
        told.append(used)
        noticed.set()

    guard = MemoryGuard()
    with hoarder(where) as pid, hoarder("own") as other:
        guard.add(Guarded(other, other, 500 * MIB, lambda used: told.append(-1)))
        guard.add(Guarded(pid, pid, 50 * MIB, on_excess))
        async with asyncio.timeout(HANG):
            await noticed.wait()
        await guard.close()
    assert len(told) == 1
    assert told[0] > 50 * MIB


@pytest.mark.asyncio
async def test_one_bad_answer_does_not_end_the_watch() -> None:
    failed, noticed = asyncio.Event(), asyncio.Event()

    def fails(used: int) -> None:
        failed.set()
        raise OSError("it is gone")

    guard = MemoryGuard()
    code = f"input(); hoard = b'x' * {60 * MIB}; input()"
    argv = [sys.executable, "-I", "-S", "-c", code]
    with hoarder("own") as first, subprocess.Popen(argv, stdin=subprocess.PIPE) as second:
        assert second.stdin is not None
        guard.add(Guarded(first, first, 50 * MIB, fails))
        guard.add(Guarded(second.pid, second.pid, 50 * MIB, lambda used: noticed.set()))
        try:
            async with asyncio.timeout(HANG):
                await failed.wait()
                second.stdin.write(b"\n")  # it grows when the other one has failed
                second.stdin.flush()
                await noticed.wait()
        finally:
            second.kill()
            await guard.close()


@pytest.mark.asyncio
async def test_what_was_removed_is_not_watched_and_the_watch_begins_again() -> None:
    noticed = asyncio.Event()
    guard = MemoryGuard()
    with hoarder("own") as pid:
        gone = Guarded(pid, pid, 1, lambda used: pytest.fail("watched"))
        guard.add(gone)
        guard.remove(gone)
        guard.remove(gone)
        guard.add(Guarded(pid, pid, 1, lambda used: noticed.set()))
        async with asyncio.timeout(HANG):
            await noticed.wait()
    await guard.close()
    await guard.close()


@pytest.mark.asyncio
async def test_a_family_that_takes_long_to_look_at_keeps_no_other_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred forks that share a lot take a second, and cost who makes them nothing."""
    looks: list[int] = []

    def proportional(pid: int) -> int:
        looks.append(pid)
        return memory.proportional(pid)

    monkeypatch.setattr(memory_guard, "proportional", proportional)
    monkeypatch.setattr(memory_guard, "_CLOSE_LOOK_SECONDS", 0.0)
    noticed = asyncio.Event()
    guard = MemoryGuard()
    with hoarder("forks") as large, hoarder("child") as small:
        guard.add(Guarded(large, large, 500 * MIB, lambda used: pytest.fail("it shares nearly all of that")))
        guard.add(Guarded(small, small, 50 * MIB, lambda used: noticed.set()))
        async with asyncio.timeout(HANG):
            await noticed.wait()
        await guard.close()
    assert len(looks) < 20


@pytest.mark.asyncio
async def test_a_process_whose_first_thread_has_ended_still_has_its_memory() -> None:
    noticed = asyncio.Event()
    guard = MemoryGuard()
    with hoarder("thread") as pid:
        assert resident(pid) > 60 * MIB
        assert memory.proportional(pid) > 60 * MIB
        guard.add(Guarded(pid, pid, 50 * MIB, lambda used: noticed.set()))
        async with asyncio.timeout(HANG):
            await noticed.wait()
        await guard.close()
