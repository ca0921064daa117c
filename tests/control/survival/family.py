"""Processes of a server, as the machine sees them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from tests.control.serving import HANG, Api, Server, eventually

_number = iter(range(100_000, 1_000_000))


def of(server: Server) -> list[psutil.Process]:
    """Itself and all that it has started."""
    return [psutil.Process(server.pid), *psutil.Process(server.pid).children(recursive=True)]


def gone(processes: list[psutil.Process], seconds: float = HANG) -> None:
    """Returns when none of them runs."""
    deadline = time.monotonic() + seconds
    while left := [each for each in processes if _runs(each)]:
        assert time.monotonic() < deadline, f"still there: {left}"
        time.sleep(0.01)


def _runs(process: psutil.Process) -> bool:
    try:
        return process.status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.NoSuchProcess:
        return False


def sleeper(server: Server, api: Api, session_id: str) -> tuple[str, psutil.Process]:
    """An execution that sleeps for long in a session, and its process."""
    seconds = str(next(_number))
    execution_id = api.submit(session_id, f"echo up; sleep {seconds}", language="shell", timeout=900)
    process = eventually(lambda: _with(server, seconds))
    assert process is not None
    return execution_id, process


def _with(server: Server, argument: str) -> psutil.Process | None:
    for each in of(server):
        try:
            if each.cmdline()[-1:] == [argument] and each.name() == "sleep":
                return each
        except psutil.Error:
            continue
    return None


def first_processes(process: psutil.Process) -> Iterator[psutil.Process]:
    """From the innermost on, the first processes of the process namespaces around one: of its sandbox, of its wall."""
    above: psutil.Process | None = process
    while above is not None:
        lines = Path(f"/proc/{above.pid}/status").read_text(encoding="ascii").splitlines()
        numbers = next(line for line in lines if line.startswith("NSpid:")).split()[1:]
        if len(numbers) > 1 and numbers[-1] == "1":
            yield above
        above = above.parent()


def agent(process: psutil.Process) -> psutil.Process:
    """What has started a process for a session."""
    above = process.parent()
    while above is not None and above.name() != "ipybox-agent":
        above = above.parent()
    assert above is not None
    return above
