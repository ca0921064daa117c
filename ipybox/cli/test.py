"""``ipybox test``: a project's tests, each in a sandbox of its own. Floor: cli."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import shlex
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from ipybox.cli.env import parse_env
from ipybox.cli.run_display import Display
from ipybox.errors import CollectionError, IpyboxError
from ipybox.testrun import github, junit
from ipybox.testrun.atomic_file import write_text_atomically
from ipybox.testrun.cache import Cache, Fingerprint
from ipybox.testrun.external import ExternalCommand, ReportKind, run_external
from ipybox.testrun.history import History
from ipybox.testrun.html_report import to_html
from ipybox.testrun.model import RunReport
from ipybox.testrun.outcome import ExitCode
from ipybox.testrun.project import project_root
from ipybox.testrun.runner import TestRun
from ipybox.testrun.settings import RunSettings
from ipybox.testrun.trend import TrendPoint, trend_table
from ipybox.testrun.visible_text import visible
from ipybox.testrun.webhook import checked_url, notify


@dataclass(frozen=True, slots=True, kw_only=True)
class TestOptions:
    """What was asked for on the command line, besides :class:`RunSettings`.

    Attributes:
        command: A command of another framework, to be run in place of pytest or unittest.
        junitxml, json, html: Files to be written.
        cached: Whether tests whose project has not changed since they passed are left out.
        last_failed: Whether only those are run that failed when they were last run.
        history: File with the results of earlier runs; None is one for the project in the user's state directory.
        keeps_history: Whether there is one.
        trend: Whether the last runs are shown.
        webhook: URL that is told about the end.
        webhook_secret: With what that is signed.
        verbosity: See :class:`Display`.
        colour: Whether colours are used; None is on a terminal only.
    """

    __test__ = False

    command: ExternalCommand | None = None
    junitxml: Path | None = None
    json: Path | None = None
    html: Path | None = None
    cached: bool = False
    last_failed: bool = False
    history: Path | None = None
    keeps_history: bool = True
    trend: bool = False
    webhook: str | None = None
    webhook_secret: str | None = field(default=None, repr=False)
    verbosity: int = 0
    colour: bool | None = None


def run_tests(settings: RunSettings, options: TestOptions) -> int:
    """Runs, shows, keeps and tells; returns the exit code."""
    if options.webhook is not None:
        try:
            checked_url(options.webhook)
        except ValueError as error:
            sys.stderr.write(f"ipybox: --webhook: {error}\n")
            return ExitCode.USAGE_ERROR
    console = Console(force_terminal=options.colour, no_color=options.colour is False, highlight=False, stderr=False)
    try:
        with ExitStack() as stack:
            root = project_root(settings.paths, settings.cwd)
            history, cache = _open_files(stack, root, options)
            return asyncio.run(_Session(settings, options, root, console, history, cache).run())
    except CollectionError as error:
        _complain(console, str(error))
        return ExitCode.INTERNAL_ERROR if error.is_infrastructure else ExitCode.USAGE_ERROR
    except IpyboxError as error:
        _complain(console, str(error))
        return ExitCode.INTERNAL_ERROR
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED


def settings_from(
    paths: Sequence[str],
    *,
    keyword: str | None,
    marker: str | None,
    env: Sequence[str],
    hash_seed: str,
    **values: Any,
) -> RunSettings:
    """The settings of a command line; raises ``ValueError`` for what makes no sense."""
    if not hash_seed.isdecimal():
        raise ValueError(f"--hash-seed wants a number or 'random', got {hash_seed!r}")
    selection = (*(("-k", keyword) if keyword else ()), *(("-m", marker) if marker else ()))
    cwd = os.getcwd()
    # What begins with a dash came after "--", and whatever follows it may belong to it.
    first = next((index for index, path in enumerate(paths) if path.startswith("-")), len(paths))
    for path in paths[:first]:
        if not os.path.lexists(os.path.join(cwd, path.partition("::")[0])) and values["framework"] == "pytest":
            raise ValueError(f"{path} does not exist")
    return RunSettings(
        paths=tuple(paths[:first]),
        arguments=tuple(paths[first:]),
        cwd=cwd,
        selection=selection,
        env=parse_env(env),
        hash_seed=int(hash_seed),
        **values,
    )


def external_command(command: str | None, report: str | None) -> ExternalCommand | None:
    """``--command`` and ``--report``; raises ``ValueError`` for what makes no sense."""
    if command is None and report is None:
        return None
    if command is None or report is None:
        raise ValueError("--command and --report belong together")
    kinds: dict[str, ReportKind] = {"junit": "junit", "tap": "tap", "jest-json": "jest-json"}
    kind, _, place = report.partition(":")
    if kind not in kinds or not place:
        raise ValueError(f"--report wants junit:FILE, tap:stdout, tap:FILE or jest-json:FILE, got {report!r}")
    return ExternalCommand(tuple(shlex.split(command)), (kinds[kind], place))


def history_file(root: str, environment: Mapping[str, str] = os.environ) -> Path:
    """Where results of a project are kept: outside of it, where its tests can't write."""
    state = environment.get("XDG_STATE_HOME") or os.path.join(os.path.expanduser("~"), ".local", "state")
    name = hashlib.sha256(os.fsencode(root)).hexdigest()[:16]
    return Path(state) / "ipybox" / "tests" / f"{os.path.basename(root) or 'root'}-{name}.sqlite"


def random_seed() -> int:
    """A hash seed that nobody can know, to be shown so that it can be used again."""
    return random.SystemRandom().randrange(4294967296)


