"""A project that has all that pytest's own outcomes depend on."""

from __future__ import annotations

ZOO = {
    "pytest.ini": """\
        [pytest]
        addopts = --doctest-modules
        markers =
            slow: takes long
            own: of the project
        testpaths = tests src
        pythonpath = src
        asyncio_mode = auto
        asyncio_default_fixture_loop_scope = function
        """,
    "conftest.py": """\
        import pytest

        pytest_plugins = ["zoo_plugin"]

        def pytest_addoption(parser):
            parser.addoption("--zoo", default="quiet", choices=["quiet", "loud"])
            parser.addini("animal", "which", default="cat")

        def pytest_configure(config):
            config.zoo_configured = config.getoption("zoo")

        def pytest_generate_tests(metafunc):
            if "animal" in metafunc.fixturenames:
                metafunc.parametrize("animal", ["cat", "dog", "cow"])

        def pytest_collection_modifyitems(config, items):
            items.sort(key=lambda item: "late" in item.nodeid)
            for item in items:
                if "skipped_by_conftest" in item.nodeid:
                    item.add_marker(pytest.mark.skip(reason="the conftest says so"))

        @pytest.fixture(scope="session")
        def session_log():
            return []
        """,
    "src/zoo_plugin.py": """\
        import pytest

        @pytest.fixture
        def from_plugin():
            return "plugin"

        @pytest.hookimpl(wrapper=True)
        def pytest_pyfunc_call(pyfuncitem):
            if pyfuncitem.get_closest_marker("own"):
                pyfuncitem.user_properties.append(("own", "yes"))
            return (yield)
        """,
    "src/zoo_doc.py": '''\
        """
        >>> 1 + 1
        2
        """

        def good():
            """
            >>> good()
            'good'
            """
            return "good"

        def bad():
            """
            >>> bad()
            'good'
            """
            return "bad"

        def skipped():
            """
            >>> nonsense  # doctest: +SKIP
            """
        ''',
    "tests/test_plain.py": """\
        import pytest

        def test_pass(): pass
        def test_fail(): assert [1, 2] == [1, 3], "why"
        def test_raise(): raise ValueError("no")
        def test_skip(): pytest.skip("not today")
        def test_skipped_by_conftest(): assert False
        def test_late(): pass
        def test_importorskip(): pytest.importorskip("there_is_no_such_module")
        def test_fail_call(): pytest.fail("called", pytrace=False)
        def test_exit_like(): raise SystemExit(3)
        def test_warning():
            import warnings
            warnings.warn("careful")
        def test_animal(animal): assert animal != "cow"
        def test_from_plugin(from_plugin): assert from_plugin == "plugin"
        def test_configured(pytestconfig):
            assert pytestconfig.zoo_configured == "quiet" and pytestconfig.getini("animal") == "cat"
        def test_output(capsys):
            print("x")
            assert capsys.readouterr().out == "x\\n"
        def test_fd_output(capfd):
            import os
            os.write(1, b"x")
            assert capfd.readouterr().out == "x"
        def test_log(caplog):
            import logging
            logging.getLogger("a").warning("b")
            assert caplog.messages == ["b"]
        def test_tmp(tmp_path): (tmp_path / "a").write_text("b")
        def test_root(pytestconfig, request):
            assert (pytestconfig.rootpath / "pytest.ini").exists()
            assert request.node.nodeid == "tests/test_plain.py::test_root"
        @pytest.mark.usefixtures("nothing_like_that")
        def test_no_fixture(): pass
        @pytest.mark.own
        def test_own(record_property): record_property("a", 1)
        @pytest.mark.skipif(True, reason="always")
        def test_skipif(): assert False
        @pytest.mark.skipif("nonsense +")
        def test_bad_skipif(): pass
        async def test_async():
            import asyncio
            await asyncio.sleep(0)
        async def test_async_fail(): assert 0
        """,
    "tests/test_params.py": """\
        import pytest

        @pytest.mark.parametrize("a", [1, 2, pytest.param(3, marks=pytest.mark.skip(reason="three"))])
        @pytest.mark.parametrize("b", ["x", "a b", "a/b", "a::b", "é", "[", "'", '"', "\\\\", "", "\\n", "%s", "-k"])
        def test_cross(a, b): assert (a, b) != (1, "[")

        @pytest.mark.parametrize("a", [pytest.param(1, id="one"), pytest.param(2, marks=pytest.mark.xfail, id="two")])
        def test_named(a): assert a == 1

        @pytest.mark.parametrize("a", [])
        def test_empty(a): pass

        @pytest.mark.parametrize("a", [1, 2], indirect=True)
        def test_indirect(a): assert a in (10, 20)

        @pytest.fixture
        def a(request): return request.param * 10

        @pytest.mark.parametrize("a", ["x" * 300, b"\\xff", None, True, 1.5, object, lambda: 1, (1, 2)])
        def test_odd(a): pass
        """,
    "tests/test_fixtures.py": """\
        import pytest

        @pytest.fixture(scope="module", params=["m1", "m2"])
        def module_one(request, session_log):
            session_log.append(request.param)
            yield request.param

        @pytest.fixture(scope="class")
        def class_one(module_one): yield module_one + "c"

        @pytest.fixture(scope="package")
        def package_one(): yield "p"

        @pytest.fixture(autouse=True)
        def always(): yield

        @pytest.fixture
        def bad_setup(): raise RuntimeError("setup")

        @pytest.fixture
        def bad_teardown():
            yield
            raise RuntimeError("teardown")

        @pytest.fixture
        def skips(): pytest.skip("in a fixture")

        def test_module(module_one, package_one): assert module_one == "m1"
        def test_setup_error(bad_setup): pass
        def test_teardown_error(bad_teardown): pass
        def test_both(bad_teardown): assert 0
        def test_skip_then_bad(bad_teardown): pytest.skip("x")
        def test_skip_in_fixture(skips): assert 0

        class TestA:
            def test_one(self, class_one): assert class_one.endswith("c")
            def test_two(self, class_one): pass

            class TestInner:
                def test_three(self): pass

        class TestXunit:
            def setup_class(cls): cls.value = 1
            def setup_method(self): self.value += 1
            def teardown_method(self): assert self.value == 2
            def test_value(self): assert self.value == 2
            def test_bad_teardown(self): self.value = 3

        class TestBadSetup:
            def setup_class(cls): raise ValueError
            def test_one(self): pass
            def test_two(self): pass

        class TestInit:
            def __init__(self): pass
            def test_never(self): pass
        """,
    "tests/test_expected.py": """\
        import pytest

        @pytest.mark.xfail
        def test_xfail(): assert 0
        @pytest.mark.xfail
        def test_xpass(): pass
        @pytest.mark.xfail(strict=True)
        def test_strict(): pass
        @pytest.mark.xfail(raises=KeyError, reason="why")
        def test_right(): raise KeyError
        @pytest.mark.xfail(raises=KeyError)
        def test_wrong(): raise ValueError
        @pytest.mark.xfail(run=False)
        def test_not_run(): assert 0
        @pytest.mark.xfail
        def test_bad_fixture(request): request.getfixturevalue("nothing")
        @pytest.mark.xfail
        def test_skipped(): pytest.skip("x")
        @pytest.mark.xfail(False, reason="no")
        def test_condition(): assert 0
        def test_imperative(): pytest.xfail("now")
        @pytest.fixture
        def marks(request): request.applymarker(pytest.mark.xfail(reason="from the fixture"))
        def test_marked_late(marks): assert 0
        @pytest.fixture
        def bad_teardown():
            yield
            assert 0
        @pytest.mark.xfail
        def test_xfail_teardown(bad_teardown): assert 0
        """,
    "tests/test_subtests.py": """\
        import pytest
        import unittest

        def test_all_good(subtests):
            for i in range(3):
                with subtests.test(i=i): pass
        def test_one_bad(subtests):
            for i in range(3):
                with subtests.test(i=i): assert i != 1
        def test_bad_itself(subtests):
            with subtests.test("good"): pass
            assert 0
        def test_skipped_part(subtests):
            with subtests.test("s"): pytest.skip("part")

        class T(unittest.TestCase):
            def test_parts(self):
                for i in range(3):
                    with self.subTest(i=i): self.assertNotEqual(i, 1)
            def test_good_parts(self):
                for i in range(3):
                    with self.subTest(i=i): pass
        """,
    "tests/test_unittest.py": """\
        import unittest

        class T(unittest.TestCase):
            @classmethod
            def setUpClass(cls): cls.made = 1
            def setUp(self): self.addCleanup(lambda: None)
            def test_pass(self): self.assertEqual(self.made, 1)
            def test_fail(self): self.fail("x")
            def test_error(self): raise OSError
            def test_skip(self): self.skipTest("x")
            @unittest.skip("dec")
            def test_skip_dec(self): pass
            @unittest.expectedFailure
            def test_xfail(self): self.fail()
            @unittest.expectedFailure
            def test_xpass(self): pass

        class BadTearDown(unittest.TestCase):
            def tearDown(self): raise OSError
            def test_one(self): pass

        class BadCleanup(unittest.TestCase):
            def test_one(self): self.addCleanup(self.fail, "x")

        class BadSetUp(unittest.TestCase):
            def setUp(self): raise OSError
            def test_one(self): pass

        class BadClass(unittest.TestCase):
            @classmethod
            def setUpClass(cls): raise OSError
            def test_one(self): pass
            def test_two(self): pass

        class SkipClass(unittest.TestCase):
            @classmethod
            def setUpClass(cls): raise unittest.SkipTest("class")
            def test_one(self): pass

        class Async(unittest.IsolatedAsyncioTestCase):
            async def test_good(self): pass
            async def test_bad(self): self.fail()
        """,
    "tests/test_skipped_module.py": """\
        import pytest
        pytest.skip("all of it", allow_module_level=True)
        """,
    "tests/test_marked_module.py": """\
        import pytest
        pytestmark = [pytest.mark.slow, pytest.mark.skipif(False, reason="never")]
        def test_slow(): pass
        """,
    "tests/one/test_same.py": "def test_here(): pass\n",
    "tests/one/__init__.py": "",
    "tests/two/test_same.py": "def test_here(): assert 0\n",
    "tests/two/__init__.py": "",
    "tests/two/conftest.py": "import pytest\n@pytest.fixture(autouse=True)\ndef local(): yield\n",
    "tests/with space/test_né.py": "def test_ünïcode(): pass\nclass Test_Ä:\n    def test_ß(self): assert 0\n",
}
