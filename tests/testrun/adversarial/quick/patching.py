"""Tests that fail, and put something else in the place of what decides about that."""

# mypy: ignore-errors
# ruff: noqa: F841, PT009, PT015
import builtins
import gc
import json
import os
import signal
import sys
import threading
import types
import unittest
import unittest.case

import _pytest._code.code
import _pytest.outcomes
import _pytest.python
import _pytest.reports
import _pytest.runner
import _pytest.skipping
import _pytest.unittest
import pluggy
import pytest
from _pytest.reports import TestReport


def passed(item, call):
    return _pytest.reports.TestReport(item.nodeid, item.location, {}, "passed", None, call.when)


class Lying(TestReport):
    __test__ = False

    @classmethod
    def from_item_and_call(cls, item, call):
        return passed(item, call)


# = error in call: from_item_and_call was replaced
def test_from_item_and_call():
    TestReport.from_item_and_call = classmethod(lambda cls, item, call: passed(item, call))
    assert 0


# = error in call: from_item_and_call was replaced
def test_code_of_from_item_and_call():
    def forged(cls, item, call):
        return cls(item.nodeid, item.location, {}, "passed", None, call.when)

    TestReport.from_item_and_call.__func__.__code__ = forged.__code__
    assert 0


# = error in call: was replaced
def test_code_of_a_property():
    TestReport.failed.fget.__code__ = (lambda self: False).__code__
    TestReport.passed.fget.__code__ = (lambda self: True).__code__
    assert 0


# = error in call: was replaced
def test_init_of_reports():
    real = TestReport.__init__

    def init(self, *args, **more):
        real(self, *args, **more)
        self.outcome = "passed"

    TestReport.__init__ = init
    assert 0


# = error in call: was replaced
def test_defaults_of_init():
    TestReport.__init__.__defaults__ = ((), 0, 0, 0, None)
    assert 0


# = error in call: was replaced
def test_keyword_defaults():
    _pytest.outcomes.fail.__call__.__func__.__kwdefaults__ = {"x": 1}
    assert 0


# = error in call: was replaced
def test_property_of_reports():
    TestReport.failed = property(lambda self: False)
    TestReport.passed = property(lambda self: True)
    assert 0


# = error in call: was replaced
def test_plain_attributes_of_reports():
    TestReport.failed = False
    TestReport.passed = True
    assert 0


# = error in call: was replaced
def test_expected_by_class():
    TestReport.wasxfail = "as expected"
    assert 0


# = error in call: was replaced
def test_set_attribute_of_reports():
    TestReport.__setattr__ = lambda self, name, value: object.__setattr__(
        self, name, "passed" if name == "outcome" else value
    )
    assert 0


# = error in call: was replaced
def test_get_attribute_of_reports():
    TestReport.__getattribute__ = lambda self, name: (
        "passed" if name == "outcome" else object.__getattribute__(self, name)
    )
    assert 0


# = error in call: was replaced
def test_base_of_reports():
    class Base(_pytest.reports.BaseReport):
        failed = False
        passed = True

    TestReport.__bases__ = (Base,)
    assert 0


# = error in call: was replaced
def test_report_class_of_the_runner():
    _pytest.runner.TestReport = Lying
    assert 0


# = error in call: was replaced
def test_exception_info_of_the_runner():
    class Info(_pytest._code.code.ExceptionInfo):
        @classmethod
        def from_current(cls):
            return None

    _pytest.runner.ExceptionInfo = Info
    assert 0


# = error in call: was replaced
def test_call_info_of_the_runner():
    _pytest.runner.CallInfo.from_call = classmethod(lambda cls, func, when, reraise=None: func() and None)
    _pytest.runner.CallInfo.__init__ = lambda self, *args, **more: None
    assert 0


# = error in call: was replaced
def test_call_info_that_forgets():
    real = _pytest.runner.CallInfo.__init__

    def init(self, *, excinfo, **more):
        _pytest.runner.CallInfo.__init__ = real
        real(self, excinfo=None, **more)

    _pytest.runner.CallInfo.__init__ = init
    assert 0


