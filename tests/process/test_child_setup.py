"""What a forked process does first: descriptors find their numbers, nothing else stays open, signals are as they were.

Real descriptors in processes that are forked from a Python of their own, which has no threads and nothing else open.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.process.witness import needs_linux

pytestmark = needs_linux

FORKERY = r"""
import fcntl, json, os, signal, sys, traceback
from ipybox.process import child_setup

HIGH = 200
LAST = 400

def file(label):
    made = os.memfd_create(label)
    moved = fcntl.fcntl(made, fcntl.F_DUPFD_CLOEXEC, HIGH)
    os.close(made)
    return moved

def put(labels):
    '''A file for each label, at each of its numbers, and nothing else.'''
    files = {label: file(label) for label in labels.values()}
    for number, label in labels.items():
        os.dup2(files[label], number)
    for fd in files.values():
        os.close(fd)

def target(fd):
    return os.readlink(f"/proc/self/fd/{fd}").removeprefix("/memfd:").removesuffix(" (deleted)")

def table():
    '''Every open descriptor: what it is, and whether a program that is executed gets it.'''
    found = {}
    for fd in range(LAST):
        try:
            flags = fcntl.fcntl(fd, fcntl.F_GETFD)
        except OSError:
            continue
        found[fd] = [target(fd), not flags & fcntl.FD_CLOEXEC]
    return found

def numbers(job, name):
    return {int(number): label for number, label in job[name].items()}

def move(job):
    put({**numbers(job, "open"), job["keep"]: "keep"})
    keep, moved = child_setup.set_aside(job["fds"], job["keep"], job["numbers"])
    aside = table()
    child_setup.place(moved, job["numbers"])
    return {"keep": keep, "moved": moved, "aside": aside, "placed": table()}

def refuse(job):
    put({**numbers(job, "open"), job["keep"]: "keep"})
    before = table()
    try:
        child_setup.set_aside(job["fds"], job["keep"], job["numbers"])
        error = ""
    except Exception as caught:
        error = type(caught).__name__
    after = table()
    return {"error": error, "missing": [fd for fd in before if before[fd] != after.get(fd)]}

def close(job):
    put(numbers(job, "open"))
    child_setup.close_all_but(job["keep"])
    return {"left": sorted(fd for fd in table() if fd > 2)}

def quiet(job):
    for fd in job["closed"]:
        os.close(fd)
    before = set(table())
    child_setup.quiet_stdio()
    after = table()
    return {"stdio": [after.get(fd) for fd in (0, 1, 2)], "new": sorted(set(after) - before - {0, 1, 2})}

def masks():
    with open("/proc/self/status") as status:
        return {key: int(value, 16) for key, _, value in (line.partition(":") for line in status)
                if key in ("SigIgn", "SigCgt", "SigBlk")}

def dispositions():
    found = {}
    for number in sorted(signal.valid_signals()):
        handler = signal.getsignal(number)
        name = getattr(handler, "__name__", None) or getattr(handler, "name", str(handler))
        found[int(number)] = str(name)
    return found

def signals(job):
    read, write = os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write)
    for number in job["handled"]:
        signal.signal(number, lambda *_: None)
    for number in job["ignored"]:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, job["blocked"])
    child_setup.default_signals()
    shell = masks()
    child_setup.python_signals()
    return {"shell": shell, "python": dispositions(), "masks": masks(), "wakeup": signal.set_wakeup_fd(-1)}

for line in sys.stdin:
    job = json.loads(line)
    report = file("report")
    if os.fork() == 0:
        answer = os.memfd_create("answer")
        path = f"/proc/{os.getppid()}/fd/{report}"
        os.close(answer)
        try:
            said = json.dumps(globals()[job["do"]](job))
        except BaseException:
            said = json.dumps({"failed": traceback.format_exc()})
        fd = os.open(path, os.O_WRONLY)
        os.write(fd, said.encode())
        os._exit(0)
    os.wait()
    with os.fdopen(report, "rb") as answer:
        answer.seek(0)
        sys.stdout.write(answer.read().decode() + "\n")
        sys.stdout.flush()
