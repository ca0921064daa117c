"""Tests whose children go on as if they were the test."""

# mypy: ignore-errors
# ruff: noqa: PT015, PT022
import multiprocessing
import os
import signal
import sys
import threading

import pytest


# = failed in call: assert 0
def test_the_child_passes():
    if os.fork() == 0:
        return
    os.wait()
    assert 0


# = failed in call: assert 0
def test_the_child_exits_0():
    if os.fork() == 0:
        os._exit(0)
    os.wait()
    assert 0


# = passed
def test_the_child_fails():
    if os.fork() == 0:
        assert 0
    os.wait()


# = failed in call: assert 0
def test_the_child_leaves_the_session():
    if os.fork() == 0:
        pytest.exit("ok", 0)
    os.wait()
    assert 0


# = failed in call: assert 0
def test_the_child_kills_the_rest_but_not_us():
    if os.fork() == 0:
        sys.exit(0)
    os.wait()
    assert 0


# = crashed in call: SIGKILL [signal 9]
def test_the_child_kills_the_test():
    if os.fork() == 0:
        os.kill(os.getppid(), signal.SIGKILL)
        return
    threading.Event().wait()


# = crashed in call: exited with 0 [exit 0]
def test_the_child_takes_over():
    if os.fork() != 0:
        os._exit(0)


@pytest.fixture
def twice():
    os.fork()
    yield


# = failed in call: assert 0
def test_forked_in_a_fixture(twice):
    assert 0


# = failed in call: assert 0
def test_a_child_that_lies_about_its_pid():
    parent = os.getpid()
    if os.fork() == 0:
        os.getpid = lambda: parent
        return
    os.wait()
    assert 0


def _fails():
    raise SystemExit(3)


# = failed in call: assert 3 == 0
def test_multiprocessing():
    process = multiprocessing.get_context("fork").Process(target=_fails)
    process.start()
    process.join()
    assert process.exitcode == 0


# = failed in call: Error
# or out_of_memory
def test_fork_bomb():
    while True:
        if os.fork() == 0:
            threading.Event().wait()


# = failed in call: RuntimeError: can't start new thread
# or error in call: it ended the session with MemoryError
def test_thread_bomb():
    while True:
        threading.Thread(target=threading.Event().wait, daemon=True).start()