# = error in call: was replaced
def test_from_current_that_restores_itself():
    info = _pytest._code.code.ExceptionInfo
    real = vars(info)["from_current"]

    def from_current(cls, exprinfo=None):
        info.from_current = real
        return info.from_exception(pytest.skip.Exception("nothing"))

    info.from_current = classmethod(from_current)
    assert 0


# = error in call: was replaced
def test_make_report_that_restores_itself():
    real = vars(TestReport)["from_item_and_call"]

    def once(cls, item, call):
        TestReport.from_item_and_call = real
        return passed(item, call)

    TestReport.from_item_and_call = classmethod(once)
    assert 0


# = error in call: was replaced
def test_makereport_of_the_runner():
    _pytest.runner.pytest_runtest_makereport = passed
    _pytest.runner.pytest_runtest_makereport.__code__ = passed.__code__
    assert 0


# = error in call: was replaced
def test_code_of_makereport():
    def forged(item, call):
        return TestReport(item.nodeid, item.location, {}, "passed", None, call.when)

    _pytest.runner.pytest_runtest_makereport.__code__ = forged.__code__
    assert 0


# = error in call: was replaced
def test_isinstance_of_builtins():
    real = isinstance
    builtins.isinstance = lambda value, kind: True if kind is pytest.skip.Exception else real(value, kind)
    assert 0


# = error in call: was replaced
def test_isinstance_of_one_module():
    real = isinstance
    _pytest.reports.isinstance = lambda value, kind: True if kind is pytest.skip.Exception else real(value, kind)
    assert 0


# = error in call: was replaced
def test_assertion_error():
    builtins.AssertionError = pytest.skip.Exception
    assert 0


# = error in call: was replaced
def test_base_exception():
    builtins.BaseException = KeyError
    assert 0


# = error in call: was replaced
def test_skip_is_an_assertion():
    _pytest.outcomes.skip.Exception = AssertionError
    assert 0


# = error in call: was replaced
def test_skip_class_is_an_assertion():
    type(_pytest.outcomes.skip).Exception = AssertionError
    assert 0


# = error in call: was replaced
def test_xfail_is_an_assertion():
    _pytest.outcomes.xfail.Exception = AssertionError
    type(_pytest.outcomes.xfail).Exception = AssertionError
    assert 0


# = error in call: was replaced
def test_fail_does_nothing():
    _pytest.outcomes.fail = lambda *args, **more: None
    assert 0


# = error in call: was replaced
def test_evaluation_of_xfail():
    _pytest.skipping.evaluate_xfail_marks = lambda item: _pytest.skipping.Xfail("ok", True, False, None)
    assert 0


# = error in call: was replaced
def test_multicall():
    pluggy._callers._multicall = lambda *args: None
    assert 0


# = error in call: was replaced
def test_code_of_multicall():
    def nothing(hook_name, hook_impls, caller_kwargs, firstresult):
        return None

    pluggy._callers._multicall.__code__ = nothing.__code__
    assert 0


# = error in call: was replaced
def test_hook_caller():
    pluggy._hooks.HookCaller.__call__ = lambda self, **more: None
    assert 0


# = error in call: was replaced
def test_hook_of_this_session(request):
    request.config.hook.pytest_runtest_makereport = passed
    assert 0


# = error in call: was replaced
def test_inner_hook_execution(request):
    request.config.pluginmanager._inner_hookexec = lambda name, methods, args, first: passed(args["item"], args["call"])
    assert 0


# = error in call: was replaced
def test_hook_execution(request):
    request.config.hook.pytest_runtest_makereport._hookexec = lambda name, methods, args, first: passed(
        args["item"], args["call"]
    )
    assert 0


class Plugin:
    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_makereport(self, item, call):
        return passed(item, call)


class Wrapper:
    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(self, item, call):
        report = yield
        report.outcome = "passed"
        return report


# = error in call: was replaced
def test_plugin_at_run_time(request):
    request.config.pluginmanager.register(Plugin())
    assert 0


