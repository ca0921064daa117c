"""A kernel's family is found by its session and by its marker, and none of it is left. Real processes."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from uuid import uuid4

import pytest

from ipybox.process import family
from tests.process.witness import PATIENCE, Witness, needs_linux

Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def marker() -> str:
    return uuid4().hex


@pytest.fixture
def start(witness: Witness, marker: str) -> Iterator[Start]:
    """Starts programs of the witness's kind the way kernels are started."""
    started: list[subprocess.Popen[bytes]] = []

    def begin(code: str, mark: str = marker) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            witness.program(code),
            env={"BEFORE": "x", family.MARKER: mark, "AFTER": "y"},
            pass_fds=[witness.fd],
            start_new_session=True,
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.wait(PATIENCE)


def pids_of(leader: subprocess.Popen[bytes], marker: str) -> set[int]:
    return {process.pid for process in family.members(leader.pid, marker)}


FAMILIES = {
    "alone": ("pass", 0),
    "child": ("child(stay)", 1),
    "deaf child": ("child(lambda: [ignore(signal.SIGTERM, signal.SIGHUP, signal.SIGINT), stay()])", 1),
    "child in a session of its own": ("child(stay_apart)", 1),
    "daemon": ("child(daemonize); os.wait()", 1),
    "many daemons": ("[child(daemonize) for _ in range(8)]; [os.wait() for _ in range(8)]", 8),
    "stopped child": ("child(lambda: [here(), os.kill(os.getpid(), signal.SIGSTOP)])", 1),
    "child without its environment": (
        "child(lambda: [here(), os.execve('/bin/sleep', ['sleep', '60'], {})])",
        1,
    ),
    "daemon with more in its environment": (
        "child(lambda: [os.setsid(), here(), os.execve('/bin/sleep', ['sleep', '60'], {**os.environ, 'MORE': 'z'})])",
        1,
    ),
}


@pytest.mark.parametrize(("code", "count"), FAMILIES.values(), ids=FAMILIES.keys())
@needs_linux
def test_all_of_a_family_is_found_and_nothing_of_it_is_left(
    start: Start, witness: Witness, marker: str, code: str, count: int
) -> None:
    leader = start(f"here(); {code}; forever()")
    witness.left_to_them()
    pids = witness.pids(1 + count)
    # A process has no environment to read while the system replaces its program.
    deadline = time.monotonic() + PATIENCE
    while pids_of(leader, marker) != set(pids) and time.monotonic() < deadline:
        time.sleep(0.001)
    assert pids_of(leader, marker) == set(pids)
    assert family.kill(leader.pid, marker)
    assert witness.all_gone()
    leader.wait(PATIENCE)
    assert pids_of(leader, marker) == set()


@needs_linux
def test_what_is_left_of_a_family_is_found_when_its_leader_is_gone(start: Start, witness: Witness, marker: str) -> None:
    leader = start("child(stay); child(daemonize); os.wait(); here(); forever()")
    witness.left_to_them()
    pids = witness.pids(3)
    leader.kill()
    leader.wait(PATIENCE)
    assert pids_of(leader, marker) == set(pids) - {leader.pid}
    assert family.kill(leader.pid, marker)
    assert witness.all_gone()


@pytest.mark.parametrize("code", ["child(run_away)", "[child(run_away) for _ in range(4)]"], ids=["one", "four"])
@pytest.mark.parametrize("apart", ["os.getsid(0)", "os.setsid()"], ids=["in its session", "in another session"])
@needs_linux
def test_children_that_run_away_do_not_escape(
    start: Start, witness: Witness, marker: str, code: str, apart: str
) -> None:
    leader = start(f"child(lambda: [{apart}, {code}]); here(); forever()")
    witness.left_to_them()
    witness.pids(2)
    gone = family.kill(leader.pid, marker)
    assert gone == witness.all_gone(0.1)
    assert gone


@needs_linux
def test_a_child_without_its_first_thread_does_not_escape(start: Start, witness: Witness, marker: str) -> None:
    leader = start("child(be_headless); forever()")
    witness.left_to_them()
    witness.pids(1)
    assert family.kill(leader.pid, marker)
    assert witness.all_gone(0.1)


@needs_linux
def test_zombies_are_no_members(start: Start, witness: Witness, marker: str) -> None:
    leader = start("sys.exit(0)")
    os.waitid(os.P_PID, leader.pid, os.WEXITED | os.WNOWAIT)
    assert pids_of(leader, marker) == set()
    assert family.kill(leader.pid, marker)


def test_a_family_of_nobody_is_dead_already(marker: str) -> None:
    started = time.monotonic()
    assert family.kill(2**30, marker, patience=60)
    assert time.monotonic() - started < PATIENCE
    assert family.memory(2**30, marker) == 0


@pytest.mark.parametrize("other", ["", "x", "x-and-more", "and-x"])
@needs_linux
def test_families_with_similar_markers_are_left_alone(start: Start, witness: Witness, marker: str, other: str) -> None:
    neighbour = start("here(); forever()", other.replace("x", marker) if other != "x" else uuid4().hex)
    witness.pids(1)
    assert family.kill(2**30, marker)
    assert neighbour.poll() is None
    assert neighbour.pid not in {process.pid for process in family.members(2**30, marker)}


@needs_linux
def test_the_memory_of_a_family_is_that_of_all_its_members(start: Start, witness: Witness, marker: str) -> None:
    size = 30 * 1024 * 1024
    code = f"hoard = b'x' * {size}; here(); forever()"
    leader = start(f"def hoarder():\n    os.setsid()\n    {code}\nchild(hoarder); {code}")
    witness.left_to_them()
    witness.pids(2)
    assert 2 * size < family.memory(leader.pid, marker) < 3 * size


@needs_linux
def test_a_family_that_is_gone_uses_no_memory(start: Start, witness: Witness, marker: str) -> None:
    leader = start("here(); forever()")
    witness.left_to_them()
    witness.pids(1)
    assert family.memory(leader.pid, marker) > 0
    leader.kill()
    leader.wait(PATIENCE)
    assert family.memory(leader.pid, marker) == 0
