"""Tests that lie about their outcome: each is told as what it is."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from ipybox.testrun.model import RunReport
from ipybox.testrun.runner import TestRun
from ipybox.testrun.settings import RunSettings
from tests.testrun.hostile import Hostile, hostile, make_project

pytestmark = pytest.mark.sandbox
_TIMEOUTS = {"quick": 60.0, "reported": 60.0, "slow": 2.0}
_CASES = [(kind, case) for kind in _TIMEOUTS for case in hostile(kind)]


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunReport]:
    """One run for each directory."""
    return {kind: _run(tmp_path_factory.mktemp(kind), kind, timeout) for kind, timeout in _TIMEOUTS.items()}


def _run(directory: Path, kind: str, timeout: float) -> RunReport:
    make_project(directory, kind)
    settings = RunSettings(paths=(".",), cwd=str(directory), timeout=timeout, scratch=64 * 1024**2, memory=256 * 1024**2)

    async def run() -> RunReport:
        async with TestRun(settings) as tests:
            return await tests.run()

    return asyncio.run(run())


@pytest.mark.parametrize(("kind", "case"), _CASES, ids=[f"{case.file[5:-3]}-{case.name[5:]}" for _, case in _CASES])
def test_is_told_as_what_it_is(reports: dict[str, RunReport], kind: str, case: Hostile) -> None:
    results = [result for result in reports[kind].results if case.is_about(result)]

    assert results
    for result in results:
        case.check(result)