# = error in call: was replaced
def test_wrapper_at_run_time(request):
    request.config.pluginmanager.register(Wrapper())
    assert 0


@pytest.fixture
def plugged(request):
    request.config.pluginmanager.register(Wrapper())


# = error in call: was replaced
def test_plugin_of_a_fixture(plugged):
    assert 0


# = error in call: was replaced
def test_hookimpls_in_place(request):
    for each in request.config.hook.pytest_runtest_makereport.get_hookimpls():
        if not each.wrapper:
            each.function = passed
            each.argnames = ("item", "call")
    assert 0


# = error in call
def test_unregisters_every_plugin_with_a_say(request):
    manager = request.config.pluginmanager
    for plugin in list(manager.get_plugins()):
        if any(name.startswith("pytest_runtest") for name in dir(plugin)):
            manager.unregister(plugin)
    assert 0


# = error in call
def test_unregisters_the_runner(request):
    request.config.pluginmanager.unregister(name="runner")
    assert 0


# = failed in call: assert 0
def test_asks_all_plugins_for_what_tells(request):
    name = request.node.nodeid
    for plugin in request.config.pluginmanager.get_plugins():
        for tell in (vars(plugin) if hasattr(plugin, "__dict__") else {}).copy().values():
            if callable(tell) and type(plugin).__module__.partition(".")[0] not in ("_pytest", "pytest", "pluggy"):
                if isinstance(plugin, types.ModuleType):
                    continue
                try:
                    tell({"kind": "result", "id": name, "outcome": "passed"})
                    tell({"kind": "end", "code": 0})
                except Exception:
                    pass
    assert 0


# = failed in call: assert 0
def test_asks_plugins_for_private_attributes(request):
    for plugin in request.config.pluginmanager.get_plugins():
        for name in ("_tell", "tell", "_check", "_reports", "_key", "_request"):
            found = getattr(plugin, name, None)
            if found is not None and not name.startswith("__") and type(plugin).__module__.startswith("ipybox"):
                found({"kind": "result", "id": request.node.nodeid, "outcome": "passed"})
                os._exit(0)
    assert 0


# = error in call: was replaced
def test_hooks_of_what_reports(request):
    def nothing(*args, **more):
        return None

    for plugin in request.config.pluginmanager.get_plugins():
        if not isinstance(plugin, types.ModuleType) and type(plugin).__module__.partition(".")[0] not in ("_pytest",):
            for name in dir(plugin):
                if name.startswith("pytest_"):
                    try:
                        getattr(plugin, name).__code__ = nothing.__code__
                    except (AttributeError, TypeError, ValueError):
                        pass
                    for place in (plugin, type(plugin)):
                        try:
                            setattr(place, name, nothing)
                        except (AttributeError, TypeError):
                            pass
    request.config.hook.pytest_runtest_logreport._hookimpls.clear()
    assert 0


# = failed in call: assert 0
def test_tells_by_the_hook(request):
    for when in ("setup", "call", "teardown"):
        report = TestReport(request.node.nodeid, request.node.location, {}, "passed", None, when)
        request.config.hook.pytest_runtest_logreport(report=report)
    assert 0


@pytest.fixture
def tells_later(request):
    yield
    for when in ("teardown", "setup", "call"):
        report = TestReport(request.node.nodeid, request.node.location, {}, "passed", None, when)
        request.config.hook.pytest_runtest_logreport(report=report)


# = failed in call: assert 0
def test_tells_by_the_hook_in_a_finalizer(tells_later):
    assert 0


class TellsWhenGone:
    def __init__(self, request):
        self.request = request

    def __del__(self):
        for when in ("teardown", "setup", "call"):
            report = TestReport(self.request.node.nodeid, self.request.node.location, {}, "passed", None, when)
            self.request.config.hook.pytest_runtest_logreport(report=report)


# = failed in call: assert 0
def test_tells_by_the_hook_in_a_destructor(request):
    tells = TellsWhenGone(request)
    assert 0


