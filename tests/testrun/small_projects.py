"""Small projects, and what runs them."""

from __future__ import annotations

import asyncio
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ipybox.testrun.model import CaseResult, RunReport
from ipybox.testrun.runner import TestRun
from ipybox.testrun.settings import RunSettings

INI = "[pytest]\nasyncio_default_fixture_loop_scope = function\n"


def write(root: Path, files: Mapping[str, str]) -> Path:
    """Writes a project's files; it has a ``pytest.ini`` unless some other configuration is among them."""
    if not {"pytest.ini", "tox.ini", "pyproject.toml", "setup.cfg"} & files.keys():
        files = {"pytest.ini": INI, **files}
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text), encoding="utf-8")
    return root


def run(cwd: Path, *paths: str, watch: dict[str, Any] | None = None, **settings: Any) -> RunReport:
    """Runs the tests of a project, each in its sandbox.

    Args:
        cwd: Where.
        paths: What.
        watch: More arguments of :class:`TestRun`.
        settings: Of the run.
    """

    async def run_all() -> RunReport:
        async with TestRun(RunSettings(paths=paths, cwd=str(cwd), **settings), **(watch or {})) as one:
            return await one.run()

    return asyncio.run(run_all())


def outcomes(report: RunReport) -> dict[str, str]:
    """What became of each test, by its id."""
    return {result.id: str(result.outcome) for result in report.results}


def only(report: RunReport) -> CaseResult:
    """The one result that there is."""
    (result,) = report.results
    return result
