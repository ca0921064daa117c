"""The XML is what CI systems read: well-formed whatever tests wrote, in the shape of xunit2, and says what happened."""

from __future__ import annotations

import os
import re
import stat
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from hypothesis import given, settings

from ipybox.testrun.atomic_file import write_text_atomically
from ipybox.testrun.junit import case_name, to_junit
from ipybox.testrun.model import RunReport
from ipybox.testrun.outcome import Outcome
from ipybox.testrun.visible_text import visible
from tests.testrun.reports import NASTY, REPORTS, case, one_of_each, report

TIME = re.compile(r"[0-9]+\.[0-9]{3}")
VERDICTS = {"skipped", "failure", "error"}

# Elements of the family's schema with their attributes and children; what is ours beyond it is marked.
ATTRIBUTES = {
    "testsuites": {"name"},
    "testsuite": {"name", "tests", "failures", "errors", "skipped", "time", "timestamp", "hostname"},
    "testcase": {"name", "classname", "time", "file", "line"},  # ours: file and line
    "properties": set(),
    "property": {"name", "value"},
    "skipped": {"type", "message"},
    "failure": {"type", "message"},
    "error": {"type", "message"},
    "system-out": set(),
    "system-err": set(),
}
CHILDREN = {
    "testsuites": {"testsuite"},
    "testsuite": {"properties", "testcase"},
    "testcase": {*VERDICTS, "system-out", "system-err", "properties"},  # as pytest has them: error and properties
    "properties": {"property"},
}
REQUIRED = {"testsuite": {"name", "tests", "failures", "errors", "time"}, "testcase": {"name", "classname", "time"}}


def check(element: ET.Element) -> None:
    """That an element, and all in it, is as the family has it."""
    assert set(element.attrib) <= ATTRIBUTES[element.tag]
    assert REQUIRED.get(element.tag, set()) <= set(element.attrib)
    if "time" in element.attrib:
        assert TIME.fullmatch(element.attrib["time"])
    for child in element:
        assert child.tag in CHILDREN.get(element.tag, set())
        check(child)
    if element.tag == "testcase":
        assert sum(child.tag in VERDICTS for child in element) <= 1
    if element.tag == "testsuite":
        cases = element.findall("testcase")
        assert int(element.attrib["tests"]) == len(cases)
        for attribute, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
            assert int(element.attrib[attribute]) == sum(len(each.findall(tag)) for each in cases)


def parsed(run: RunReport) -> ET.Element:
    return ET.fromstring(to_junit(run).encode())


def suite(run: RunReport) -> ET.Element:
    (found,) = parsed(run)
    return found


@settings(max_examples=200, deadline=None)
@given(run=REPORTS)
def test_any_report_becomes_well_formed_xml_in_the_shape_of_the_family(run: RunReport) -> None:
    root = parsed(run)
    check(root)
    cases = root.findall("testsuite/testcase")
    assert len(cases) == len(run.results)
    for element, result in zip(cases, run.results, strict=True):
        for tag, text in (("system-out", result.stdout), ("system-err", result.stderr)):
            assert (element.findtext(tag) or "") == visible(text)


@pytest.mark.parametrize(
    ("outcome", "tag", "kind"),
    [
        (Outcome.PASSED, "", ""),
        (Outcome.XPASSED, "", ""),
        (Outcome.FAILED, "failure", "failed"),
        (Outcome.ERROR, "error", "error"),
        (Outcome.SKIPPED, "skipped", "pytest.skip"),
        (Outcome.XFAILED, "skipped", "pytest.xfail"),
        (Outcome.TIMEOUT, "error", "timeout"),
        (Outcome.CRASHED, "error", "crashed"),
        (Outcome.OUT_OF_MEMORY, "error", "out_of_memory"),
        (Outcome.INFRASTRUCTURE_ERROR, "error", "infrastructure_error"),
    ],
)
def test_each_outcome_is_said_in_the_words_of_the_family(outcome: Outcome, tag: str, kind: str) -> None:
    (element,) = suite(report(case("test_a", outcome, message="why", details="Traceback"))).findall("testcase")
    verdicts = [child for child in element if child.tag in VERDICTS]
    assert [child.tag for child in verdicts] == ([tag] if tag else [])
    for child in verdicts:
        assert child.attrib == {"type": kind, "message": "why"}
        assert child.text == "Traceback"


def test_the_suite_counts_what_it_has() -> None:
    found = suite(one_of_each())
    assert found.attrib == {
        "name": "ipybox",
        "tests": "11",
        "failures": "1",
        "errors": "5",
        "skipped": "2",
        "time": "12.500",
        "timestamp": "2026-03-01T12:00:00+00:00",
        "hostname": "ipybox",
    }


