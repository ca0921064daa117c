"""Finds and runs tests with pytest, inside a sandbox. Floor: testrun.

Outcomes are those of pytest's own reports, as they are made, with every hook of the project's that has a say in them.
They are told on the private line; pytest's terminal output is for nobody.
"""

from __future__ import annotations

import ast
import builtins
import sys
from collections.abc import Callable, Generator
from types import CodeType, ModuleType

import pytest
from _pytest.assertion.rewrite import rewrite_asserts
from _pytest.config import default_plugins

from ipybox.testrun import integrity
from ipybox.testrun.channel import Write
from ipybox.testrun.code_archive import loaded_sources
from ipybox.testrun.in_sandbox import OFTEN_NEEDED, load
from ipybox.testrun.pytest_rehearsal import ordinary_changes
from ipybox.testrun.pytest_reporter import common, line_of, plugin, reporter
from ipybox.testrun.pytest_start import Start
from ipybox.testrun.request import Request

globals()["__builtins__"] = dict(vars(builtins))  # see ipybox.testrun.channel

_AT_ONCE = 300

Run = Callable[[Request, Write, Callable[[], None]], None]


def prepare() -> tuple[Run, Callable[[str, bytes], CodeType]]:
    """Imports pytest and its installed plugins; returns what runs in a fork, and how pytest compiles tests."""
    load((*(f"_pytest.{name}" for name in default_plugins), *OFTEN_NEEDED))
    start = Start()

    def watch(ordinary: frozenset[str]) -> integrity.Check:
        return integrity.watch(integrity.PYTEST, start.packages, ordinary)

    return _runner(watch(ordinary_changes(watch, start.install)), start), _rewrite


def _rewrite(name: str, source: bytes) -> CodeType:
    """Compiles a file as pytest does, so that a failed assertion says what was compared."""
    tree = ast.parse(source, filename=name)
    rewrite_asserts(tree, source, name)
    return compile(tree, name, "exec", dont_inherit=True)


def _runner(check: integrity.Check, start: Start) -> Run:
    def run(request: Request, tell: Write, begun: Callable[[], None]) -> None:
        import pytest  # nothing of this package can be imported any more

        sys.argv[:] = ["pytest", *request.arguments]
        configured = start.install()
        if request.mode == "collect":
            private_line = [_collector(request, tell, configured)]
        else:
            private_line = reporter(request, tell, configured, begun, check)
        code = pytest.main(list(request.arguments), plugins=private_line)
        tell({"kind": "end", "code": int(code)})

    return run


def _collector(request: Request, tell: Write, configured: Callable[[], None]) -> ModuleType:
    """The plugin that tells which tests there are."""
    sources_of, root = loaded_sources, request.root
    deselected = 0

    def pytest_deselected(items: list[pytest.Item]) -> None:
        nonlocal deselected
        deselected += len(items)

    @pytest.hookimpl(trylast=True)
    def pytest_collection_finish(session: pytest.Session) -> None:
        config = session.config
        tell(
            {
                "kind": "project",
                "framework": f"pytest {pytest.__version__}",
                "root": str(config.rootpath),
                "configuration": str(config.inipath or ""),
                "deselected": deselected,
                "continues": bool(config.option.continue_on_collection_errors),
                "most_failures": int(config.option.maxfail or 0),
            }
        )
        for start in range(0, len(session.items), _AT_ONCE):
            some = session.items[start : start + _AT_ONCE]
            tell(
                {
                    "kind": "items",
                    "ids": [item.nodeid for item in some],
                    "paths": [str(item.path) for item in some],
                    "lines": [str(line_of(item) or "") for item in some],
                }
            )
        plain, rewritten = sources_of(root)
        tell({"kind": "sources", "plain": plain, "rewritten": rewritten})

    hooks = common(tell, configured)
    finish = hooks.pop("pytest_sessionfinish")

    @pytest.hookimpl(wrapper=True)
    def pytest_sessionfinish(session: pytest.Session) -> Generator[None, None, None]:
        if session.exitstatus == pytest.ExitCode.USAGE_ERROR:
            yield  # pytest says afterwards what was wrong, and then it is over
        else:
            yield from finish(session)

    return plugin(
        **hooks,
        pytest_sessionfinish=pytest_sessionfinish,
        pytest_deselected=pytest_deselected,
        pytest_collection_finish=pytest_collection_finish,
    )
