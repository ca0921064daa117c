"""Tests that do not come to an end."""

# mypy: ignore-errors
# ruff: noqa: PT015, RUF059
import ctypes
import os
import signal
import threading
import time

import pytest


# = timeout in call: took longer than
def test_for_ever():
    threading.Event().wait()


# = timeout in call: took longer than
def test_busy():
    while True:
        pass


# = timeout in call: took longer than
def test_ignores_signals():
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGABRT, signal.SIGHUP, signal.SIGALRM):
        signal.signal(number, signal.SIG_IGN)
    while True:
        time.sleep(1)


# = timeout in call: took longer than
def test_exits_0_when_it_is_aborted():
    signal.signal(signal.SIGABRT, lambda *_: os._exit(0))
    while True:
        time.sleep(1)


# = timeout in call: took longer than
def test_blocks_in_c():
    ctypes.PyDLL(None).sleep(1000)


# = timeout in call: took longer than
def test_swallows_everything():
    while True:
        try:
            time.sleep(1000)
        except BaseException:
            pass


@pytest.fixture
def hangs():
    yield
    threading.Event().wait()


# = timeout in call: took longer than
def test_teardown(hangs):
    pass


# = passed
def test_thread_that_stays():
    threading.Thread(target=threading.Event().wait).start()


# = failed in call: assert 0
def test_thread_that_stays_and_fails():
    threading.Thread(target=threading.Event().wait).start()
    assert 0


class Hangs(Exception):
    def __str__(self):
        threading.Event().wait()

    __repr__ = __str__


# = timeout in call: took longer than
def test_exception_that_hangs_when_shown():
    raise Hangs


# = failed in call: assert 0
def test_hangs_at_exit():
    import atexit

    atexit.register(threading.Event().wait)
    assert 0


# = timeout in call: took longer than
def test_stops_itself():
    os.kill(os.getpid(), signal.SIGSTOP)


# = timeout in call: took longer than
def test_the_child_stops_us():
    if os.fork() == 0:
        os.kill(os.getppid(), signal.SIGSTOP)
        os._exit(0)
    os.wait()
    time.sleep(0.1)


# = timeout in call: took longer than
def test_blocks_the_line():
    read, write = os.pipe()
    os.dup2(write, 1000)
    while True:
        os.write(write, bytes(4096))
