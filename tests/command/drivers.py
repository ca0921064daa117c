"""The drivers that this machine has, and how each of them is opened for a test."""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ipybox.command.driver import CanExecuteCommand
from ipybox.command.policy import ExecutionPolicy
from ipybox.command.result import ExecResult
from ipybox.command.sandbox import Sandbox
from ipybox.errors import IpyboxError
from ipybox.testing import FakeSandbox, RecordingSandbox

Opened = AbstractAsyncContextManager[Any]


@dataclass(frozen=True)
class Subject:
    """A way to run commands.

    Attributes:
        name: Names it in test ids.
        open: Opens it for a policy.
        isolates: Whether it keeps commands from files and network.
        runs: Whether commands really run, so that there is something to be looked at from outside.
        has_python: Whether a command finds this Python.
    """

    name: str
    open: Callable[[ExecutionPolicy], Opened]
    isolates: bool = True
    runs: bool = True
    has_python: bool = True


@asynccontextmanager
async def _host(policy: ExecutionPolicy) -> AsyncIterator[CanExecuteCommand]:
    yield Sandbox.host(policy, waive="isolation")


@asynccontextmanager
async def _cold(policy: ExecutionPolicy) -> AsyncIterator[CanExecuteCommand]:
    yield Sandbox.bubblewrap(policy)


@asynccontextmanager
async def _warm(policy: ExecutionPolicy) -> AsyncIterator[CanExecuteCommand]:
    async with Sandbox.bubblewrap(policy) as sandbox:
        yield sandbox


@asynccontextmanager
async def _firejail(policy: ExecutionPolicy) -> AsyncIterator[CanExecuteCommand]:
    yield Sandbox.firejail(policy)


class Replayed:
    """Runs each command for real, and then gives what a fake makes of the recording: the double is put to the same
    tests as what it stands for."""

    def __init__(self, policy: ExecutionPolicy) -> None:
        self._real = Sandbox.host(policy, waive="isolation")
        self.policy = policy

    async def execute(
        self, argv: Sequence[str | os.PathLike[str]], stdin: Any = None, on_output: Any = None, **options: Any
    ) -> ExecResult:
        if hasattr(stdin, "__aiter__"):
            stdin = b"".join([chunk async for chunk in stdin])
        recording = RecordingSandbox(self._real)
        await recording.execute(argv, stdin, cancellation=options.get("cancellation"))
        fake = FakeSandbox.replay(recording.transcript, policy=self.policy)
        options.pop("cancellation", None)
        result = await fake.execute(argv, stdin, on_output, **options)
        fake.assert_all_used()
        return result


@asynccontextmanager
async def _fake(policy: ExecutionPolicy) -> AsyncIterator[CanExecuteCommand]:
    yield Replayed(policy)


SUBJECTS = (
    Subject("host", _host, isolates=False),
    Subject("bubblewrap", _cold),
    Subject("bubblewrap, kept open", _warm),
    Subject("firejail", _firejail),
    Subject("fake", _fake, isolates=False, runs=False),
)


def missing(subject: Subject) -> str | None:
    """Why a subject can't be tested here; None when it can."""
    try:
        if subject.name == "firejail":
            Sandbox.firejail(ExecutionPolicy.default())
    except IpyboxError as error:
        return str(error)
    return None


def parameters(*, isolating: bool = False, running: bool = False) -> list[Any]:
    """Those subjects, as parameters of a test; what is not there is skipped and says so."""
    found = []
    for subject in SUBJECTS:
        if (isolating and not subject.isolates) or (running and not subject.runs):
            continue
        marks = []
        if subject.name != "fake":
            marks.append(pytest.mark.sandbox)
        if reason := missing(subject):
            marks.append(pytest.mark.skip(reason=reason))
        found.append(pytest.param(subject, id=subject.name, marks=marks))
    return found


class Sleeper:
    """A command's argument that is found again in the list of processes."""

    def __init__(self) -> None:
        self.seconds = f"9{secrets.randbelow(10**6):06d}.{secrets.randbelow(10**9):09d}"

    @property
    def is_alive(self) -> bool:
        """Whether any process on this machine has it among its arguments."""
        wanted = self.seconds.encode()
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                try:
                    if wanted in (entry / "cmdline").read_bytes().split(b"\0"):
                        return True
                except OSError:
                    continue  # it is gone
        return False
