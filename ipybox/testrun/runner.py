"""Runs a project's tests, each in a sandbox of its own, as many at a time as is good. Floor: testrun."""

from __future__ import annotations

import asyncio
import fcntl
import os
import platform
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from ipybox.errors import CollectionError, ProgramStartError
from ipybox.testrun import verdict
from ipybox.testrun.model import CaseResult, RunReport
from ipybox.testrun.outcome import ExitCode, Outcome
from ipybox.testrun.plan import Item, Unit, longest_first, units
from ipybox.testrun.project import project_root
from ipybox.testrun.request import Request
from ipybox.testrun.sandboxes import Sandboxes
from ipybox.testrun.settings import RunSettings
from ipybox.testrun.verdict import Account

_RETRY_SECONDS = 0.2
_COLLECT_SECONDS = 60.0
_COMPILE_SECONDS = 30.0
_SEALS = 0xF
"""No more seals, no other size, no more writing."""


@dataclass(frozen=True, slots=True)
class Collected:
    """What was found.

    Attributes:
        items: The tests.
        files: Files that are skipped as a whole, or that can't be collected.
        framework: Such as ``pytest 9.0.1``.
        root: The directory that ids are relative to.
        configuration: The framework's configuration file; empty if there is none.
        deselected: How many tests were not asked for.
        continues: Whether tests are run although files could not be collected.
        most_failures: After how many failures the project wants a run to be stopped; 0 is never.
        plain: Files of the project that were loaded.
        rewritten: Files that were compiled in the framework's own way.
    """

    items: tuple[Item, ...] = ()
    files: tuple[CaseResult, ...] = ()
    framework: str = ""
    root: str = ""
    configuration: str = ""
    deselected: int = 0
    continues: bool = False
    most_failures: int = 0
    plain: tuple[str, ...] = ()
    rewritten: tuple[str, ...] = ()

    @property
    def errors(self) -> tuple[CaseResult, ...]:
        """The files that can't be collected."""
        return tuple(result for result in self.files if not result.outcome.is_success)


