"""Projects with unittest's tests: one that a plain ``python -m unittest`` can judge, and one that cheats."""

from __future__ import annotations

from pathlib import Path

TRICKY = {
    "pyproject.toml": "",
    "test_outcomes.py": """
import asyncio, sys, unittest


class Plain(unittest.TestCase):
    def test_passes(self): pass
    def test_fails(self): self.assertEqual(1, 2)
    def test_raises(self): raise ValueError("boom")
    def test_exits(self): sys.exit(0)
    @unittest.skip("not now")
    def test_skipped(self): pass
    def test_skips(self): self.skipTest("inside")
    @unittest.expectedFailure
    def test_known(self): self.fail("as ever")
    @unittest.expectedFailure
    def test_surprise(self): pass
    def test_subtests(self):
        for number in range(3):
            with self.subTest(number=number): self.assertNotEqual(number, 1)
    def test_good_subtests(self):
        for number in range(3):
            with self.subTest(number=number): pass
    def test_cleanup(self): self.addCleanup(lambda: 1 / 0)


@unittest.skipIf(True, "the whole class")
class Skipped(unittest.TestCase):
    def test_a(self): pass


class BadSetUp(unittest.TestCase):
    def setUp(self): self.fail("setUp")
    def test_a(self): pass


class BadTearDown(unittest.TestCase):
    def tearDown(self): raise OSError("tearDown")
    def test_a(self): pass
    def test_b(self): self.fail("first")


class BadClass(unittest.TestCase):
    @classmethod
    def setUpClass(cls): raise RuntimeError("class")
    def test_a(self): pass
    def test_b(self): pass


class BadClassEnd(unittest.TestCase):
    @classmethod
    def tearDownClass(cls): raise RuntimeError("class end")
    def test_a(self): pass
    def test_b(self): pass


class SkippingClass(unittest.TestCase):
    @classmethod
    def setUpClass(cls): raise unittest.SkipTest("no class")
    def test_a(self): pass


class Async(unittest.IsolatedAsyncioTestCase):
    async def asyncSetUp(self): self.value = 1
    async def test_passes(self):
        await asyncio.sleep(0)
        self.assertEqual(self.value, 1)
    async def test_fails(self):
        await asyncio.sleep(0)
        self.assertEqual(self.value, 2)


class AsyncBadSetUp(unittest.IsolatedAsyncioTestCase):
    async def asyncSetUp(self): raise ValueError("asyncSetUp")
    async def test_a(self): pass


class Outer:
    class Inner(unittest.TestCase):
        def test_a(self): pass


Inner = Outer.Inner
""",
    "pkg/__init__.py": "",
    "pkg/test_module.py": """
import unittest
def setUpModule(): raise RuntimeError("module")
class A(unittest.TestCase):
    def test_a(self): pass
class B(unittest.TestCase):
    def test_b(self): pass
""",
    "pkg/test_module_skip.py": """
import unittest
def setUpModule(): raise unittest.SkipTest("not here")
class A(unittest.TestCase):
    def test_a(self): pass
""",
    "pkg/test_module_end.py": """
import unittest
def tearDownModule(): raise RuntimeError("module end")
class A(unittest.TestCase):
    def test_a(self): pass
    def test_b(self): pass
""",
    "pkg/test_skipped_file.py": 'import unittest\nraise unittest.SkipTest("no file")\n',
    "pkg/deep/__init__.py": "",
    "pkg/deep/test_loaded.py": '''
import doctest, unittest
class P(unittest.TestCase):
    def __init__(self, name="runTest", value=0):
        super().__init__(name)
        self.value = value
    def test_v(self): self.assertLess(self.value, 2)
def f():
    """
    >>> 1 + 1
    3
    """
def load_tests(loader, tests, pattern):
    suite = unittest.TestSuite([P("test_v", value) for value in range(3)])
    suite.addTest(doctest.DocTestSuite())
    return suite
''',
    "not_a_package/test_not_found.py": "raise Exception\n",
}

