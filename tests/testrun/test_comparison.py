"""The script that compares ipybox with a plain pytest: it finds what differs, and nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ipybox.testrun.outcome import Outcome
from tests.testrun.comparison import differences, key_of, told_by_junit
from tests.testrun.reports import case
from tests.testrun.small_projects import write

JUNIT = """\
<testsuites><testsuite>
  <testcase classname="tests.test_a" name="good" />
  <testcase classname="tests.test_a" name="bad"><failure message="x" /></testcase>
  <testcase classname="tests.test_a" name="both"><failure message="x" /></testcase>
  <testcase classname="tests.test_a" name="both"><error message="x" /></testcase>
  <testcase classname="tests.test_a" name="x"><skipped type="pytest.xfail" message="" /></testcase>
  <testcase classname="tests.test_a.B" name="c[::]"><skipped type="pytest.skip" message="" /></testcase>
</testsuite></testsuites>
"""


def test_a_junit_file_is_read_as_it_was_meant() -> None:
    assert {name: outcome for (_, name), outcome in told_by_junit(JUNIT).items()} == {
        "good": "passed",
        "bad": "failed",
        "both": "failed",
        "x": "xfailed",
        "c[::]": "skipped",
    }


def test_a_test_is_found_by_the_name_that_it_has_there() -> None:
    assert key_of(case("B::c[::]")) == ("tests.test_a.B", "c[::]")


def test_only_what_differs_is_told() -> None:
    plain = told_by_junit(JUNIT)
    results = [
        case("good"),
        case("bad", Outcome.TIMEOUT),
        case("both", Outcome.FAILED),
        case("x", Outcome.XFAILED),
        case("new"),
    ]
    found = differences(plain, results)
    assert [line.partition(" with pytest")[0] for line in found] == [
        "tests/test_a.py::bad: failed",
        "tests/test_a.py::new: not there",
        "tests.test_a.B::c[::]: skipped",
    ]
    assert differences({("tests.test_a", "x"): "passed"}, [case("x", Outcome.XPASSED)]) == []


@pytest.mark.sandbox
@pytest.mark.parametrize(
    ("text", "options", "code", "last"),
    [
        ("def test_a(): pass\ndef test_b(): assert 0\n", (), 0, "0 differences"),
        ("import os\ndef test_a(): assert os.path.expanduser('~') == os.environ['IT']\n", (), 1, "1 differences"),
        (
            "def test_a(): pass\ndef test_b(): assert 0\n",
            ("--isolate", "file", "--", "-k", "test_a"),
            0,
            "0 differences",
        ),
        ("", ("--", "--no-such-option"), 2, ""),
    ],
    ids=["same", "another home", "options", "wrong"],
)
def test_a_project_is_run_with_both(tmp_path: Path, text: str, options: tuple[str, ...], code: int, last: str) -> None:
    write(tmp_path, {"test_m.py": text, "conftest.py": "import os\nos.environ.setdefault('IT', '/nowhere')\n"})
    command = [sys.executable, "-m", "tests.testrun.comparison", str(tmp_path), *options]
    done = subprocess.run(
        command,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
        env={"IT": "/", "HOME": "/"},
    )
    assert (done.returncode, done.stdout.splitlines()[-1:]) == (code, [last] if last else []), done.stderr


def test_the_script_says_how_it_is_used() -> None:
    script = Path(__file__).parents[2] / "scripts" / "compare-with-pytest"
    done = subprocess.run([script, "/no/such/directory"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "compare-with-pytest DIRECTORY" in done.stderr
