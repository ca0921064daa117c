"""Sandboxes of a test run: what they share, what they keep apart, what they tell, and that they end."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from ipybox.errors import PolicyError
from ipybox.testrun.request import Request
from ipybox.testrun.sandboxes import TAIL, Sandbox, Sandboxes
from ipybox.testrun.settings import RunSettings
from tests.kernels.helpers import HANG, eventually
from tests.testrun.small_projects import INI, write

pytestmark = [pytest.mark.sandbox, pytest.mark.asyncio]


@asynccontextmanager
async def _opened(root: Path, **settings: Any) -> AsyncIterator[Sandboxes]:
    async with Sandboxes(RunSettings(cwd=str(root), **settings), str(root)) as sandboxes:
        yield sandboxes


def _request(text_id: str) -> Request:
    return Request(mode="run", key="", arguments=("-q", text_id), ids=(text_id,))


async def _told(sandbox: Sandbox) -> list[dict[str, Any]]:
    messages = []
    async with asyncio.timeout(HANG):
        while (message := await sandbox.message()) is not None:
            messages.append(message)
    return messages


def _project(tmp_path: Path, body: str) -> Path:
    """A project with one test."""
    lines = "\n".join(f"    {line}" for line in body.splitlines())
    return write(tmp_path / "p", {"test_m.py": f"import os, sys, time\ndef test_x():\n{lines}\n"})


def _ready(tmp_path: Path, body: str) -> Path:
    """Likewise; what it prints comes through."""
    root = _project(tmp_path, body)
    (root / "pytest.ini").write_text(f"{INI}addopts = -s\n")
    return root


async def _run(root: Path, act: Callable[[Sandbox], Awaitable[Any]] = _told) -> tuple[Sandbox, Any]:
    async with _opened(root) as sandboxes, sandboxes.start(_request("test_m.py::test_x")) as sandbox:
        return sandbox, await act(sandbox)


async def test_it_tells_what_became_of_its_test_and_then_nothing_for_ever(tmp_path: Path) -> None:
    async def act(sandbox: Sandbox) -> Any:
        messages = await _told(sandbox)
        return messages, await sandbox.message(), await sandbox.message(), await sandbox.ended()

    _, (messages, *after, ended) = await _run(_project(tmp_path, "pass"), act)
    assert [message["kind"] for message in messages] == ["start", "result", "end"]
    assert messages[1]["outcome"] == "passed"
    assert after == [None, None]
    assert (ended[0].reason, ended[0].code, ended[1]) == ("exited", 0, False)


async def test_the_end_of_what_it_writes_is_kept(tmp_path: Path) -> None:
    root = _project(tmp_path, f"print('x' * {3 * TAIL} + 'end', flush=True)\nos._exit(0)")
    (root / "pytest.ini").write_text(f"{INI}addopts = -s\n")
    sandbox, _ = await _run(root)
    assert len(sandbox.stdout) == TAIL
    assert sandbox.stdout.endswith("xend\n")


async def test_what_is_no_text_is_shown_as_well_as_can_be(tmp_path: Path) -> None:
    root = _project(tmp_path, "os.write(1, b'a\\xffb\\x00c')\nos._exit(3)")
    (root / "pytest.ini").write_text(f"{INI}addopts = -s\n")

    async def act(sandbox: Sandbox) -> Any:
        await _told(sandbox)
        return await sandbox.ended()

    sandbox, (status, from_outside) = await _run(root, act)
    assert "a\ufffdb\x00c" in sandbox.stdout
    assert (status.code, from_outside) == (3, False)


async def test_something_else_on_the_private_line_ends_it(tmp_path: Path) -> None:
    body = """\
for fd in os.listdir('/proc/self/fd'):
    try:
        os.write(int(fd), b'{"kind": "result", "outcome": "passed"}' * 9)
    except OSError:
        pass