@pytest.mark.parametrize(
    ("test_id", "classname", "name"),
    [
        ("tests/test_a.py::test_b", "tests.test_a", "test_b"),
        ("tests/test_a.py::TestB::test_c[x::y/z.py]", "tests.test_a.TestB", "test_c[x::y/z.py]"),
        ("tests/test_a.py", "", "tests.test_a"),
        ("", "", ""),
    ],
)
def test_names_are_those_that_pytest_makes(test_id: str, classname: str, name: str) -> None:
    assert case_name(case("", id=test_id)) == (classname, name)
    pytest_names = _names_of_pytest(test_id)
    assert pytest_names in ((classname, name), None)


def _names_of_pytest(test_id: str) -> tuple[str, str] | None:
    junitxml = pytest.importorskip("_pytest.junitxml")
    try:
        *classes, name = junitxml.mangle_test_address(test_id)
    except AttributeError:  # it is theirs to rename
        return None
    return ".".join(classes), name


def test_flaky_cached_and_other_facts_are_properties() -> None:
    results = [
        case("test_a", flaky=True, attempts=3),
        case("test_b", cached=True, attempts=0),
        case("test_c", Outcome.CRASHED, phase="call", signal=11),
        case("test_d", Outcome.CRASHED, exit_code=0),
        case("test_e", Outcome.XPASSED),
        case("test_f"),
    ]
    found = [
        {each.attrib["name"]: each.attrib["value"] for each in element.iter("property")}
        for element in suite(report(*results)).findall("testcase")
    ]
    assert found == [
        {"flaky": "true", "attempts": "3"},
        {"cached": "true"},
        {"phase": "call", "signal": "11"},
        {"exit_code": "0"},
        {"outcome": "xpassed"},
        {},
    ]


def test_a_test_says_where_it_is_and_how_long_it_took() -> None:
    (element,) = suite(report(case("test_a"))).findall("testcase")
    assert element.attrib == {
        "classname": "tests.test_a",
        "name": "test_a",
        "file": "tests/test_a.py",
        "line": "7",
        "time": "0.250",
    }
    (element,) = suite(report(case("test_a", file="", line=None, duration=float("nan")))).findall("testcase")
    assert element.attrib == {"classname": "tests.test_a", "name": "test_a", "time": "0.000"}


def test_what_xml_can_not_hold_is_shown_and_all_else_comes_back_as_it_was() -> None:
    text = "a\x00\x1b[31m\ud800\uffff<&>]]>\r\n\tb\rc é 🎉"
    run = report(case("test_a", Outcome.FAILED, details=text, stdout=text, message=text))
    (element,) = suite(run).findall("testcase")
    expected = "a\\x00\\x1b[31m\\ud800\\uffff<&>]]>\r\n\tb\rc é 🎉"
    assert element.findtext("failure") == element.findtext("system-out") == expected
    assert element.find("failure[@message]").attrib["message"] == re.sub(r"\r\n|[\r\t]", " ", expected)  # type: ignore[union-attr]


def test_a_run_that_was_stopped_says_so() -> None:
    run = report(case("test_a"), not_run=("x", "y"), stopped="it was enough", interrupted=True, notes=("no network",))
    found = {each.attrib["name"]: each.attrib["value"] for each in suite(run).findall("properties/property")}
    assert found == {
        "framework": "pytest 9.0.1",
        "python": "3.11.7",
        "isolation": "test",
        "workers": "4",
        "not_run": "2",
        "stopped": "it was enough",
        "interrupted": "true",
        "note": "no network",
    }


def test_nothing_in_the_document_is_defined_by_the_document() -> None:
    text = to_junit(report(case("test_a", id=f"<!DOCTYPE x [<!ENTITY e 'x'>]>&e;{NASTY}")))
    assert "<!" not in text


# ---- writing ----------------------------------------------------------------------------------------------------


def test_a_file_is_written_with_its_directory_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "new" / "report.xml"
    write_text_atomically(path, "é\r\n")
    assert path.read_bytes() == "é\r\n".encode()
    assert os.listdir(path.parent) == ["report.xml"]


def test_what_is_replaced_keeps_its_permissions_and_a_link_stays_a_link(tmp_path: Path) -> None:
    target, link = tmp_path / "a.xml", tmp_path / "b.xml"
    target.write_text("old")
    target.chmod(0o640)
    link.symlink_to("a.xml")
    write_text_atomically(link, "new")
    assert link.is_symlink()
    assert target.read_text() == "new"
    assert stat.S_IMODE(target.stat().st_mode) == 0o640


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.xml"
    path.write_text("old")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="No space"):
        write_text_atomically(path, "new")
    with pytest.raises(UnicodeEncodeError):
        write_text_atomically(path, "\udcff")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.xml"]


def test_a_pipe_is_written_to_and_stays_a_pipe(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_text_atomically(pipe, "text")
        assert os.read(reader, 100) == b"text"
    finally:
        os.close(reader)
    assert pipe.is_fifo()


def test_a_directory_is_no_file_to_write(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        write_text_atomically(tmp_path, "text")
