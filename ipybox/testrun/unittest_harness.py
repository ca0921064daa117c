"""Finds and runs tests with the standard library's unittest, inside a sandbox. Floor: testrun.

Tests are found as ``python -m unittest discover`` finds them, and run by unittest's own suite. A test is named after
the file that it was found through, such as ``tests/test_a.py::TestB::test_c``. Outcomes are in pytest's words:

- Any exception out of the test method, ``SystemExit`` and a failed subtest too, is ``failed``.
- One out of ``setUp``, ``tearDown`` or a cleanup is ``error``, and so is one out of ``setUpClass`` or ``setUpModule``,
  for all tests that needed it, and out of ``tearDownClass`` or ``tearDownModule``, for the last test before it.
- An unexpected success is ``failed``, as unittest counts it.
- A test that unittest says nothing about is ``error``.

A suite that ``load_tests`` returns is taken for the tests in it; a ``run`` of its own is not called.
"""

from __future__ import annotations

import argparse
import builtins
import faulthandler
import os
import platform
import sys
import warnings
from collections.abc import Callable
from types import CodeType

from ipybox.testrun import integrity, unittest_finder, unittest_ledger
from ipybox.testrun.channel import Write
from ipybox.testrun.code_archive import loaded_sources
from ipybox.testrun.in_sandbox import OFTEN_NEEDED, cut, leave, load
from ipybox.testrun.request import Request
from ipybox.testrun.unittest_finder import Finder
from ipybox.testrun.unittest_ledger import Ledger, aside

globals()["__builtins__"] = dict(vars(builtins))  # see ipybox.testrun.channel

_AT_ONCE = 300


def prepare() -> tuple[Callable[[Request, Write, Callable[[], None]], None], Callable[[str, bytes], CodeType]]:
    """Imports what tests often need; returns what runs in a fork, and how files are compiled, as by Python."""
    load(OFTEN_NEEDED)
    check = integrity.watch((*integrity.UNITTEST, unittest_ledger.__name__))

    def run(request: Request, tell: Write, begun: Callable[[], None]) -> None:
        arguments = request.arguments if request.mode == "collect" else request.arguments[:-1]
        try:
            options = unittest_finder.options().parse_intermixed_args(arguments)
        except SystemExit as error:
            tell({"kind": "end", "code": int(error.code or 0)})
            leave()
        me = os.getpid()
        sys.argv[:] = ["unittest", *options.paths]
        sys.path.insert(0, os.getcwd())  # as `python -m` does
        faulthandler.enable(aside(2))
        with warnings.catch_warnings():
            if not sys.warnoptions:
                warnings.simplefilter("default")  # as unittest's own runner does
            if request.mode == "collect":
                _collect(options, request.root, tell)
            else:
                _run(options, request, tell, begun, check)
        if os.getpid() != me:
            os._exit(1)  # a child of the project's code that went on as if it were this
        tell({"kind": "end", "code": 0})
        leave()

    return run, _compile


def _compile(name: str, source: bytes) -> CodeType:
    return compile(source, name, "exec", dont_inherit=True)


def _collect(options: argparse.Namespace, root: str, tell: Write) -> None:
    finder = Finder(options, root)
    finder.find()
    for name, details in finder.failed:
        tell({"kind": "not_collected", "id": cut(name), "details": cut(details)})
    for name, reason in finder.skipped:
        tell({"kind": "skipped_file", "id": cut(name), "message": cut(reason)})
    tell(
        {
            "kind": "project",
            "framework": f"unittest of Python {platform.python_version()}",
            "root": root,
            "configuration": "",
            "deselected": finder.deselected,
        }
    )
    for start in range(0, len(finder.found), _AT_ONCE):
        some = finder.found[start : start + _AT_ONCE]
        tell(
            {
                "kind": "items",
                "ids": [cut(each.id) for each in some],
                "paths": [each.path for each in some],
                "lines": [str(each.line or "") for each in some],
            }
        )
    plain, _ = loaded_sources(root)
    tell({"kind": "sources", "plain": [cut(each) for each in plain], "rewritten": []})


def _run(
    options: argparse.Namespace, request: Request, tell: Write, begun: Callable[[], None], check: integrity.Check
) -> None:
    wanted = set(request.ids)
    options.patterns = []  # the ids say it all
    finder = Finder(options, request.root, request.arguments[-1].partition("::")[0])
    finder.find()
    if not wanted <= {each.id for each in finder.found}:
        if finder.failed:
            for name, details in finder.failed:
                tell({"kind": "not_collected", "id": cut(name), "details": cut(details)})
            return
        # A test can be found through another file than the one that it is named after.
        finder = Finder(options, request.root)
        finder.find()
    found = [each for each in finder.found if each.id in wanted]
    names = {id(each.test): each for each in found}
    ledger = Ledger(names, request.data_limit, tell, check, has_locals=options.locals)
    begun()
    ledger.run([each.test for each in found])
