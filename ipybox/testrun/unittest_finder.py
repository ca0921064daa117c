"""Finds tests inside a sandbox as ``python -m unittest`` does, and names them after their files. Floor: testrun."""

from __future__ import annotations

import argparse
import builtins
import importlib
import inspect
import os
import sys
import unittest
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from ipybox.testrun.in_sandbox import traceback_of

globals()["__builtins__"] = dict(vars(builtins))  # see ipybox.testrun.channel


def options() -> argparse.ArgumentParser:
    """Those of ``python -m unittest``; some mean nothing here."""
    parser = argparse.ArgumentParser(prog="unittest", add_help=False, allow_abbrev=False)
    for flags in (("-b", "--buffer"), ("-c", "--catch"), ("-f", "--failfast"), ("-q", "--quiet"), ("-v", "--verbose")):
        parser.add_argument(*flags, action="count")
    parser.add_argument("--locals", action="store_true")
    parser.add_argument("-k", action="append", default=[], dest="patterns")
    parser.add_argument("-s", "--start-directory", default=".", dest="start")
    parser.add_argument("-p", "--pattern", default="test*.py")
    parser.add_argument("-t", "--top-level-directory", default=None, dest="top")
    parser.add_argument("paths", nargs="*")
    return parser


@dataclass(frozen=True, slots=True)
class Found:
    """A test that was found: what it is called, where it is, and itself."""

    id: str
    path: str
    line: int | None
    test: Any


class Finder:
    """Finds tests.

    Args:
        options: The command line.
        root: What names are relative to.
        only: The file that is looked at; empty for all.
    """

    def __init__(self, options: argparse.Namespace, root: str, only: str = "") -> None:
        self._root = root
        self.found: list[Found] = []
        self.skipped: list[tuple[str, str]] = []
        self.failed: list[tuple[str, str]] = []
        self.deselected = 0
        self._options, self._only = options, os.path.realpath(only) if only else ""
        self._seen: Counter[str] = Counter()

    def find(self) -> None:
        """Looks in all places."""
        for path in self._options.paths or [self._options.start]:
            place, _, inside = path.partition("::")
            before = len(self.found)
            loader = _Loader(self._only, self._options.patterns)
            try:
                tests = self._load(loader, place)
            except unittest.SkipTest as error:
                self.skipped.append((self._relative(os.path.abspath(place)), str(error)))
            except BaseException as error:
                self.failed.append((self._relative(os.path.abspath(place)), traceback_of(error)))
            else:
                for test in _flat(tests):
                    self._add(test, loader.origins.get(id(test), (test, ""))[1])
            self.deselected += loader.deselected
            if inside:
                kept = [each for each in self.found[before:] if _is_inside(each.id.partition("::")[2], inside)]
                self.deselected += len(self.found) - before - len(kept)
                self.found[before:] = kept

    def _load(self, loader: _Loader, place: str) -> Iterable[Any]:
        absolute = os.path.abspath(place)
        if os.path.isdir(absolute):
            if self._only and not f"{self._only}/".startswith(f"{os.path.realpath(absolute)}/"):
                return ()
            return loader.discover(absolute, self._options.pattern, self._options.top)
        if place.endswith(".py") or os.path.isfile(absolute):
            if self._only and self._only != os.path.realpath(absolute):
                return ()
            if not os.path.isfile(absolute):
                raise FileNotFoundError(f"there is no file {place}")
            return loader.loadTestsFromModule(importlib.import_module(_dotted(absolute)))
        return loader.loadTestsFromName(place)

    def _add(self, test: Any, origin: str) -> None:
        kind = type(test)
        if kind.__module__ == "unittest.loader" and kind.__name__ == "_FailedTest":
            name = self._relative(origin) if origin else str(test._testMethodName)
            said = str(test._exception)
            return self.failed.append((name, said if "Traceback" in said else traceback_of(test._exception)))
        if kind.__module__ == "unittest.loader" and kind.__name__ == "ModuleSkipped":
            why = getattr(getattr(test, test._testMethodName), "__unittest_skip_why__", "")
            return self.skipped.append((self._relative(origin or test._testMethodName), str(why)))
        origin = origin or _file_of(sys.modules.get(kind.__module__))
        name = f"{self._relative(origin)}::{_name(test)}"
        self._seen[name] += 1
        if self._seen[name] > 1:
            name += f"[{self._seen[name]}]"
        self.found.append(Found(name, origin, _line(test), test))

    def _relative(self, path: str) -> str:
        return os.path.relpath(path, self._root) if os.path.isabs(path) else path


