"""Test runs in which every test has a sandbox of its own. Floor: testrun.

Names are handed on when they are asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

_HOMES = {
    "CaseResult": "ipybox.testrun.model",
    "IsolatedTestExecutor": "ipybox.testrun.executor",
    "IsolatedTestRunner": "ipybox.testrun.stages",
    "Outcome": "ipybox.testrun.outcome",
    "ParallelTestExecutor": "ipybox.testrun.parallel",
    "RunReport": "ipybox.testrun.model",
    "RunSettings": "ipybox.testrun.settings",
    "TestResultAggregator": "ipybox.testrun.aggregator",
    "TestRun": "ipybox.testrun.runner",
}

__all__ = list(_HOMES)

if TYPE_CHECKING:
    from ipybox.testrun.aggregator import TestResultAggregator as TestResultAggregator
    from ipybox.testrun.executor import IsolatedTestExecutor as IsolatedTestExecutor
    from ipybox.testrun.model import CaseResult as CaseResult
    from ipybox.testrun.model import RunReport as RunReport
    from ipybox.testrun.outcome import Outcome as Outcome
    from ipybox.testrun.parallel import ParallelTestExecutor as ParallelTestExecutor
    from ipybox.testrun.runner import TestRun as TestRun
    from ipybox.testrun.settings import RunSettings as RunSettings
    from ipybox.testrun.stages import IsolatedTestRunner as IsolatedTestRunner


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