def _open_files(stack: ExitStack, root: str, options: TestOptions) -> tuple[History | None, Cache | None]:
    if not (options.keeps_history or options.last_failed or options.cached or options.trend):
        return None, None
    path = options.history or history_file(root)
    history = stack.enter_context(History(path)) if options.keeps_history or options.last_failed else None
    return history, stack.enter_context(Cache(path)) if options.cached else None


def _complain(console: Console, text: str) -> None:
    shown = "\n".join(visible(text).splitlines())
    Console(stderr=True, no_color=console.no_color).print(
        f"ipybox: {shown}", markup=False, highlight=False, soft_wrap=True
    )


class _Session:
    """One ``ipybox test`` from its beginning to its end."""

    def __init__(
        self,
        settings: RunSettings,
        options: TestOptions,
        root: str,
        console: Console,
        history: History | None,
        cache: Cache | None,
    ) -> None:
        self._settings, self._options, self._root = settings, options, root
        self._console, self._history, self._cache = console, history, cache
        self._interrupts = 0
        self._run: TestRun | None = None
        self._main: asyncio.Task[RunReport] | None = None

    async def run(self) -> int:
        settings = self._settings
        if self._options.last_failed and self._history is not None:
            failed = self._history.last_failed()
            if failed:
                settings = replace(settings, only=failed)
            else:
                self._console.print("no test failed when it was last run: all are run")
        durations = self._history.durations() if self._history is not None else {}
        before = self._fingerprint()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._interrupt, number)
        try:
            with Display(self._console, self._options.verbosity) as display:
                self._main = asyncio.ensure_future(self._run_tests(settings, durations, display, before))
                try:
                    report = await self._main
                except asyncio.CancelledError:
                    return ExitCode.INTERRUPTED
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)
        trend = self._keep(report, before)
        display.summary(report)
        try:
            self._write(report, trend)
        except OSError as error:
            _complain(self._console, f"a report could not be written: {error}")
            return ExitCode.INTERNAL_ERROR
        finally:
            await self._notify(report)
        return int(report.exit_code)

    async def _run_tests(
        self, settings: RunSettings, durations: Mapping[str, float], display: Display, before: Fingerprint | None
    ) -> RunReport:
        if self._options.command is not None:
            self._run = None
            return await run_external(settings, self._options.command, on_result=display.finished)
        run = TestRun(settings, on_result=display.finished, on_start=display.started, durations=durations)
        async with run:
            collected = await run.collect()
            if settings.only is not None and collected.deselected and not (collected.items or collected.errors):
                self._console.print("what failed when it was last run is not there any more: all are run")
                settings = replace(settings, only=None)
                collected = run.select(None)
            display.found(len(collected.items), run.root, settings.parallel, settings.isolation)
            self._run = run
            if before is not None and self._cache is not None:
                run.adopt(self._cache.lookup(before, [item.id for item in collected.items]).values())
            return await run.run()

    def _interrupt(self, number: int) -> None:
        self._interrupts += 1
        if self._run is None:
            if self._main is not None:
                self._main.cancel()
        elif self._interrupts == 1 and number == signal.SIGINT:
            self._run.finish_running("interrupted: what runs comes to its end (Ctrl-C again ends it now)")
            self._console.print("[yellow]interrupted: waiting for the tests that run; Ctrl-C again ends them now[/]")
        else:
            self._run.stop("interrupted")

    def _fingerprint(self) -> Fingerprint | None:
        if self._cache is None:
            return None
        path = self._options.history or history_file(self._root)
        inside = os.path.relpath(os.path.realpath(path), self._root)
        exclude = () if inside.startswith("..") else (inside,)
        shown = {name: value for name, value in asdict(self._settings).items() if name not in _NO_INFLUENCE}
        found = self._cache.fingerprint(self._root, settings=shown, exclude=exclude)
        if not found.digest:
            self._console.print(f"no results are taken from the cache: {found.reason}", markup=False)
        return found

    def _keep(self, report: RunReport, before: Fingerprint | None) -> tuple[TrendPoint, ...]:
        if self._cache is not None and before is not None and self._fingerprint() == before:
            self._cache.store(before, report.results)
        if self._history is None:
            return ()
        if self._options.keeps_history and report.results:
            self._history.record(report)
        return self._history.trend()

    def _write(self, report: RunReport, trend: Sequence[TrendPoint]) -> None:
        options = self._options
        if options.trend:
            self._console.print(trend_table(trend), markup=False, highlight=False)
        if options.junitxml is not None:
            write_text_atomically(options.junitxml, junit.to_junit(report))
        if options.json is not None:
            write_text_atomically(options.json, json.dumps(report.to_dict(), indent=2) + "\n")
        if options.html is not None:
            write_text_atomically(options.html, to_html(report, trend))
        summary = os.environ.get("GITHUB_STEP_SUMMARY")
        if summary:
            github.append_summary(summary, report, trend)
        if os.environ.get("GITHUB_ACTIONS") == "true":
            for line in github.annotation_lines(report):
                sys.stdout.write(f"{line}\n")

    async def _notify(self, report: RunReport) -> None:
        if self._options.webhook is None:
            return
        delivery = await notify(self._options.webhook, report, secret=self._options.webhook_secret)
        if not delivery.delivered:
            _complain(self._console, f"the webhook was not told: {delivery.reason}")


_NO_INFLUENCE = frozenset(
    ("cwd", "workers", "only", "retries", "rerun_failures", "most_failures", "selection", "paths")
)
"""Settings that say which tests are run, or when, but not what becomes of one."""
