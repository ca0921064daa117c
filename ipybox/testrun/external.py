"""Runs the tests of any other framework, with one command in one fresh sandbox. Linux only. Floor: testrun.

The results are what the framework's own report says. That report is a file that the command writes, or its stdout, so
unlike the results of :mod:`ipybox.testrun.runner`, the tests could have written it as well. What can be known without
it is compared: a command whose exit code does not agree with its report has a result of its own, as an error.
"""

from __future__ import annotations

import asyncio
import base64
import platform
import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal

from ipybox.errors import ProgramStartError, ReportFormatError
from ipybox.exit_status import ExitStatus
from ipybox.testrun import command_inside, foreign_cases, jest, junit_reader, tap
from ipybox.testrun.foreign_cases import MOST_BYTES
from ipybox.testrun.model import CaseResult, RunReport
from ipybox.testrun.outcome import Outcome
from ipybox.testrun.project import project_root
from ipybox.testrun.request import Request
from ipybox.testrun.sandboxes import Sandbox, Sandboxes
from ipybox.testrun.settings import RunSettings
from ipybox.testrun.visible_text import visible_line

ReportKind = Literal["junit", "tap", "jest-json"]
STDOUT = command_inside.STDOUT

_RETRY_SECONDS = 0.2
_NOTE = "results are from the report that the command wrote in the sandbox, where its tests could write it as well"
_SHARED = "all tests of the command ran in one sandbox"


@dataclass(frozen=True, slots=True)
class ExternalCommand:
    """A command that runs tests and writes a report.

    Attributes:
        argv: The command, which is found on the ``PATH`` of the sandbox.
        reports: What kind of report it writes, and where: a file, seen from the run's working directory, or
            ``stdout``. An earlier report there is removed before, in the sandbox only. Where projects can't be changed
            in their sandboxes, it has to be below ``/tmp``.
    """

    argv: tuple[str, ...]
    reports: tuple[ReportKind, str]

    def __post_init__(self) -> None:
        if not self.argv or not all(self.argv[:1]):
            raise ValueError("argv must begin with a command")
        if any("\0" in each for each in (*self.argv, self.reports[1])):
            raise ValueError("argv and reports must not contain a null character")
        if self.reports[0] not in ("junit", "tap", "jest-json"):
            raise ValueError(f"the kind of report must be 'junit', 'tap' or 'jest-json', got {self.reports[0]!r}")
        if not self.reports[1]:
            raise ValueError("reports must say where the report is: a file, or 'stdout'")

    def __str__(self) -> str:
        """As it would be typed; the id of the result that says what became of the command itself."""
        return shlex.join(self.argv)

    def read(self, report: bytes, root: str = "") -> list[CaseResult]:
        """The results in a report. Raises :class:`ReportFormatError` if it is none of that kind."""
        match self.reports[0]:
            case "junit":
                return junit_reader.read(report)
            case "tap":
                return tap.read(report)
            case "jest-json":
                return jest.read(report, root)


async def run_external(
    settings: RunSettings,
    command: ExternalCommand,
    *,
    on_result: Callable[[CaseResult], None] = lambda result: None,
) -> RunReport:
    """Runs a command in a fresh sandbox of the project, and says what became of its tests.

    Args:
        settings: Where the project is, and what tests may do and find. ``timeout`` is for all of the command, and
            ``retries`` for a sandbox that could not be had; what is about single tests means nothing here.
        command: What to run.
        on_result: Called with each result, once there are any.

    Raises:
        SandboxUnavailableError: There are no sandboxes here.
        PolicyError: The settings can't be kept here.
    """
    root = project_root(settings.paths, settings.cwd)
    started_at, began = datetime.now(UTC), time.monotonic()
    sandboxes = Sandboxes(settings, root, executed=(command_inside.MODULE, command.reports[1], str(MOST_BYTES)))
    attempts = 0
    async with sandboxes:
        while True:
            attempts += 1
            results = await _attempt(settings, sandboxes, command, root)
            is_infrastructure = any(each.outcome is Outcome.INFRASTRUCTURE_ERROR for each in results)
            if not is_infrastructure or attempts > settings.retries:
                break
            await asyncio.sleep(_RETRY_SECONDS)
    results = [replace(each, attempts=attempts) for each in results]
    for each in results:
        on_result(each)
    return RunReport(
        results=tuple(results),
        started_at=started_at.isoformat(timespec="seconds"),
        duration=time.monotonic() - began,
        framework=f"{command.argv[0]} ({command.reports[0]})",
        isolation="file",
        workers=1,
        root=root,
        python=platform.python_version(),
        notes=(*sandboxes.notes, _NOTE, _SHARED),
    )