NAMED = {
    "test_outcomes.py::Plain::test_passes": "passed",
    "test_outcomes.py::Plain::test_fails": "failed call",
    "test_outcomes.py::Plain::test_raises": "failed call",
    "test_outcomes.py::Plain::test_exits": "failed call",
    "test_outcomes.py::Plain::test_skipped": "skipped",
    "test_outcomes.py::Plain::test_skips": "skipped",
    "test_outcomes.py::Plain::test_known": "xfailed",
    "test_outcomes.py::Plain::test_surprise": "failed call",
    "test_outcomes.py::Plain::test_subtests": "failed call",
    "test_outcomes.py::Plain::test_good_subtests": "passed",
    "test_outcomes.py::Plain::test_cleanup": "error teardown",
    "test_outcomes.py::Skipped::test_a": "skipped",
    "test_outcomes.py::BadSetUp::test_a": "error setup",
    "test_outcomes.py::BadTearDown::test_a": "error teardown",
    "test_outcomes.py::BadTearDown::test_b": "failed call",
    "test_outcomes.py::BadClass::test_a": "error setup",
    "test_outcomes.py::BadClass::test_b": "error setup",
    "test_outcomes.py::BadClassEnd::test_a": "error teardown",
    "test_outcomes.py::BadClassEnd::test_b": "error teardown",
    "test_outcomes.py::SkippingClass::test_a": "skipped",
    "test_outcomes.py::Async::test_passes": "passed",
    "test_outcomes.py::Async::test_fails": "failed call",
    "test_outcomes.py::AsyncBadSetUp::test_a": "error setup",
    "test_outcomes.py::Outer::Inner::test_a": "passed",
    "pkg/test_module.py::A::test_a": "error setup",
    "pkg/test_module.py::B::test_b": "error setup",
    "pkg/test_module_skip.py::A::test_a": "skipped",
    "pkg/test_module_end.py::A::test_a": "error teardown",
    "pkg/test_module_end.py::A::test_b": "error teardown",
    "pkg/test_skipped_file.py": "skipped",
    "pkg/deep/test_loaded.py::P::test_v": "passed",
    "pkg/deep/test_loaded.py::P::test_v[2]": "passed",
    "pkg/deep/test_loaded.py::P::test_v[3]": "failed call",
    "pkg/deep/test_loaded.py::pkg.deep.test_loaded.f": "failed call",
}
"""What becomes of each test of :data:`TRICKY` in a sandbox of its own."""

HOSTILE = {
    "pyproject.toml": "",
    "test_hostile.py": """
import contextlib, os, signal, sys, threading, unittest


class Silent:
    def __getattr__(self, name): return lambda *arguments: None


class Hostile(unittest.TestCase):
    def result(self): return self._outcome.result
    def test_hard_exit(self): os._exit(0)
    def test_signal(self): os.kill(os.getpid(), signal.SIGSEGV)
    def test_interrupt(self): raise KeyboardInterrupt
    def test_fork(self):
        if os.fork() == 0:
            return
        os.wait()
        self.fail("the parent fails")
    def test_own_success(self):
        result, self._outcome.result = self.result(), Silent()
        result.addSuccess(self)
        self.fail("x")
    def test_own_success_of_a_thread(self):
        result, self._outcome.result = self.result(), Silent()
        thread = threading.Thread(target=result.addSuccess, args=(self,))
        thread.start()
        thread.join()
        self.fail("x")
    def test_silence(self):
        self._outcome.result = Silent()
        self.fail("x")
    def test_class_of_result(self):
        type(self.result()).addFailure = lambda *arguments: None
        self.fail("x")
    def test_result(self):
        result = self.result()
        result.addFailure = result.addError = lambda *arguments: None
        self.fail("x")
    def test_assertions(self):
        unittest.TestCase.assertEqual = lambda *arguments: None
        self.assertEqual(1, 2)
    def test_lists(self):
        result = self.result()
        self.addCleanup(lambda: (result.failures.clear(), result.errors.clear()))
        self.fail("x")
    def test_success_and_exit(self):
        result = self.result()
        result.addSuccess(self)
        result.stopTest(self)
        os._exit(0)
    def test_memory(self):
        hoard = []
        while True: hoard.append(bytearray(20_000_000))
    def test_nasty_exception(self):
        class Nasty(Exception):
            def __str__(self): raise SystemExit(0)
        raise Nasty
    def test_innocent(self): pass
    def test_expecting(self):
        self._outcome.expecting_failure = True
        self.fail("x")
    def test_expecting_for_a_while(self):
        outcome = self._outcome
        outcome.expecting_failure = True
        self.addCleanup(lambda: setattr(outcome, "expectedFailure", None))
        self.fail("x")
    def test_marked_late(self):
        self.__unittest_expecting_failure__ = True
        self.fail("x")
    def test_stop(self): self.result().stop(); self.fail("x")


class Swallowing(unittest.TestCase):
    def setUp(self):
        @contextlib.contextmanager
        def swallow(*arguments, **facts):
            try: yield
            except BaseException: pass
        self._outcome.testPartExecutor = swallow
    def test_a(self): self.fail("x")


class Unrun(unittest.TestCase):
    def setUp(self): self._callTestMethod = lambda method: None
    def test_a(self): self.fail("x")


class Skipping(unittest.TestCase):
    def setUp(self): self._callTestMethod = lambda method: self.skipTest("x")
    def test_a(self): self.fail("x")


class Exiting(unittest.TestCase):
    @classmethod
    def setUpClass(cls): sys.exit(0)
    def test_a(self): pass


class ExitingInTheEnd(unittest.TestCase):
    @classmethod
    def tearDownClass(cls): sys.exit(0)
    def test_a(self): pass


class Told(unittest.TestCase):
    def test_output(self):
        print("to stdout")
        os.write(2, b"to stderr")
        os.system("echo of a child")
        self.fail("x")
    def test_much_output(self):
        for _ in range(2_000): print("x" * 1_000)
        self.fail("x")
""",
}


def write(files: dict[str, str], root: Path) -> Path:
    """Makes a project of these files."""
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return root