class _Loader(unittest.TestLoader):
    """Unittest's own, which notes what each test was found through.

    Args:
        only: The file that is looked at; empty for all.
        patterns: Those of ``-k``.
    """

    def __init__(self, only: str, patterns: Sequence[str]) -> None:
        super().__init__()
        self.origins: dict[int, tuple[Any, str]] = {}
        self.deselected = 0
        self._only = only
        if patterns:
            self.testNamePatterns = [each if "*" in each else f"*{each}*" for each in patterns]

    def loadTestsFromModule(self, module: ModuleType, *args: Any, **facts: Any) -> unittest.TestSuite:
        tests = super().loadTestsFromModule(module, *args, **facts)
        self._note(tests, _file_of(module))
        return tests

    def getTestCaseNames(self, testCaseClass: type[unittest.TestCase]) -> Sequence[str]:
        names = super().getTestCaseNames(testCaseClass)
        if self.testNamePatterns:
            patterns, self.testNamePatterns = self.testNamePatterns, None
            self.deselected += len(super().getTestCaseNames(testCaseClass)) - len(names)
            self.testNamePatterns = patterns
        return names

    def _find_test_path(self, full_path: str, *args: Any, **facts: Any) -> tuple[Any, bool]:
        """Called by unittest with each file and each directory."""
        real = os.path.realpath(full_path)
        if self._only and self._only != real and not self._only.startswith(f"{real}/"):
            return None, False
        tests, is_deeper = super()._find_test_path(full_path, *args, **facts)  # type: ignore[misc]
        if tests is not None:
            self._note(tests, os.path.join(full_path, "__init__.py") if os.path.isdir(full_path) else full_path)
        return tests, is_deeper

    def _note(self, tests: Any, path: str) -> None:
        for test in _flat(tests):
            self.origins.setdefault(id(test), (test, path))


def _flat(tests: Any) -> Iterator[Any]:
    """The tests in suites of suites."""
    for each in tests:
        try:
            iter(each)
        except TypeError:
            yield each
        else:
            yield from _flat(each)


def _dotted(path: str) -> str:
    """The name to import a file by: seen from here, as unittest does, or from around the package that it is in."""
    top = os.getcwd()
    if not path.startswith(f"{top}/"):
        top = os.path.dirname(path)
        while os.path.isfile(os.path.join(top, "__init__.py")):
            top = os.path.dirname(top)
        if top not in sys.path:
            sys.path.insert(0, top)
    return os.path.relpath(path, top).removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def _file_of(module: ModuleType | None) -> str:
    path = getattr(module, "__file__", None)
    return os.path.abspath(path) if isinstance(path, str) else getattr(module, "__name__", "")


def _name(test: Any) -> str:
    kind = type(test)
    own = str(test.id()) if hasattr(test, "id") else str(test)
    plain = f"{kind.__module__}.{kind.__qualname__}.{getattr(test, '_testMethodName', '')}"
    if not own.startswith(plain):
        return own  # a doctest, or a function
    name = f"{kind.__qualname__.replace('.', '::')}::{test._testMethodName}"
    more = own.removeprefix(plain).strip("()[] ")
    return f"{name}[{more}]" if more else name


def _line(test: Any) -> int | None:
    method = getattr(type(test), getattr(test, "_testMethodName", ""), None)
    code = getattr(inspect.unwrap(method), "__code__", None) if callable(method) else None
    return getattr(code, "co_firstlineno", None)


def _is_inside(name: str, part: str) -> bool:
    return name == part or name.startswith((f"{part}::", f"{part}["))
