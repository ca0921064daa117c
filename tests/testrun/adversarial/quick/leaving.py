"""Tests that end their process, or the session, before there is a result."""

# mypy: ignore-errors
# ruff: noqa: F841, PT015
import ctypes
import os
import signal
import sys
import threading

import pytest


# = crashed in call: exited with 0 [exit 0]
def test_os_exit_0():
    os._exit(0)


# = crashed in call: exited with 7 [exit 7]
def test_os_exit_7():
    os._exit(7)


# = crashed in call: exited with 0 [exit 0]
def test_exit_group_by_syscall():
    ctypes.CDLL(None).syscall(231, 0)


# = failed in call: SystemExit: 0
def test_sys_exit_0():
    sys.exit(0)


# = failed in call: SystemExit
def test_system_exit():
    raise SystemExit


@pytest.fixture
def exits():
    sys.exit(0)


# = error in setup: SystemExit: 0
def test_exit_in_fixture(exits):
    pass


@pytest.fixture
def exits_later():
    yield
    sys.exit(0)


# = error in teardown: SystemExit: 0
def test_exit_in_teardown(exits_later):
    pass


# = failed in call: assert 0
def test_fails_and_exits_in_teardown(exits_later):
    assert 0


@pytest.fixture
def leaves_later():
    yield
    os._exit(0)


# = crashed in call: exited with 0 [exit 0]
def test_os_exit_in_teardown(leaves_later):
    pass


# = failed in call: assert 0
def test_exit_in_thread_is_none():
    thread = threading.Thread(target=sys.exit, args=(0,))
    thread.start()
    thread.join()
    assert 0


# = crashed in call: exited with 0 [exit 0]
def test_os_exit_in_thread():
    threading.Thread(target=os._exit, args=(0,)).start()
    threading.Event().wait()


# = error in call: it ended the session with Exit: ok
def test_pytest_exit():
    pytest.exit("ok", 0)


# = error in call: it ended the session with Exit: ok
def test_pytest_exit_by_class():
    raise pytest.exit.Exception("ok", 0)


# = error in call: it ended the session with KeyboardInterrupt
def test_keyboard_interrupt():
    raise KeyboardInterrupt


# = error in call: it ended the session with KeyboardInterrupt
def test_sigint():
    os.kill(os.getpid(), signal.SIGINT)
    threading.Event().wait(5)


class Own(KeyboardInterrupt):
    def __str__(self):
        os._exit(0)


# = crashed: exited with 0 [exit 0]
def test_interrupt_that_exits_when_shown():
    raise Own


class Raising(KeyboardInterrupt):
    def __str__(self):
        raise ValueError


# = error in call: it ended the session
def test_interrupt_that_raises_when_shown():
    raise Raising


class Base(BaseException):
    pass


# = failed in call: Base
def test_base_exception():
    raise Base


# = failed in call: GeneratorExit
def test_generator_exit():
    raise GeneratorExit


# = failed in call: StopIteration
def test_stop_iteration():
    raise StopIteration("passed")


# = crashed in call: SIGABRT [signal 6]
def test_abort():
    os.abort()


# = crashed in call: SIGSEGV [signal 11]
def test_segmentation_fault():
    ctypes.string_at(0)


# = crashed in call: SIGKILL [signal 9]
def test_kills_itself():
    os.kill(os.getpid(), signal.SIGKILL)


# = crashed in call: SIGTERM [signal 15]
def test_terminates_itself():
    os.kill(os.getpid(), signal.SIGTERM)


# = crashed in call: SIGKILL [signal 9]
def test_kills_its_group():
    os.killpg(0, signal.SIGKILL)


# = failed in call: assert 0
def test_kills_its_parent():
    try:
        os.kill(os.getppid(), signal.SIGKILL)
    except OSError:
        pass
    assert 0


# = failed in call: assert 0
def test_sends_every_signal_to_pid_1():
    for number in signal.valid_signals():
        try:
            os.kill(1, number)
        except OSError:
            pass
    assert 0


# = failed in call: assert 0
def test_kills_everybody():
    try:
        os.kill(-1, signal.SIGKILL)
    except OSError:
        pass
    assert 0


# = failed in call: assert 0
def test_session_should_stop(request):
    request.session.shouldstop = "all is well"
    request.session.shouldfail = False
    assert 0


# = failed in call: assert 0
def test_session_has_no_failures(request):
    request.session.testsfailed = 0
    request.session.exitstatus = 0
    assert 0


# = crashed in call: exited with 0 [exit 0]
def test_executes_something_else():
    os.execv("/bin/true", ["true"])


# = failed in call: assert 0
def test_at_exit():
    import atexit

    atexit.register(os._exit, 0)
    assert 0


# = failed in call: assert 0
def test_in_destructor():
    class Leaves:
        def __del__(self):
            sys.exit(0)

    leaves = Leaves()
    assert 0


# = failed in call: RecursionError
def test_recursion():
    test_recursion()


# = crashed in call: its process was ended by SIG
# or failed in call: RecursionError
def test_recursion_in_c():
    sys.setrecursionlimit(10**9)

    def deeper(value):
        return deeper([value])

    value = []
    for _ in range(10**6):
        value = [value]
    repr(value)
    deeper(0)
    os.abort()