"""


class Forkery:
    """Does jobs in forked processes."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", FORKERY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def do(self, what: str, **job: Any) -> dict[str, Any]:
        """The answer of a fork."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"do": what, **job}) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        assert "failed" not in answer, answer["failed"]
        return answer

    def close(self) -> None:
        """Ends it."""
        self._process.communicate()


@pytest.fixture(scope="module")
def forkery() -> Iterator[Forkery]:
    made = Forkery()
    yield made
    made.close()


PLACES = st.integers(3, 14)


@st.composite
def moves(draw: st.DrawFn) -> dict[str, Any]:
    """Files at some numbers, some of which are to get others."""
    keep = draw(PLACES)
    places = draw(st.lists(PLACES.filter(lambda number: number != keep), unique=True, min_size=1, max_size=10))
    fds = draw(st.lists(st.sampled_from(places), max_size=10))
    numbers = draw(st.lists(st.integers(0, 14), unique=True, min_size=len(fds), max_size=len(fds)))
    return {"open": {place: f"file-{place}" for place in places}, "keep": keep, "fds": fds, "numbers": numbers}


@settings(deadline=None, max_examples=150)
@given(job=moves())
def test_descriptors_land_at_their_numbers_and_nothing_else_stays_open(forkery: Forkery, job: dict[str, Any]) -> None:
    answer = forkery.do("move", **job)
    null = {str(number): ["/dev/null", True] for number in (0, 1, 2)}
    wanted = {str(number): [f"file-{fd}", True] for fd, number in zip(job["fds"], job["numbers"], strict=True)}
    # The one that is kept tells of a failure until the program is executed, and must be gone by then.
    assert answer["placed"] == {**null, **wanted, str(answer["keep"]): ["keep", False]}


@settings(deadline=None, max_examples=50)
@given(job=moves())
def test_between_the_two_steps_only_what_was_set_aside_is_open(forkery: Forkery, job: dict[str, Any]) -> None:
    answer = forkery.do("move", **job)
    above = {number: entry for number, entry in answer["aside"].items() if int(number) > 2}
    wanted = {str(moved): [f"file-{fd}", False] for moved, fd in zip(answer["moved"], job["fds"], strict=True)}
    assert above == {**wanted, str(answer["keep"]): ["keep", False]}
    assert min(map(int, above)) > max([2, *job["numbers"]])


def test_two_that_swap_their_numbers(forkery: Forkery) -> None:
    answer = forkery.do("move", open={5: "five", 6: "six", 7: "seven"}, keep=8, fds=[5, 6], numbers=[6, 5])
    assert {number: entry[0] for number, entry in answer["placed"].items() if int(number) in (5, 6, 7, 8)} == {
        "5": "six",
        "6": "five",
    }


@pytest.mark.parametrize(
    ("fds", "numbers", "error"),
    [([4, 5], [1], "ValueError"), ([], [1], "ValueError"), ([4, 77], [1, 2], "OSError")],
    ids=["too few numbers", "too many numbers", "no such descriptor"],
)
def test_when_it_fails_nothing_was_closed(forkery: Forkery, fds: list[int], numbers: list[int], error: str) -> None:
    answer = forkery.do("refuse", open={4: "four", 5: "five", 9: "nine"}, keep=6, fds=fds, numbers=numbers)
    assert answer == {"error": error, "missing": []}


@settings(deadline=None, max_examples=50)
@given(places=st.sets(st.integers(3, 30)), keep=st.sets(st.integers(0, 30)))
def test_all_but_the_named_ones_are_closed(forkery: Forkery, places: set[int], keep: set[int]) -> None:
    answer = forkery.do("close", open=dict.fromkeys(places, "x"), keep=sorted(keep))
    assert answer["left"] == sorted(places & keep)


@pytest.mark.parametrize("closed", [[], [0], [1], [0, 1, 2]], ids=str)
def test_quiet_streams_are_connected_with_nothing_also_in_a_program_that_is_executed(
    forkery: Forkery, closed: list[int]
) -> None:
    assert forkery.do("quiet", closed=closed) == {"stdio": [["/dev/null", True]] * 3, "new": []}


SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGPIPE", "SIGXFSZ", "SIGCHLD", "SIGUSR1", "SIGUSR2")
NUMBERS = [int(getattr(signal, name)) for name in SIGNALS]
OF_A_START = """
import json, signal
print(json.dumps({int(n): str(getattr(h, "__name__", None) or getattr(h, "name", h))
                  for n in sorted(signal.valid_signals()) for h in [signal.getsignal(n)]}))
"""


def started() -> dict[str, str]:
    """How a Python that was just started by somebody with ordinary signals handles them."""
    done = subprocess.run(
        ["env", "--default-signal", sys.executable, "-c", OF_A_START], capture_output=True, text=True, check=True
    )
    found: dict[str, str] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("before", ["nothing", "handled", "ignored", "blocked", "all of it"])
def test_signals_are_as_a_shell_leaves_them_and_then_as_python_starts(forkery: Forkery, before: str) -> None:
    handled = NUMBERS if before == "handled" else NUMBERS[::2] if before == "all of it" else []
    ignored = NUMBERS if before == "ignored" else NUMBERS[1::2] if before == "all of it" else []
    blocked = NUMBERS if before in ("blocked", "all of it") else []
    answer = forkery.do("signals", handled=handled, ignored=ignored, blocked=blocked)
    assert answer["shell"] == {"SigIgn": 0, "SigCgt": 0, "SigBlk": 0}
    assert answer["python"] == started()
    assert answer["masks"]["SigBlk"] == 0
    assert answer["wakeup"] == -1