class TestRun:
    """One run. ``async with`` opens what its sandboxes share, and closes it.

    Args:
        settings: What to run, and how.
        on_result: Called with each result as soon as it is final.
        on_start: Called with the id of each test that begins.
        durations: Seconds that tests took before, by their ids; the longest are begun first.

    Raises:
        SandboxUnavailableError: There are no sandboxes here.
        PolicyError: The settings can't be kept here.
        PreloadError: A module that was to be imported beforehand can't be.
    """

    __test__ = False

    def __init__(
        self,
        settings: RunSettings,
        *,
        on_result: Callable[[CaseResult], None] = lambda result: None,
        on_start: Callable[[str], None] = lambda name: None,
        durations: Mapping[str, float] | None = None,
    ) -> None:
        self.root = project_root(settings.paths, settings.cwd)
        self._settings, self._cwd = settings, os.path.realpath(settings.cwd)
        self._on_result, self._on_start = on_result, on_start
        self._durations = durations or {}
        self._sandboxes = Sandboxes(settings, self.root)
        self._collected = self._found = Collected()
        self._results: dict[str, CaseResult] = {}
        self._queue: list[Unit] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopped = ""
        self._interrupted = False
        self._failures = 0
        self._archive: int | None = None
        self._started_at = datetime.now(UTC)
        self._began = time.monotonic()

    async def __aenter__(self) -> TestRun:
        await self._sandboxes.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._sandboxes.__aexit__(None, None, None)

    @property
    def collected(self) -> Collected:
        """What :meth:`collect` found."""
        return self._collected

    async def collect(self) -> Collected:
        """Finds the tests, in a sandbox of its own.

        Raises:
            CollectionError: The framework itself failed, such as for an option that it does not know.
        """
        settings = self._settings
        arguments = (*_collecting(settings), *settings.arguments, *settings.selection, *settings.paths)
        request = Request(mode="collect", framework=settings.framework, key="", arguments=arguments)
        for attempt in range(settings.retries + 1):
            try:
                self._collected = await self._collect(request)
                break
            except ProgramStartError as error:
                if attempt == settings.retries:
                    raise CollectionError(f"no sandbox could be had: {error}", is_infrastructure=True) from error
                await asyncio.sleep(_RETRY_SECONDS)
        self._found = self._collected
        return self.select(settings.only)

    def select(self, only: Iterable[str] | None) -> Collected:
        """Of what was found, keeps those tests and all of those files; None is everything."""
        self._collected = self._found
        if only is not None:
            wanted = set(only)
            kept = tuple(item for item in self._found.items if item.id in wanted or item.file in wanted)
            more = len(self._found.items) - len(kept)
            self._collected = replace(self._found, items=kept, deselected=self._found.deselected + more)
        return self._collected

    async def _collect(self, request: Request) -> Collected:
        items: list[Item] = []
        files: list[CaseResult] = []
        facts: dict[str, str] = {}
        plain: list[str] = []
        rewritten: list[str] = []
        deselected, most_failures, code, continues = 0, 0, None, False
        timeout = max(self._settings.timeout, _COLLECT_SECONDS)
        async with self._sandboxes.start(request) as sandbox:
            try:
                async with asyncio.timeout(timeout):
                    while (message := await sandbox.message()) is not None:
                        match message["kind"]:
                            case "items":
                                found = zip(message["ids"], message["paths"], message["lines"], strict=True)
                                items += [Item(name, path, int(line) if line else None) for name, path, line in found]
                            case "project":
                                facts = {name: message[name] for name in ("framework", "root", "configuration")}
                                deselected = int(message["deselected"])
                                continues = bool(message.get("continues"))
                                most_failures = max(int(message.get("most_failures", 0)), 0)
                            case "sources":
                                plain, rewritten = message["plain"], message["rewritten"]
                            case "not_collected":
                                files.append(verdict.not_collected(message))
                            case "skipped_file":
                                files.append(verdict.skipped_file(message))
                            case "end":
                                code = int(message["code"])
            except TimeoutError:
                await sandbox.abort()
                said = sandbox.stderr[-4000:]
                raise CollectionError(f"finding the tests took longer than {timeout:g} s", said) from None
            status, from_outside = await sandbox.ended()
            said = "\n".join(filter(None, (sandbox.stdout[-4000:], sandbox.stderr[-4000:])))
            if sandbox.is_tampered_with:
                raise CollectionError("the project wrote to the line on which results are reported", said)
            if code is None:
                infrastructure = from_outside
                raise CollectionError(f"finding the tests: {status}", said, is_infrastructure=infrastructure)
            if code == ExitCode.INTERNAL_ERROR:
                raise CollectionError("the framework failed when it looked for the tests", said)
            if code == ExitCode.USAGE_ERROR or (not facts and not files):
                raise CollectionError("the framework could not begin", said)
        return Collected(
            tuple(items),
            tuple(files),
            deselected=deselected,
            continues=continues,
            most_failures=most_failures,
            plain=tuple(plain),
            rewritten=tuple(rewritten),
            **facts,
        )

    async def _compile(self) -> int | None:
        """A file with the compiled modules of what was found, that nobody can change; None if there is none."""
        collected = self._collected
        if not collected.plain and not collected.rewritten:
            return None
        archive = os.memfd_create("ipybox-modules", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        request = Request(
            mode="compile",
            framework=self._settings.framework,
            key="",
            plain=collected.plain,
            rewritten=collected.rewritten,
        )
        is_complete = False
        try:
            async with self._sandboxes.start(request, archive) as sandbox, asyncio.timeout(_COMPILE_SECONDS):
                while (message := await sandbox.message()) is not None:
                    is_complete = is_complete or message["kind"] == "end"
            fcntl.fcntl(archive, fcntl.F_ADD_SEALS, _SEALS)
        except (ProgramStartError, TimeoutError, OSError):
            is_complete = False
        except BaseException:
            os.close(archive)
            raise
        if not is_complete:  # then each sandbox compiles what it needs, which only takes longer
            os.close(archive)
            return None
        return archive

    def adopt(self, results: Iterable[CaseResult]) -> None:
        """Takes results from elsewhere; their tests are not run."""
        names = {item.id for item in self._collected.items}
        for result in results:
            if result.id in names:
                self._add(result)

    async def run(self) -> RunReport:
        """Runs what was found, and tells what became of it. Finds it first if nobody did."""
        if not self._collected.root:
            await self.collect()
        for result in self._collected.files:
            self._add(result)
        if self._collected.errors and not self._collected.continues:
            self._interrupted = True
            self._stopped = f"{len(self._collected.errors)} files could not be collected"
        else:
            items = [item for item in self._collected.items if item.id not in self._results]
            found = units(items, self._settings.isolation)
            self._queue = longest_first(found, self._durations)[::-1]
            workers = min(self._settings.parallel, len(self._queue))
            self._archive = await self._compile()
            self._tasks = {asyncio.create_task(self._work()) for _ in range(workers)}
            try:
                for task in asyncio.as_completed(self._tasks):
                    await task
            except asyncio.CancelledError:
                current = asyncio.current_task()
                if not self._stopped or (current is not None and current.cancelling()):
                    raise
            finally:
                for each in self._tasks:
                    each.cancel()
                await asyncio.gather(*self._tasks, return_exceptions=True)
                if self._archive is not None:
                    os.close(self._archive)
                    self._archive = None
        return self.report()

    def finish_running(self, reason: str = "interrupted") -> None:
        """Begins no more tests; those that run come to their end."""
        self._interrupted, self._stopped = True, self._stopped or reason
        self._queue.clear()

    def stop(self, reason: str = "interrupted") -> None:
        """Ends what runs, too."""
        self.finish_running(reason)
        self._end_all()

    def _end_all(self) -> None:
        self._queue.clear()
        current = asyncio.current_task()
        for task in self._tasks:
            if task is not current:
                task.cancel()

    def report(self) -> RunReport:
        """What is known by now."""
        order = [result.id for result in self._collected.files] + [item.id for item in self._collected.items]
        names = list(dict.fromkeys(order))
        return RunReport(
            results=tuple(self._results[name] for name in names if name in self._results),
            not_run=tuple(name for name in names if name not in self._results),
            started_at=self._started_at.isoformat(timespec="seconds"),
            duration=time.monotonic() - self._began,
            interrupted=self._interrupted,
            stopped=self._stopped,
            deselected=self._collected.deselected,
            framework=self._collected.framework,
            isolation=self._settings.isolation,
            workers=self._settings.parallel,
            root=self._collected.root or self.root,
            python=platform.python_version(),
            notes=self._sandboxes.notes,
        )

    # ---- workers ------------------------------------------------------------------------------------------------

    async def _work(self) -> None:
        while self._queue:
            await self._run_unit(self._queue.pop())

    async def _run_unit(self, unit: Unit) -> None:
        """Runs it in as many sandboxes as it takes until each of its tests has a result."""
        attempts: dict[str, int] = {}
        failed_before: dict[str, CaseResult] = {}
        left: Unit | None = unit
        is_widened = False

        def settle(result: CaseResult) -> None:
            result = replace(result, attempts=attempts[result.id])
            before = failed_before.get(result.id)
            if self._is_to_be_repeated(result):
                failed_before[result.id] = result
            else:
                self._add(result if before is None or not result.outcome.is_success else _flaky(result, before))

        while left is not None and not self._stopped:
            for name in left.ids:
                attempts[name] = attempts.get(name, 0) + 1
            account = await self._in_sandbox(left, settle)
            if account.was_not_found and not is_widened and self._settings.isolation != "file":
                is_widened, left = True, left.of_whole_file()
                for name in left.ids:
                    attempts[name] -= 1
                continue
            again = {item.id for item in account.pending}
            for name in again:
                attempts[name] -= 1  # it has not begun
            again |= account.results.keys() - self._results.keys()
            if account.pending and not account.results and not self._stopped:
                raise AssertionError(f"a sandbox came to no result: {left.ids}")
            left = left.without(set(left.ids) - again)

    def _is_to_be_repeated(self, result: CaseResult) -> bool:
        if result.outcome.is_success or self._stopped:
            return False
        infrastructure = result.outcome is Outcome.INFRASTRUCTURE_ERROR
        most = self._settings.retries if infrastructure else self._settings.rerun_failures
        return result.attempts <= most

    async def _in_sandbox(self, unit: Unit, settle: Callable[[CaseResult], None]) -> Account:
        """Runs it in one sandbox, and settles each result as soon as it is known."""
        settings, account = self._settings, Account(unit)
        target = unit.target_for_pytest(self._cwd) if settings.framework == "pytest" else unit.target
        arguments = (*self._running(), *settings.arguments, target)
        request = Request(mode="run", framework=settings.framework, key="", arguments=arguments, ids=unit.ids)
        try:
            async with self._sandboxes.start(request, self._archive) as sandbox:
                timed_out: float | None = None
                deadline = time.monotonic() + settings.timeout
                while True:
                    try:
                        async with asyncio.timeout(max(deadline - time.monotonic(), 0.0)):
                            message = await sandbox.message()
                    except TimeoutError:
                        if not account.is_complete:
                            timed_out = settings.timeout
                            await sandbox.abort()
                        else:
                            sandbox.kill()
                        deadline = time.monotonic() + 3600.0  # it is over at once
                        continue
                    if message is None:
                        break
                    result = account.take(message)
                    if result is not None:
                        settle(result)
                    if message["kind"] == "start":
                        if self._stopped:
                            return account  # what is left of it is not begun any more
                        deadline = time.monotonic() + settings.timeout
                        self._on_start(str(message["id"]))
                status, from_outside = await sandbox.ended()
                closed: tuple[CaseResult, ...] = ()
                if (account.pending and not account.was_not_found) or not account.is_complete:
                    closed = account.close(
                        status,
                        from_outside=from_outside and timed_out is None and not sandbox.is_tampered_with,
                        timed_out=timed_out,
                        tampered=sandbox.is_tampered_with,
                        stdout=sandbox.stdout,
                        stderr=sandbox.stderr,
                    )
                elif account.was_not_found and unit.target == unit.items[0].path:
                    closed = account.close(status, stdout=sandbox.stdout, stderr=sandbox.stderr)
                for result in closed:
                    settle(result)
        except ProgramStartError as error:
            for item in account.pending:
                account.results[item.id] = verdict.infrastructure_error(item, str(error))
                settle(account.results[item.id])
            await asyncio.sleep(_RETRY_SECONDS)
        return account

    def _running(self) -> tuple[str, ...]:
        collected = self._collected
        if self._settings.framework != "pytest":
            return self._settings.paths  # which say what its modules are called
        configuration = ("-c", collected.configuration) if collected.configuration else ()
        return ("-q", f"--rootdir={collected.root}", *configuration, *_ALWAYS)

    def _add(self, result: CaseResult) -> None:
        self._results[result.id] = result
        self._on_result(result)
        if not result.outcome.is_success:
            self._failures += 1
            most = self._settings.most_failures or self._collected.most_failures
            if self._failures == most and not self._stopped:
                self._stopped = f"stopped after {self._failures} failures"
                self._end_all()


_ALWAYS = ("-o", "cache_dir=/tmp/.pytest_cache", "--color=no")


def _collecting(settings: RunSettings) -> tuple[str, ...]:
    return ("--collect-only", "-qq", *_ALWAYS) if settings.framework == "pytest" else ()


def _flaky(result: CaseResult, before: CaseResult) -> CaseResult:
    message = result.message or f"first it was {before.outcome}: {before.message}"
    return replace(result, flaky=True, message=message, details=before.details)
