"""Pages of test runs, out of the results files that the settings name. For administrators. Floor: control.

What tests wrote is hostile. A report is a page of its own, which can neither run anything nor reach this one.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse

from ipybox.control.api.context import context_of
from ipybox.control.console.page_route import PageRoute
from ipybox.control.console.rendering import page
from ipybox.control.console.visitor import Administrator
from ipybox.control.errors import RecordNotFoundError
from ipybox.errors import ResultsFileError
from ipybox.testrun import html_report
from ipybox.testrun.history import History, RecordedRun
from ipybox.testrun.model import RunReport
from ipybox.testrun.trend import TrendPoint

router = APIRouter(prefix="/tests", route_class=PageRoute)
POLICY = f"{html_report.POLICY}; frame-ancestors 'none'; sandbox"
_RUNS = 50
_TREND = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultsOf:
    """What a results file says of its last runs, newest first; ``problem`` is why it says nothing."""

    number: int
    path: str
    runs: tuple[RecordedRun, ...] = ()
    trend: tuple[TrendPoint, ...] = ()
    problem: str = ""

    @property
    def rows(self) -> list[tuple[RecordedRun, TrendPoint]]:
        """Each run with how it compares to those before."""
        return list(zip(reversed(self.runs), reversed(self.trend), strict=True))


@router.get("")
async def test_runs(request: Request, visitor: Administrator) -> Response:
    """The last runs of each file."""
    paths = context_of(request).settings.test_results
    found = [await asyncio.to_thread(_read, number, path) for number, path in enumerate(paths)]
    return page(request, "test_runs.html", files=found)


@router.get("/{number}/{run_id}")
async def report(request: Request, visitor: Administrator, number: int, run_id: int) -> Response:
    """The report of one run."""
    paths = context_of(request).settings.test_results
    if not 0 <= number < len(paths) or not 0 < run_id < 2**63:
        raise RecordNotFoundError("test run", str(run_id))
    html = await asyncio.to_thread(_report, paths[number], run_id)
    return HTMLResponse(html.encode("utf-8", "replace"), headers={"Content-Security-Policy": POLICY})


def _read(number: int, path: str) -> ResultsOf:
    """Never makes the file: it is there once tests have been run."""
    if not Path(path).is_file():
        return ResultsOf(number=number, path=path, problem="There are no results yet.")
    try:
        with History(path) as history:
            trend = history.trend(_RUNS)
            runs = {run.id: run for run in history.runs(_RUNS)}
    except ResultsFileError as error:
        return ResultsOf(number=number, path=path, problem=str(error))
    kept = tuple(point for point in trend if point.run_id in runs)
    return ResultsOf(number=number, path=path, runs=tuple(runs[point.run_id] for point in kept), trend=kept)


def _report(path: str, run_id: int) -> str:
    if not Path(path).is_file():
        raise RecordNotFoundError("test run", str(run_id))
    with History(path) as history:
        run = next((each for each in history.runs(1_000_000) if each.id == run_id), None)
        if run is None:
            raise RecordNotFoundError("test run", str(run_id))
        results = history.results(run_id)
        trend = [point for point in history.trend(1_000_000) if point.run_id <= run_id][-_TREND:]
    made = RunReport(
        results=results,
        started_at=run.started_at,
        duration=run.duration,
        interrupted=run.interrupted,
        framework=run.framework,
        isolation=run.isolation,
        workers=run.workers,
        python=run.python,
    )
    return html_report.to_html(made, trend)
