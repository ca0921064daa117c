"""Compares ``ipybox test`` with a plain pytest: ``python -m tests.testrun.comparison DIRECTORY [ARG...]``.

Both run the same tests of a project, in the Python that runs this, which has to have what the project needs. What
pytest's own JUnit file says of each test is held against what ipybox says. Options of ipybox are given as they are;
what comes after ``--`` is for both. Exit code 1 when they differ.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from _pytest.junitxml import bin_xml_escape, mangle_test_address

from ipybox.testrun.model import CaseResult, RunReport

Key = tuple[str, str]
"""What a JUnit file calls a test: class and name."""

_SAME = {"xpassed": "passed"}
"""Outcomes of ours that pytest's JUnit file has no word for."""
_WORST_LAST = ("passed", "skipped", "xfailed", "error", "failed")


def run_pytest(directory: Path, *arguments: str) -> tuple[dict[Key, str], int]:
    """Runs a plain pytest; returns the outcomes that it told, and its exit code."""
    with tempfile.TemporaryDirectory() as place:
        file = Path(place, "junit.xml")
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={file}", *arguments]
        done = subprocess.run(command, cwd=directory, stdin=subprocess.DEVNULL, capture_output=True, check=False)
        if not file.exists():
            raise ValueError(f"pytest: {done.stdout.decode()[-2000:]}{done.stderr.decode()[-2000:]}")
        return told_by_junit(file.read_text(encoding="utf-8")), done.returncode


def told_by_junit(text: str) -> dict[Key, str]:
    """The outcomes in a JUnit file of pytest's: the failure before the error, if a test has both."""
    found: dict[Key, str] = {}
    for case in ET.fromstring(text).iter("testcase"):
        key = (case.get("classname", ""), case.get("name", ""))
        for outcome in _outcomes(case):
            found[key] = max(found.get(key, "passed"), outcome, key=_WORST_LAST.index)
    return found


def _outcomes(case: ET.Element) -> Iterator[str]:
    if case.find("failure") is not None:
        yield "failed"
    if case.find("error") is not None:
        yield "error"
    for skipped in case.findall("skipped"):
        yield "xfailed" if skipped.get("type") == "pytest.xfail" else "skipped"
    yield "passed"


def key_of(result: CaseResult) -> Key:
    """What pytest's JUnit file calls a test of ours."""
    names = mangle_test_address(result.id)
    return ".".join(names[:-1]), bin_xml_escape(names[-1])


def differences(plain: Mapping[Key, str], results: Iterable[CaseResult]) -> list[str]:
    """Where they differ, in words; one line for each test."""
    found, seen = [], set()
    for result in results:
        key = key_of(result)
        seen.add(key)
        ours = _SAME.get(str(result.outcome), str(result.outcome))
        theirs = plain.get(key, "not there")
        if ours != theirs:
            where = f" in {result.phase}" if result.phase else ""
            found.append(f"{result.id}: {theirs} with pytest, {ours}{where} with ipybox: {result.message[:200]}")
    return found + [f"{'::'.join(key)}: {plain[key]} with pytest, not there with ipybox" for key in plain.keys() - seen]


def compare(directory: Path, options: Sequence[str], both: Sequence[str]) -> list[str]:
    """Runs both; returns where they differ.

    Args:
        directory: The project's.
        options: Of ``ipybox test``.
        both: Arguments of pytest.
    """
    plain, code = run_pytest(directory, *both)
    with tempfile.TemporaryDirectory() as place:
        file = Path(place, "report.json")
        start = [sys.executable, "-c", "from ipybox.cli import main; main()"]
        command = [*start, "test", "-q", "--no-history", f"--json={file}", *options, "--", *both]
        done = subprocess.run(command, cwd=directory, stdin=subprocess.DEVNULL, capture_output=True, check=False)
        if not file.exists():
            raise ValueError(f"ipybox: {done.stdout.decode()[-2000:]}{done.stderr.decode()[-2000:]}")
        report = RunReport.from_dict(json.loads(file.read_text(encoding="utf-8")))
    found = differences(plain, report.results)
    if code != report.exit_code and not found:
        found.append(f"exit code {code} with pytest, {int(report.exit_code)} with ipybox")
    print(f"{len(plain)} tests with pytest, {len(report.results)} in {report.duration:.1f} s with ipybox")
    return found


def main(arguments: Sequence[str]) -> int:
    """Compares, prints where they differ, and returns the exit code."""
    both = list(arguments[arguments.index("--") + 1 :]) if "--" in arguments else []
    own = arguments[: arguments.index("--")] if "--" in arguments else arguments
    parser = argparse.ArgumentParser(prog="compare-with-pytest", description=(__doc__ or "").partition("\n\n")[2])
    parser.add_argument("directory", type=Path)
    options, more = parser.parse_known_args(own)
    try:
        found = compare(options.directory.resolve(), more, both)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    print("\n".join([*found, f"{len(found)} differences"]))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