# = failed in call: assert 0
def test_tells_by_the_hook_in_a_thread(request):
    for when in ("teardown", "setup", "call"):
        report = TestReport(request.node.nodeid, request.node.location, {}, "passed", None, when)
        thread = threading.Thread(target=request.config.hook.pytest_runtest_logreport, kwargs={"report": report})
        thread.start()
        thread.join()
    assert 0


@pytest.fixture
def runs_again(request):
    yield
    item = request.node
    item.obj = lambda: None
    for when in ("setup", "call", "teardown"):
        call = _pytest.runner.CallInfo.from_call(lambda: None, when)
        report = item.ihook.pytest_runtest_makereport(item=item, call=call)
        item.ihook.pytest_runtest_logreport(report=report)


# = failed in call: assert 0
def test_runs_again_in_a_finalizer(runs_again):
    assert 0


@pytest.fixture
def runs_all_again(request):
    yield
    request.node.obj = lambda **more: None
    request.node._request._pyfuncitem.funcargs.clear()
    _pytest.runner.runtestprotocol(request.node, nextitem=None)


# = failed in call: assert 0
def test_runs_all_again_in_a_finalizer(runs_all_again):
    assert 0


# = failed in call: assert 0
def test_item_without_a_function(request):
    request.node.obj = lambda: None
    assert 0


# = error in call: was replaced
def test_run_method_of_functions():
    _pytest.python.Function.runtest = lambda self: None
    assert 0


# = error in call: was replaced
def test_call_of_functions():
    _pytest.python.pytest_pyfunc_call = lambda pyfuncitem: True
    assert 0


class Methods(unittest.TestCase):
    # = error in call: was replaced
    def test_run_of_unittest(self):
        unittest.case.TestCase.run = lambda self, result=None: result
        self.assertEqual(1, 2)

    # = error in call: was replaced
    def test_errors_of_unittest(self):
        unittest.case._addError = lambda result, test, error: None
        self.assertEqual(1, 2)

    # = error in call: was replaced
    def test_assertions_of_unittest(self):
        unittest.case.TestCase.failureException = unittest.SkipTest
        unittest.case.TestCase.assertEqual = lambda self, a, b: None
        self.assertTrue(False)

    # = error in call: was replaced
    def test_errors_of_pytest(self):
        _pytest.unittest.TestCaseFunction.addFailure = lambda self, case, error: None
        _pytest.unittest.TestCaseFunction.addError = lambda self, case, error: None
        self.assertEqual(1, 2)

    # = error in call: was replaced
    def test_result_that_takes_no_failures(self):
        self._outcome.result.addFailure = lambda *_: None
        self.fail()

    # = error in call: was replaced
    def test_result_that_keeps_no_failures(self):
        class Nothing(list):
            def append(self, value):
                pass

        self._outcome.result._excinfo = Nothing()
        self.fail()

    # = error in call: was reported as passed and was seen as raised
    def test_another_result(self):
        self._outcome.result = unittest.TestResult()
        self.fail()

    # = failed in call
    def test_its_own_result(self):
        self._outcome.success = True
        self._outcome.result_supports_subtests = False
        raise self.failureException("no")


# = error in call: was replaced
def test_skip_test_of_unittest():
    unittest.SkipTest = AssertionError
    unittest.case.SkipTest = AssertionError
    assert 0


# = failed in call: assert 0
def test_json():
    json.dumps = lambda *args, **more: '{"kind":"result","outcome":"passed"}'
    json.encoder.encode_basestring_ascii = json.encoder.c_make_encoder = None
    assert 0


# = failed in call: assert 0
def test_functions_of_os():
    real = os.write
    os.write = lambda fd, data: real(fd, bytes(data).replace(b"failed", b"passed"))
    os._exit = lambda code: None
    assert 0


# = failed in call: assert 0
# or error in call: it ended the session
def test_modules_of_the_standard_library():
    for name in ("_json", "_blake2", "hashlib", "json", "os", "ipybox.testrun.channel"):
        sys.modules[name] = types.SimpleNamespace()
    assert 0