time.sleep(1000)"""
    sandbox, messages = await _run(_project(tmp_path, body))
    assert sandbox.is_tampered_with
    assert [message["kind"] for message in messages] == ["start"]


async def test_one_that_is_aborted_says_where_it_is(tmp_path: Path) -> None:
    async def act(sandbox: Sandbox) -> Any:
        assert await eventually(lambda: "ready" in sandbox.stdout)
        await sandbox.abort()
        await _told(sandbox)
        return await sandbox.ended()

    sandbox, (status, _) = await _run(
        _ready(tmp_path, "def here():\n    print('ready', flush=True)\n    time.sleep(1000)\nhere()"), act
    )
    assert status.signal == signal.SIGABRT
    assert "in here" in sandbox.stderr


async def test_one_that_does_not_listen_is_ended_all_the_same(tmp_path: Path) -> None:
    body = "import signal\nsignal.signal(signal.SIGABRT, signal.SIG_IGN)\nprint('ready', flush=True)\ntime.sleep(1000)"

    async def act(sandbox: Sandbox) -> Any:
        assert await eventually(lambda: "ready" in sandbox.stdout)
        await sandbox.abort()
        await _told(sandbox)
        return await sandbox.ended()

    _, (status, _) = await _run(_ready(tmp_path, body), act)
    assert status.signal == signal.SIGKILL


async def test_one_that_somebody_else_kills_was_ended_from_outside(tmp_path: Path) -> None:
    root = _project(tmp_path, "time.sleep(1000)")
    async with _opened(root) as sandboxes:
        before = {each.pid for each in psutil.Process().children(recursive=True)}
        async with sandboxes.start(_request("test_m.py::test_x")) as sandbox:
            assert (await sandbox.message() or {})["kind"] == "start"
            for each in psutil.Process().children(recursive=True):
                if each.pid not in before:
                    with suppress(psutil.NoSuchProcess):  # it went with the one before
                        each.kill()
            assert await _told(sandbox) == []
            async with asyncio.timeout(HANG):
                _, from_outside = await sandbox.ended()
    assert from_outside


async def test_leaving_the_block_ends_it_and_all_that_it_started(tmp_path: Path) -> None:
    body = "import subprocess\nsubprocess.Popen(['sleep', '1000'], start_new_session=True)\ntime.sleep(1000)"
    async with _opened(_project(tmp_path, body)) as sandboxes:
        before = {each.pid for each in psutil.Process().children(recursive=True)}
        descriptors = len(os.listdir("/proc/self/fd"))
        async with sandboxes.start(_request("test_m.py::test_x")) as sandbox:
            assert (await sandbox.message() or {})["kind"] == "start"
        assert {each.pid for each in psutil.Process().children(recursive=True)} <= before
        assert len(os.listdir("/proc/self/fd")) <= descriptors


async def test_many_at_the_same_time_are_apart(tmp_path: Path) -> None:
    body = """\
here = os.path.dirname(__file__)
assert not os.path.exists(here + '/mine') and not os.path.exists('/tmp/mine')
open(here + '/mine', 'w').close()
open('/tmp/mine', 'w').close()
assert os.getpid() < 100
assert not os.path.exists('/dev/shm/mine')
open('/dev/shm/mine', 'w').close()"""
    root = _project(tmp_path, body)

    async def one(sandboxes: Sandboxes) -> str:
        async with sandboxes.start(_request("test_m.py::test_x")) as sandbox:
            (outcome,) = [each["outcome"] for each in await _told(sandbox) if each["kind"] == "result"]
            return str(outcome)

    async with _opened(root) as sandboxes:
        assert await asyncio.gather(*(one(sandboxes) for _ in range(12))) == ["passed"] * 12
    assert not (root / "mine").exists()


async def test_what_is_left_of_a_limit_of_writing_is_the_next_ones(tmp_path: Path) -> None:
    body = """\
try:
    with open(os.path.dirname(__file__) + '/large', 'wb') as file:
        for _ in range(64):
            file.write(bytes(1 << 20))
except OSError:
    pass
else:
    assert False, 'there is no limit'"""
    root = _project(tmp_path, body)
    async with _opened(root, scratch=16 * 2**20) as sandboxes:
        for _ in range(2):
            async with sandboxes.start(_request("test_m.py::test_x")) as sandbox:
                (outcome,) = [each["outcome"] for each in await _told(sandbox) if each["kind"] == "result"]
                assert outcome == "passed"


@pytest.mark.parametrize("network", [("http://no host/",), ("*",), ("a b",)])
async def test_a_host_that_is_none_is_refused_before_anything_runs(tmp_path: Path, network: tuple[str, ...]) -> None:
    with pytest.raises((PolicyError, ValueError)):
        async with _opened(_project(tmp_path, "pass"), network=network):
            pass
