"""Tells what pytest reports about each test, inside a sandbox. Floor: testrun.

A test can ask pytest for all of its plugins, can call every hook, and can change every object that it finds. So what
tells is in the closures of functions, where none of that leads; what a report says is noted when it is made; and that
is held against what was seen here of each phase: whether it ended with an exception. Where the two differ, and no hook
of the project's has a say in reports, somebody lied.
"""

from __future__ import annotations

import builtins
import os
import threading
import unittest
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, NoReturn

import pytest
from _pytest.unittest import TestCaseFunction

from ipybox.testrun import integrity
from ipybox.testrun.channel import Value, Write
from ipybox.testrun.in_sandbox import cut, flush, is_near
from ipybox.testrun.request import Request

globals()["__builtins__"] = dict(vars(builtins))  # see ipybox.testrun.channel

_DECIDING = (
    "pytest_pyfunc_call",
    "pytest_runtest_protocol",
    "pytest_runtest_setup",
    "pytest_runtest_call",
    "pytest_runtest_teardown",
    "pytest_runtest_makereport",
    "pytest_runtest_logreport",
)
_ONLY_ADD_TEXT = frozenset(("_hypothesis_pytestplugin",))
"""Plugins whose hooks around reports leave the outcome as it is."""
_SUCCESSES = ("passed", "skipped", "xfailed", "xpassed")
_SKIPS = (pytest.skip.Exception, unittest.SkipTest)
_METHODS = ("_callSetUp", "_callTestMethod", "_callTearDown")
_mro_of = type.__dict__["__mro__"].__get__
_exit, _getpid, _thread = os._exit, os.getpid, threading.get_ident


def plugin(**hooks: Callable[..., Any]) -> ModuleType:
    """A plugin with these hooks, and nothing else to be found."""
    made = ModuleType(f"pytest_private_line.{len(hooks)}")
    vars(made).update(hooks)
    return made


def common(tell: Write, configured: Callable[[], None]) -> dict[str, Callable[..., Any]]:
    """The hooks that finding tests and running them share.

    Args:
        tell: The private line.
        configured: Called when pytest has found its plugins.
    """

    @pytest.hookimpl(trylast=True)
    def pytest_sessionstart(session: pytest.Session) -> None:
        configured()

    @pytest.hookimpl(wrapper=True)
    def pytest_collectreport(report: pytest.CollectReport) -> Generator[None, None, None]:
        yield
        if report.failed:
            details = cut(report.longreprtext)
            tell({"kind": "not_collected", "id": cut(report.nodeid), "details": details, **_output(report)})
        elif report.skipped and not report.result:
            longrepr = report.longrepr
            reason = str(longrepr[2]) if isinstance(longrepr, tuple) else str(longrepr)
            tell({"kind": "skipped_file", "id": cut(report.nodeid), "message": cut(reason)})

    @pytest.hookimpl(wrapper=True)
    def pytest_sessionfinish(session: pytest.Session) -> Generator[None, None, None]:
        if any(_is_foreign(each.plugin) for each in session.config.hook.pytest_sessionfinish.get_hookimpls()):
            yield  # pytest's own only write files that are thrown away
        tell({"kind": "end", "code": int(session.exitstatus)})
        flush()
        _exit(0)  # and not on to summaries that nobody sees

    return {
        "pytest_sessionstart": pytest_sessionstart,
        "pytest_collectreport": pytest_collectreport,
        "pytest_sessionfinish": pytest_sessionfinish,
    }


def line_of(item: pytest.Item) -> int | None:
    """Line number of a test, from 1; None if unknown."""
    line = item.location[1]
    return None if line is None else line + 1


@dataclass(slots=True)
class _Found:
    """What a test was when it was found: until it begins, it is for nobody to change."""

    item: pytest.Item
    name: str
    kind: type
    function: object
    shadowed: frozenset[str]

    @classmethod
    def of(cls, item: pytest.Item) -> _Found:
        return cls(item, item.nodeid, type(item), vars(item).get("_obj"), _shadowed(item, type(item)))

    def is_as_it_was(self) -> bool:
        item = self.item
        return (
            type(item) is self.kind
            and item.nodeid == self.name
            and (self.function is None or vars(item).get("_obj") is self.function)
            and _shadowed(item, self.kind) == self.shadowed
        )


@dataclass(slots=True)
class _Told:
    """What a report said when it was made."""

    when: str
    outcome: str
    expected: str | None
    message: str
    details: str
    duration: float
    output: dict[str, Value]

    @property
    def verdict(self) -> str:
        """The outcome of a test whose decisive report this is."""
        match self.outcome:
            case "failed":
                return "failed" if self.when == "call" else "error"
            case "skipped":
                return "skipped" if self.expected is None else "xfailed"
        return "passed" if self.expected is None else "xpassed"