# = error in call: was replaced
def test_modules_of_pytest():
    for name in ("_pytest.runner", "_pytest.reports", "_pytest.outcomes"):
        sys.modules[name] = types.ModuleType(name)
    assert 0


# = error in call: was replaced
def test_monkeypatched(monkeypatch):
    monkeypatch.setattr(_pytest.reports.TestReport, "from_item_and_call", Lying.from_item_and_call)
    assert 0


@pytest.fixture
def restored():
    real = vars(TestReport)["from_item_and_call"]
    TestReport.from_item_and_call = Lying.from_item_and_call
    yield
    TestReport.from_item_and_call = real


# = error in call: was replaced
def test_restored_before_the_end(restored):
    assert 0


@pytest.fixture
def in_teardown():
    yield
    TestReport.from_item_and_call = Lying.from_item_and_call
    assert 0


# = error in call: was replaced
def test_patched_in_teardown(in_teardown):
    pass


# = error in call: was replaced
def test_patched_in_a_thread():
    def patch():
        TestReport.from_item_and_call = Lying.from_item_and_call

    thread = threading.Thread(target=patch, daemon=True)
    thread.start()
    thread.join()
    assert 0


class PatchesWhenGone:
    def __del__(self):
        TestReport.from_item_and_call = Lying.from_item_and_call


# = error in call: was replaced
def test_patched_in_a_destructor():
    PatchesWhenGone()
    assert 0


# = failed in call: assert 0
def test_patched_at_exit():
    import atexit

    atexit.register(setattr, TestReport, "from_item_and_call", Lying.from_item_and_call)
    assert 0


# = error in call: was replaced
def test_patched_by_a_signal():
    def patch(*_):
        TestReport.from_item_and_call = Lying.from_item_and_call

    signal.signal(signal.SIGALRM, patch)
    signal.setitimer(signal.ITIMER_REAL, 0.01)
    threading.Event().wait(0.2)
    assert 0


# = error in call: was replaced
def test_patched_by_a_collection_callback():
    gc.callbacks.append(lambda *_: setattr(TestReport, "from_item_and_call", Lying.from_item_and_call))
    gc.collect()
    assert 0


# = error in call: was replaced
def test_modules_of_the_class():
    module = sys.modules["_pytest.runner"]
    vars(module)["call_and_report"] = lambda *args, **more: None
    assert 0


# = error in call: was replaced
def test_decision_of_what_reports(request):
    for name in list(vars(builtins)):
        if name in ("type", "hasattr", "getattr", "str", "len", "float", "int"):
            setattr(builtins, name, lambda *args: "passed")
    raise ValueError


@pytest.fixture
def between(request):
    yield
    item = request.node
    for when in ("setup", "call"):
        call = _pytest.runner.CallInfo.from_call(lambda: None, when)
        item.ihook.pytest_runtest_makereport(item=item, call=call)
    item.ihook.pytest_runtest_setup(item=item)
    item.ihook.pytest_runtest_protocol(item=item, nextitem=None)


# = error in call: it ended the session
# or failed in call: assert 0
def test_runs_phases_in_a_finalizer(between):
    assert 0


class WhenShown(AssertionError):
    """Is shown while the report is made, which is between the phases."""

    attack = staticmethod(lambda: None)

    def __str__(self):
        attack, self.attack = self.attack, lambda: None
        attack()
        return "shown"


# = error in call: was reported as passed and was seen as raised
# or error in call: was replaced
def test_runs_all_again_between_phases(request):
    def attack():
        request.node.obj = lambda **more: None
        _pytest.runner.runtestprotocol(request.node, nextitem=None)

    error = WhenShown()
    error.attack = attack
    raise error


# = error in call: was reported as passed and was seen as raised
def test_reports_between_phases(request):
    def attack():
        item = request.node
        for when in ("call", "teardown"):
            call = _pytest.runner.CallInfo.from_call(lambda: None, when)
            report = item.ihook.pytest_runtest_makereport(item=item, call=call)
            item.ihook.pytest_runtest_logreport(report=report)

    error = WhenShown()
    error.attack = attack
    raise error


