"""Projects of every shape, each of which pytest itself can run."""

from __future__ import annotations

from dataclasses import dataclass, field

ONE_EACH = """\
    import pytest
    def test_pass(): pass
    def test_fail(): assert 0
    class TestA:
        @pytest.mark.parametrize("a", ["x", "y::z", "[", "é"])
        def test_params(self, a): assert a != "x"
    """


@dataclass(frozen=True)
class Layout:
    """A project, and how it is run.

    Attributes:
        name: What is special about it.
        files: Its files.
        links: Symbolic links in it, and where they lead.
        cwd: Where in it pytest is run.
        paths: What it is told to look at.
        arguments: More of its command line.
    """

    name: str
    files: dict[str, str]
    links: dict[str, str] = field(default_factory=dict)
    cwd: str = "."
    paths: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()


LAYOUTS = [
    Layout(
        "tox.ini with other names, in a package",
        {
            "tox.ini": "[pytest]\npython_files = check_*.py\npython_functions = check_*\npython_classes = Check\n",
            "checks/__init__.py": "",
            "checks/check_a.py": "def check_a(): pass\ndef test_b(): 1/0\nclass CheckC:\n    def check_d(self): 1/0\n",
        },
    ),
    Layout(
        "pyproject.toml with a src directory",
        {
            "pyproject.toml": "[tool.pytest.ini_options]\npythonpath = ['src']\ntestpaths = ['tests']\n",
            "src/thing/__init__.py": "answer = 42\n",
            "src/thing/test_not_meant.py": "def test_x(): assert 0\n",
            "tests/test_thing.py": "import thing\ndef test_a(): assert thing.answer == 42\ndef test_b(): assert 0\n",
        },
    ),
    Layout(
        "setup.cfg",
        {"setup.cfg": "[tool:pytest]\npython_files = *_spec.py\n", "a_spec.py": ONE_EACH, "test_b.py": ONE_EACH},
    ),
    Layout("no configuration", {"pyproject.toml": "[project]\nname = 'a'\n", "deep/er/test_a.py": ONE_EACH}),
    Layout(
        "namespace packages with the same file names, imported by importlib",
        {
            "pytest.ini": "[pytest]\naddopts = --import-mode=importlib\n",
            "ns/one/test_same.py": ONE_EACH,
            "ns/two/test_same.py": ONE_EACH,
            "ns/two/deep/__init__.py": "",
            "ns/two/deep/test_same.py": ONE_EACH,
        },
    ),
    Layout(
        "names with brackets, spaces and quotes",
        {
            "a [1]/test_a.py": ONE_EACH,
            'b\'s "c"/test_b.py': ONE_EACH,
            "é/test_[x].py": ONE_EACH,
            "$HOME/test_d.py": ONE_EACH,
        },
    ),
    Layout(
        "several paths, in another order, one of them twice",
        {"a/test_a.py": ONE_EACH, "b/test_b.py": ONE_EACH, "c/test_c.py": ONE_EACH},
        paths=("c", "a/test_a.py", "c/test_c.py"),
    ),
    Layout(
        "ids of tests as paths",
        {"a/test_a.py": ONE_EACH, "b/test_b.py": ONE_EACH},
        paths=("b/test_b.py::TestA::test_params[y::z]", "a/test_a.py::TestA", "b/test_b.py::test_fail"),
    ),
    Layout("run below its root", {"a/b/test_a.py": ONE_EACH, "c/test_c.py": ONE_EACH}, cwd="a", paths=("b", "../c")),
    Layout(
        "links",
        {"real/test_a.py": ONE_EACH, "real/conftest.py": "x = 1\n"},
        links={"test_link.py": "real/test_a.py", "linked": "real"},
    ),
    Layout(
        "tests that are no Python",
        {
            "conftest.py": """\
                import pytest
                def pytest_collect_file(file_path, parent):
                    if file_path.suffix == ".words":
                        return Words.from_parent(parent, path=file_path)
                class Words(pytest.File):
                    def collect(self):
                        for name in self.path.read_text().split():
                            yield Word.from_parent(self, name=name)
                class Word(pytest.Item):
                    def runtest(self): assert self.name != "bad"
                    def reportinfo(self): return self.path, 0, f"word {self.name}"
                """,
            "a.words": "good bad ugly",
            "test_doc.txt": ">>> 1 + 1\n2\n",
            "test_bad.txt": ">>> 1 + 1\n3\n",
        },
    ),
    Layout(
        "hooks that add, sort and leave out tests",
        {
            "conftest.py": """\
                import pytest
                def pytest_addoption(parser): parser.addoption("--times", type=int, default=1)
                def pytest_generate_tests(metafunc):
                    if "n" in metafunc.fixturenames:
                        metafunc.parametrize("n", range(metafunc.config.getoption("--times")))
                def pytest_collection_modifyitems(config, items):
                    gone = [item for item in items if "gone" in item.name]
                    items[:] = [item for item in items if item not in gone][::-1]
                    config.hook.pytest_deselected(items=gone)
                def pytest_ignore_collect(collection_path): return True if "ignored" in str(collection_path) else None
                @pytest.hookimpl(wrapper=True)
                def pytest_runtest_makereport(item, call):
                    report = yield
                    if call.when == "call" and "turned" in item.name:
                        report.outcome = "passed" if report.failed else "failed"
                        report.longrepr = "turned around"
                    return report
                """,
            "test_a.py": """\
                def test_n(n): assert n != 2
                def test_gone(): assert 0
                def test_turned_good(): assert 0
                def test_turned_bad(): pass
                """,
            "test_ignored.py": "def test_x(): assert 0\n",
        },
        arguments=("--times=4", "-W", "error"),
    ),
    Layout(
        "warnings are errors",
        {"test_a.py": "import warnings\ndef test_w(): warnings.warn('x')\ndef test_ok(): pass\n"},
        arguments=("-W", "error"),
    ),
    Layout(
        "a file that can not be imported",
        {"test_bad.py": "import there_is_no_such_module\n", "test_good.py": ONE_EACH},
    ),
    Layout("the same file name twice", {"a/test_same.py": ONE_EACH, "b/test_same.py": ONE_EACH}),
    Layout(
        "errors of collection do not matter",
        {"test_bad.py": "1/0\n", "test_good.py": ONE_EACH},
        arguments=("--continue-on-collection-errors",),
    ),
    Layout("nothing", {"a.py": "x = 1\n"}),
    Layout("nothing is left", {"test_a.py": ONE_EACH}, arguments=("-k", "nonsense")),
]