@dataclass(slots=True)
class _Test:
    """What is known about the test that runs.

    Attributes:
        item: It.
        kind: Its class.
        is_judged: Whether hooks of the project have a say in its reports.
        may_be_made_otherwise: Whether they may even come before pytest's own.
        may_repeat: Whether somebody may run it more than once.
        hooks: What decided about it when it began.
        shadowed: Methods in whose place the item itself had something else when it began.
        seen: How each phase ended.
        made: The reports that pytest made.
        told: What those said.
        worse: Reports of failures that somebody else put in, such as those of parts of a test.
        depth: How many phases run right now.
    """

    item: pytest.Item
    kind: type
    is_judged: bool
    may_be_made_otherwise: bool
    may_repeat: bool
    hooks: list[object]
    shadowed: frozenset[str]
    seen: dict[str, str] = field(default_factory=dict)
    made: list[pytest.TestReport] = field(default_factory=list)
    told: list[_Told] = field(default_factory=list)
    worse: list[_Told] = field(default_factory=list)
    depth: int = 0
    no_memory: bool = False
    broken: str | None = None
    lie: str | None = None


def reporter(
    request: Request,
    tell: Write,
    configured: Callable[[], None],
    begun: Callable[[], None],
    check: integrity.Check,
) -> list[ModuleType]:
    """The plugins that run the tests that were asked for, and tell what became of each.

    Args:
        request: Which they are.
        tell: The private line.
        configured: Called when pytest has found its plugins.
        begun: Called before the first test.
        check: Names what was replaced.
    """
    wanted, limit = frozenset(request.ids), request.data_limit
    pid, main = _getpid(), _thread()
    test: _Test | None = None
    found: dict[int, _Found] = {}
    hooks: list[object] = []

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_collection_modifyitems(items: list[pytest.Item]) -> Generator[None, None, None]:
        yield
        items[:] = [item for item in items if item.nodeid in wanted]

    @pytest.hookimpl(trylast=True)
    def pytest_collection_finish(session: pytest.Session) -> None:
        if not found:
            found.update((id(item), _Found.of(item)) for item in session.items)

    def leave() -> NoReturn:
        """The tests that are left get a sandbox in which all is as it was."""
        tell({"kind": "leave"})
        flush()
        _exit(0)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
        nonlocal test
        if test is not None or _getpid() != pid:
            return (yield)  # a test calls the hook for itself
        before = found.get(id(item))
        # What the one before had changed was seen in its end.
        if hooks and (before is None or not before.is_as_it_was() or not _are_same(hooks, _hooks(item))):
            leave()
        if not hooks:
            begun()
            hooks[:] = _hooks(item)
        now = test = _begin(item, hooks)
        name, line = item.nodeid, line_of(item)
        tell({"kind": "start", "id": cut(name)})
        ended: BaseException | None = None
        try:
            return (yield)
        except BaseException as error:
            ended = error
            raise
        finally:
            if _getpid() != pid:
                _exit(1)  # a child of the test that went on as if it were the test
            look(now)
            test = None
            tell({"kind": "result", "id": cut(name), "line": line, **_result(now, ended)})
            if now.broken is not None or ended is not None:
                leave()

    def look(now: _Test) -> None:
        if now.broken is None:
            now.broken = check() or _changed(now)

    def phase(when: str) -> Callable[..., Any]:
        @pytest.hookimpl(wrapper=True, tryfirst=True)
        def hook(item: pytest.Item) -> Generator[None, object, object]:
            __tracebackhide__ = True
            now = test
            if now is None or item is not now.item or now.depth or _thread() != main:
                return (yield)
            if when == "setup":
                if now.seen and not now.may_repeat:
                    now.broken = now.broken or "the order of its phases"
                now.lie = None
                now.seen.clear()
                now.worse.clear()
            now.seen[when] = "unfinished"
            now.depth += 1
            if when == "call":
                _follow(now)
            try:
                value = yield
            except BaseException as error:
                now.seen[when] = "skipped" if _is_one(error, _SKIPS) else "raised"
                raise
            else:
                if now.seen[when] == "unfinished":
                    now.seen[when] = "passed"
                return value
            finally:
                now.depth -= 1
                look(now)

        return hook

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        now = test
        if now is None or item is not now.item or now.depth or _thread() != main:
            return (yield)
        if call.excinfo is not None and call.excinfo.errisinstance(MemoryError):
            now.no_memory = now.no_memory or is_near(limit)
        report = yield
        if call.excinfo is not None or now.may_be_made_otherwise:  # else nothing of the project has run since the phase
            look(now)
        now.made.append(report)
        return report

    @pytest.hookimpl(wrapper=True, trylast=True)
    def made_by_pytest(
        item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Sees a report before hooks of the project have their say."""
        report = yield
        now = test
        if now is None or item is not now.item or now.depth or _thread() != main or now.may_be_made_otherwise:
            return report
        if now.seen.get(cut(str(report.when))) == "raised" and report.outcome != "failed":
            now.lie = now.lie or _lied(str(report.when), str(report.outcome), "raised")
        return report

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(report: pytest.TestReport) -> None:
        now = test
        if now is None or _getpid() != pid:
            return
        told = _note(report)
        is_ours = now.is_judged or any(each is report for each in now.made)
        if now.depth or _thread() != main or not is_ours or type(report).__name__ != "TestReport":
            if told.outcome == "failed":
                now.worse.append(told)
            return
        if told.when == "setup" and now.told and now.may_repeat:
            now.told.clear()
        now.told.append(told)

    return [
        plugin(pytest_runtest_makereport=made_by_pytest),
        plugin(
            **common(tell, configured),
            pytest_collection_modifyitems=pytest_collection_modifyitems,
            pytest_collection_finish=pytest_collection_finish,
            pytest_runtest_protocol=pytest_runtest_protocol,
            pytest_runtest_setup=phase("setup"),
            pytest_runtest_call=phase("call"),
            pytest_runtest_teardown=phase("teardown"),
            pytest_runtest_makereport=pytest_runtest_makereport,
            pytest_runtest_logreport=pytest_runtest_logreport,
        ),
    ]


# ---- what decides about a test ----------------------------------------------------------------------------------


def _begin(item: pytest.Item, hooks: list[object]) -> _Test:
    hook = item.config.hook
    protocols = [each for each in hook.pytest_runtest_protocol.get_hookimpls() if not each.hookwrapper]
    judges = [*hook.pytest_runtest_makereport.get_hookimpls(), *hook.pytest_runtest_logreport.get_hookimpls()]
    return _Test(
        item=item,
        kind=type(item),
        is_judged=any(_is_foreign(each.plugin) for each in judges),
        may_be_made_otherwise=any(
            _is_foreign(each.plugin) and (each.trylast or not (each.wrapper or each.hookwrapper))
            for each in hook.pytest_runtest_makereport.get_hookimpls()
        ),
        may_repeat=len([each for each in protocols if not each.wrapper]) > 1,
        hooks=hooks,
        shadowed=_shadowed(item, type(item)),
    )


def _is_foreign(found: object) -> bool:
    """Whether a plugin is not pytest's own, nor ours."""
    name = found.__name__ if isinstance(found, ModuleType) else type(found).__module__
    return name.partition(".")[0] not in ("_pytest", "pytest_private_line") and name not in _ONLY_ADD_TEXT


def _hooks(item: pytest.Item) -> list[object]:
    """Everything that is called when it is decided about a test."""
    manager, hook = item.config.pluginmanager, item.config.hook
    found: list[object] = [item.config, manager, hook, manager._inner_hookexec]
    for name in _DECIDING:
        caller = getattr(hook, name)
        found += [caller, caller._hookexec]
        for each in caller.get_hookimpls():
            found += [each.function, getattr(each.function, "__code__", None)]
    return found


def _are_same(some: list[object], others: list[object]) -> bool:
    return len(some) == len(others) and all(one is other for one, other in zip(some, others, strict=True))


def _changed(now: _Test) -> str | None:
    """What decides about this one test and was replaced, in words."""
    try:
        hooks = _hooks(now.item)
    except Exception as error:
        return f"a hook of pytest ({type(error).__name__})"
    if not _are_same(hooks, now.hooks):
        return "a hook of pytest"
    if type(now.item) is not now.kind:
        return now.kind.__name__
    for name in _shadowed(now.item, now.kind) - now.shadowed:
        return f"{now.kind.__name__}.{name}"
    if isinstance(now.item, TestCaseFunction) and type(now.item._excinfo) not in (type(None), list):
        return f"{now.kind.__name__}._excinfo"
    return None


def _shadowed(item: pytest.Item, kind: type) -> frozenset[str]:
    own, bases = vars(item), _mro_of(kind)[:-1]
    return frozenset(name for name in own for base in bases if callable(vars(base).get(name)))


def _follow(now: _Test) -> None:
    """Notes what a unittest's method raises, which otherwise only an object says that the test can reach."""
    instance = getattr(now.item, "instance", None) if isinstance(now.item, TestCaseFunction) else None
    if not isinstance(instance, unittest.TestCase):
        return
    for name in _METHODS:
        call = getattr(instance, name, None)
        if call is not None:
            setattr(instance, name, _followed(call, now))


def _followed(call: Callable[..., object], now: _Test) -> Callable[..., object]:
    def followed(*arguments: object) -> object:
        __tracebackhide__ = True
        try:
            return call(*arguments)
        except BaseException as error:
            now.seen["call"] = "skipped" if _is_one(error, _SKIPS) else "raised"
            raise

    return followed


def _is_one(error: BaseException, kinds: Iterable[type]) -> bool:
    """Whether an exception is of one of these kinds, whatever it says itself."""
    mro = _mro_of(type(error))
    return any(kind is each for kind in kinds for each in mro)


# ---- what is told -----------------------------------------------------------------------------------------------


def _note(report: pytest.TestReport) -> _Told:
    outcome = cut(str(report.outcome))
    expected = report.wasxfail if hasattr(report, "wasxfail") else None
    return _Told(
        when=cut(str(report.when)),
        outcome=outcome if outcome in ("passed", "failed", "skipped") else "failed",
        expected=None if expected is None else cut(str(expected)).removeprefix("reason: "),
        message=cut(_message(report)) if outcome != "passed" else "",
        details=cut(report.longreprtext) if outcome not in ("passed", "skipped") else "",
        duration=float(report.duration),
        output=_output(report),
    )


def _message(report: pytest.TestReport) -> str:
    longrepr: Any = report.longrepr
    if report.skipped:
        return cut(str(longrepr[2]) if isinstance(longrepr, tuple) else str(longrepr)).removeprefix("Skipped: ")
    crash = getattr(longrepr, "reprcrash", None)
    text = cut(str(crash.message)) if crash is not None else cut(report.longreprtext)
    lines = [line for line in text.splitlines() if line.strip()]
    return next((line.removeprefix("E ").strip() for line in lines if line.startswith("E ")), next(iter(lines), ""))


def _output(report: pytest.TestReport | pytest.CollectReport) -> dict[str, Value]:
    return {
        "stdout": cut(report.capstdout),
        "stderr": cut("\n".join(filter(None, (report.capstderr, report.caplog)))),
    }


def _result(now: _Test, ended: BaseException | None) -> Mapping[str, Value]:
    if now.broken is not None:
        return _error(f"{now.broken} was replaced, which decides about the outcome: nothing is known about the test")
    if ended is not None:
        return _error(cut(f"it ended the session with {_shown(ended)}"))
    decisive = _decisive(now)
    if decisive is None:
        return _error("pytest made no report about it")
    lie = now.lie or (None if now.is_judged else _lie(now))
    if lie is not None:
        return _error(lie)
    outcome = decisive.verdict
    if now.no_memory and outcome in ("failed", "error"):
        outcome = "out_of_memory"
    result: dict[str, Value] = {
        "outcome": outcome,
        "phase": "" if outcome in _SUCCESSES else decisive.when,
        "message": decisive.message if decisive.expected is None else decisive.expected,
        "duration": sum(told.duration for told in now.told),
    }
    if outcome not in ("passed", "skipped", "xfailed"):
        result["details"] = cut("\n".join(filter(None, (told.details for told in (*now.worse, *now.told)))))
        result |= now.told[-1].output
    return result


def _error(message: str) -> dict[str, Value]:
    return {"outcome": "error", "phase": "call", "message": message}


def _decisive(now: _Test) -> _Told | None:
    """What says what became of a test: the first failure, else what was said of the test itself."""
    told = now.told
    if not told or told[-1].when != "teardown":
        return None  # it did not come to its end
    for each in (*now.worse, *told):
        if each.outcome == "failed":
            return each
    for each in told:
        if each.when == "call":
            return each
    return told[0] if told[0].outcome == "skipped" else None


def _lie(now: _Test) -> str | None:
    """Where reports say something else than what was seen, in words."""
    is_unittest = isinstance(now.item, TestCaseFunction)
    for told in now.told:
        seen = now.seen.get(told.when)
        if told.outcome == "failed" or (told.outcome == seen and told.expected is None):
            continue
        if told.expected is not None and (told.outcome == "skipped" or seen == "passed"):
            continue
        if told.outcome == "skipped" and seen == "passed" and is_unittest:
            continue  # it does not raise that
        return _lied(told.when, told.outcome, seen)
    return None


def _lied(when: str, told: str, seen: str | None) -> str:
    return cut(f"its {when} was reported as {told} and was seen as {seen}: nothing is known about the test")


def _shown(error: BaseException) -> str:
    name = type.__dict__["__name__"].__get__(type(error))
    try:
        return f"{name}: {error}"
    except BaseException:
        return str(name)
