"""Finds out what an ordinary run of pytest changes in pytest itself, so that it is not taken for an attack.

Which module keeps the running configuration in a global name, or adds a method to a class when it is configured,
differs from version to version, and plugins do the same. So before anything of the project is there, some harmless
tests are run in a fork, and what has changed after that is left out of what is watched. Floor: testrun.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from ipybox.testrun import integrity

_ROUNDS = 40
_TESTS = """
import unittest
import pytest

@pytest.fixture(scope="module")
def shared():
    yield 1

@pytest.mark.parametrize("value", [1, 2])
def test_parametrized(value, shared, tmp_path, monkeypatch, capsys):
    print(value)
    assert value

@pytest.mark.xfail
def test_xfail():
    assert 0

@pytest.mark.skip
def test_skip():
    pass

def test_failure():
    with pytest.raises(AssertionError):
        assert [1] == [2]
    pytest.fail("on purpose")

class TestClass:
    def test_method(self, caplog):
        pass

class TestCase(unittest.TestCase):
    def test_case(self):
        with self.subTest(a=1):
            self.assertTrue(1)

async def test_coroutine():
    pass
"""


def ordinary_changes(
    watch: Callable[[frozenset[str]], integrity.Check], start: Callable[[], Callable[[], None]]
) -> frozenset[str]:
    """Names of what an ordinary run changes.

    Args:
        watch: Makes what names a change, but for names that it is given.
        start: Called before pytest is started; what it returns is called when pytest is configured.
    """
    ignored: frozenset[str] = frozenset()
    for _ in range(_ROUNDS):
        changed = _changed(watch(ignored), start)
        if changed is None or changed in ignored:
            break
        ignored |= {changed}
    return ignored


def _changed(check: integrity.Check, start: Callable[[], Callable[[], None]]) -> str | None:
    read, write = os.pipe()
    with tempfile.TemporaryDirectory() as directory:
        child = os.fork()
        if child == 0:
            try:
                os.close(read)
                _run(check, start, write, directory)
            finally:
                os._exit(0)
        os.close(write)
        with os.fdopen(read, "rb") as answer:
            name = answer.read().decode()
        os.waitpid(child, 0)
    return name or None


def _run(check: integrity.Check, start: Callable[[], Callable[[], None]], answer: int, directory: str) -> None:
    nothing = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(nothing, fd)
    os.chdir(directory)
    Path("test_rehearsal.py").write_text(_TESTS, encoding="utf-8")
    basetemp = f"--basetemp={directory}/basetemp"
    options = (f"--rootdir={directory}", "-p", "no:cacheprovider", basetemp)
    pytest.main([*options, directory], plugins=[_Witness(check, answer, start())])


class _Witness:
    """Tells the first change that is seen, at the moments at which changes are looked for later."""

    def __init__(self, check: integrity.Check, answer: int, configured: Callable[[], None]) -> None:
        self._check, self._answer, self._configured = check, answer, configured

    def _look(self) -> None:
        name = self._check()
        if name is not None:
            os.write(self._answer, name.encode())
            os._exit(0)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionstart(self) -> None:
        """As in a sandbox."""
        self._configured()

    @pytest.hookimpl(wrapper=True)
    def pytest_sessionfinish(self) -> Generator[None, None, None]:
        """Leaves before summaries are made, as in a sandbox."""
        yield
        self._look()
        os._exit(0)

    @pytest.hookimpl(trylast=True)
    def pytest_collection_finish(self) -> None:
        """Looks."""
        self._look()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(self) -> Generator[None, object, object]:
        """Looks after each phase."""
        report = yield
        self._look()
        return report

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self) -> Generator[None, object, object]:
        """Looks before and after each test."""
        self._look()
        result = yield
        self._look()
        return result