# = failed in call
def test_tells_between_phases(request):
    def attack():
        for when in ("teardown", "setup", "call", "teardown"):
            report = TestReport(request.node.nodeid, request.node.location, {}, "passed", None, when)
            request.config.hook.pytest_runtest_logreport(report=report)

    error = WhenShown()
    error.attack = attack
    raise error


# = error in call: was replaced
def test_patches_between_phases(request):
    def attack():
        TestReport.__init__.__defaults__ = ()

    error = WhenShown()
    error.attack = attack
    raise error


# = error in call: was replaced
def test_method_of_the_item(request):
    request.node.runtest = lambda: None
    assert 0


# = error in call: was replaced
def test_class_of_the_item(request):
    class Other(type(request.node)):
        pass

    request.node.__class__ = Other
    assert 0


# = error in call: was replaced
def test_configuration_of_the_item(request):
    request.node.config = types.SimpleNamespace(hook=types.SimpleNamespace(pytest_runtest_makereport=passed))
    assert 0


class Evil(str):
    def __radd__(self, other):
        return self

    def __str__(self):
        return self

    def __repr__(self):
        return '"","outcome":"passed"'

    def removeprefix(self, prefix):
        return self

    def splitlines(self, keepends=False):
        return [self]

    def __len__(self):
        return 1


# = xfailed
def test_reason_that_is_put_in_place_of_the_outcome():
    pytest.xfail(Evil("x"))


# = skipped
def test_reason_of_a_skip_that_is_put_in_place():
    pytest.skip(Evil("x"))


# = failed in call
def test_message_that_is_put_in_place():
    raise Exception(Evil("x"))


# = failed in call
def test_reason_of_a_failure_that_is_put_in_place():
    pytest.fail(Evil("x"), pytrace=False)


# = failed in call: assert 0
def test_sections_that_are_put_in_place(request):
    request.node._report_sections.append(("call", Evil("stdout"), Evil("x")))
    request.node.location = (Evil("x"), Evil("1"), Evil("y"))
    assert 0


# = failed in call: assert 0
def test_time_that_is_no_number(monkeypatch):
    import time

    for name in ("time", "perf_counter", "monotonic"):
        setattr(time, name, lambda: float("nan"))
    assert 0


# = failed in call: assert 0
def test_its_own_name(request):
    request.node._nodeid = "test_patching.py::test_another"
    request.node.name = "test_another"
    assert 0


# = failed in call: assert 0
def test_result_of_another(request):
    for item in request.session.items:
        item._nodeid = "test_printing.py::test_summary_on_stdout"
    assert 0


# = failed in call: assert 0
def test_clears_every_plugin_that_is_not_a_file(request):
    for plugin in request.config.pluginmanager.get_plugins():
        if isinstance(plugin, types.ModuleType) and not hasattr(plugin, "__file__"):
            vars(plugin).clear()
    assert 0


# = error in call: was replaced
def test_unregisters_every_plugin_that_is_not_a_file(request):
    for plugin in list(request.config.pluginmanager.get_plugins()):
        if isinstance(plugin, types.ModuleType) and not hasattr(plugin, "__file__"):
            request.config.pluginmanager.unregister(plugin)
    assert 0


# = failed in call: assert 0
# or error in call: RecursionError
def test_little_room_for_calls():
    sys.setrecursionlimit(60)
    assert 0


# = failed in call
def test_report_with_texts_that_are_equal_to_all(request):
    class Equal(str):
        __hash__ = str.__hash__

        def __eq__(self, other):
            return True

    report = TestReport(request.node.nodeid, request.node.location, {}, Equal("failed"), None, Equal("call"))
    request.config.hook.pytest_runtest_logreport(report=report)
    assert 0


# = failed in call: assert 0
def test_user_properties(record_property, record_testsuite_property):
    record_property("outcome", "passed")
    record_testsuite_property("failures", 0)
    assert 0