@dataclass
class _Told:
    """What a sandbox has told."""

    code: int | None = None
    refusal: str = ""
    report: bytes | None = None
    no_report: str = ""
    is_complete: bool = False

    def take(self, message: dict[str, Any]) -> None:
        """Takes one message."""
        match message.get("kind"):
            case "command":
                self.code = int(message["code"])
            case "not_started":
                self.refusal = str(message["reason"])
            case "report":
                self.report = (self.report or b"") + base64.b64decode(message["data"])
            case "no_report":
                self.no_report = str(message["reason"])
            case "end":
                self.is_complete = True


async def _attempt(
    settings: RunSettings, sandboxes: Sandboxes, command: ExternalCommand, root: str
) -> list[CaseResult]:
    request = Request(mode="run", key="", arguments=command.argv)
    began = time.monotonic()
    told, timed_out = _Told(), False

    def itself(outcome: Outcome, message: str, **facts: Any) -> CaseResult:
        """What became of the command."""
        return replace(
            foreign_cases.case(visible_line(str(command)), outcome, message=message, duration=time.monotonic() - began),
            **{"phase": "call" if not outcome.is_success else "", **facts},
        )

    try:
        async with sandboxes.start(request) as sandbox:
            try:
                async with asyncio.timeout(settings.timeout):
                    while (message := await sandbox.message()) is not None:
                        told.take(message)
            except TimeoutError:
                timed_out = True
                await sandbox.abort()
            status, from_outside = await sandbox.ended()
            texts = {"stdout": sandbox.stdout, "stderr": sandbox.stderr}
            ended = _ended(settings, sandbox, told, timed_out, status, from_outside)
            if ended is not None:
                outcome, reason, facts = ended
                return [itself(outcome, reason, **facts, **texts)]
    except ProgramStartError as error:
        return [itself(Outcome.INFRASTRUCTURE_ERROR, str(error), phase="")]
    if told.report is None:
        outcome, reason, facts = _without_report(told)
        return [itself(outcome, reason, **facts, **texts)]
    try:
        results = await asyncio.to_thread(command.read, told.report, root)  # it may be long
    except ReportFormatError as error:
        return [itself(Outcome.ERROR, f"{error}; it {_exited(told.code)}", exit_code=told.code, **texts)]
    disagreement = _disagreement(told.code or 0, results)
    if disagreement is not None:
        outcome, reason, facts = disagreement
        results = foreign_cases.distinct([itself(outcome, reason, **facts, **texts), *results])
    return results


_Verdict = tuple[Outcome, str, dict[str, Any]]


def _ended(
    settings: RunSettings, sandbox: Sandbox, told: _Told, timed_out: bool, status: ExitStatus, from_outside: bool
) -> _Verdict | None:
    """What the end of the sandbox says; None if it came to its end in order."""
    if sandbox.is_tampered_with:
        return Outcome.ERROR, "it wrote to the line on which results are reported: nothing is known", {}
    if told.refusal:
        return Outcome.ERROR, told.refusal, {"phase": "setup"}
    if told.is_complete:
        return None
    if timed_out:
        return Outcome.TIMEOUT, f"took longer than {settings.timeout:g} s", {}
    if status.reason == "memory":
        return Outcome.OUT_OF_MEMORY, status.detail, {"signal": status.signal}
    if from_outside:
        return Outcome.INFRASTRUCTURE_ERROR, "its sandbox was ended from outside", {"phase": ""}
    if status.signal is not None:
        return Outcome.CRASHED, f"what runs it was ended by {status.signal_name}", {"signal": status.signal}
    return Outcome.CRASHED, f"what runs it exited with {status.code}", {"exit_code": status.code}


def _without_report(told: _Told) -> _Verdict:
    code = told.code or 0
    if code < 0:
        return Outcome.CRASHED, f"it {_exited(code)}, without a report", {"signal": -code}
    return Outcome.ERROR, f"it {_exited(code)}, without a report: {told.no_report}", {"exit_code": code}


def _disagreement(code: int, results: Sequence[CaseResult]) -> _Verdict | None:
    """What is wrong if the command and its report do not say the same."""
    failures = sum(not each.outcome.is_success for each in results)
    if code < 0:
        return Outcome.CRASHED, f"it {_exited(code)} after it had written a report", {"signal": -code}
    if code == 0 and failures:
        return Outcome.ERROR, f"it exited with 0, and its report has {failures} failures", {"exit_code": code}
    if code and not failures:
        return Outcome.ERROR, f"it exited with {code}, and its report has no failure", {"exit_code": code}
    return None


def _exited(code: int | None) -> str:
    status = ExitStatus.from_returncode(code or 0)
    return f"was ended by {status.signal_name}" if status.signal is not None else f"exited with {status.code}"
