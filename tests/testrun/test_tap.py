"""TAP is read in all its versions, and what does not agree with itself is an error."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipybox.errors import ReportFormatError
from ipybox.testrun import tap
from ipybox.testrun.outcome import Outcome

DATA = Path(__file__).parent / "data"


def _outcomes(text: str) -> dict[str, str]:
    return {each.id: str(each.outcome) for each in tap.read(text.encode())}


def test_a_plan_and_its_tests() -> None:
    assert _outcomes("TAP version 13\n1..3\nok 1 - a\nnot ok 2 b\nok\n") == {
        "a": "passed",
        "b": "failed",
        "test 3": "passed",
    }


def test_a_plan_in_the_end() -> None:
    assert _outcomes("ok - a\nok - b\n1..2\n") == {"a": "passed", "b": "passed"}


@pytest.mark.parametrize(
    ("line", "outcome", "message"),
    [
        ("ok 1 a # SKIP no net", "skipped", "no net"),
        ("ok 1 a # skipped: no net", "skipped", "no net"),
        ("ok 1 a #skip", "skipped", ""),
        ("not ok 1 a # SKIP no net", "failed", "no net"),
        ("not ok 1 a # TODO later", "xfailed", "later"),
        ("ok 1 a # todo later", "xpassed", "later"),
        ("ok 1 a # skipper", "passed", ""),
        ("ok 1 a \\# SKIP no net", "passed", ""),
    ],
)
def test_directives(line: str, outcome: str, message: str) -> None:
    (found,) = tap.read(f"1..1\n{line}\n".encode())
    assert (str(found.outcome), found.message) == (outcome, message)


def test_escapes_in_a_name() -> None:
    assert _outcomes("1..1\nok 1 - a \\# b \\\\ c\n") == {"a # b \\ c": "passed"}


def test_all_is_skipped() -> None:
    (found,) = tap.read(b"1..0 # SKIP no database\n")
    assert (found.id, found.outcome, found.message) == ("all tests", Outcome.SKIPPED, "no database")
    assert tap.read(b"1..0\n") == []


def test_diagnostics_in_yaml() -> None:
    text = (
        "1..2\nnot ok 1 - a\n  ---\n  message: 'expected 1'\n  duration_ms: 12.5\n  at: [x, {y: 1}]\n  ...\nok 2 - b\n"
    )
    first, second = tap.read(text.encode())
    assert (first.message, first.duration) == ("expected 1", 0.0125)
    assert first.details == "message: 'expected 1'\nduration_ms: 12.5\nat: [x, {y: 1}]"
    assert second.outcome is Outcome.PASSED


def test_a_message_of_several_lines() -> None:
    (found,) = tap.read(b"1..1\nnot ok 1 - a\n  ---\n  error: |-\n    first\n    second\n  message: other\n  ...\n")
    assert found.message == "first"


def test_a_real_report_of_node() -> None:
    found = {each.id: each for each in tap.read((DATA / "node-20.20.2.tap").read_bytes())}
    assert {name: str(each.outcome) for name, each in found.items()} == {
        "adds": "passed",
        "outer > inner ok": "passed",
        "outer > inner bad": "failed",
        "later": "xfailed",
        "not now": "skipped",
    }
    assert found["outer > inner bad"].message == "1 == 2"
    assert "ERR_ASSERTION" in found["outer > inner bad"].details
    assert 0 < found["adds"].duration < 1
    assert found["later"].message == "some day"


def test_diagnostics_in_comments_are_those_of_the_failure_before() -> None:
    text = "1..2\n# before\nnot ok 1 a\n# (in test file a.bats, line 3)\n#   `false' failed\nok 2 b\n# after\n"
    first, second = tap.read(text.encode())
    assert first.message == "(in test file a.bats, line 3)"
    assert first.details == "(in test file a.bats, line 3)\n  `false' failed"
    assert second.details == ""


def test_subtests() -> None:
    text = """TAP version 14
# Subtest: outer
    # Subtest: inner
        ok 1 - a
        not ok 2 - b
        1..2
    not ok 1 - inner
    ok 2 - c
    1..2
not ok 1 - outer
ok 2 - d
1..2
"""
    assert _outcomes(text) == {
        "outer > inner > a": "passed",
        "outer > inner > b": "failed",
        "outer > c": "passed",
        "d": "passed",
    }


def test_a_test_point_that_fails_though_its_subtests_do_not_is_a_failure_of_its_own() -> None:
    assert _outcomes("    ok 1 - a\n    1..1\nnot ok 1 - outer\n1..1\n") == {"outer > a": "passed", "outer": "failed"}


def test_a_failure_in_a_subtest_is_one_also_if_its_test_point_says_ok() -> None:
    assert _outcomes("    not ok 1 - a\n    1..1\nok 1 - outer\n1..1\n") == {"outer > a": "failed"}


def test_what_is_to_do_may_fail_inside() -> None:
    assert _outcomes("    not ok 1 - a\n    1..1\nnot ok 1 - outer # TODO\n1..1\n") == {"outer > a": "xfailed"}


def test_subtests_in_braces() -> None:
    assert _outcomes("not ok 1 - outer {\n    not ok 1 - a\n    1..1\n}\nok 2 - b\n1..2\n") == {
        "outer > a": "failed",
        "b": "passed",
    }


def test_subtests_without_their_test_point() -> None:
    assert _outcomes("# Subtest: outer\n    ok 1 - a\n    1..1\n1..1\n") == {
        "outer > a": "passed",
        "test 1": "error",
    }


@pytest.mark.parametrize(
    ("text", "errors"),
    [
        ("1..3\nok 1 a\nok 3 c\n", {"test 2": "it is in the plan, 1..3, and was not reported"}),
        ("1..1\nok 1 a\nok 2 b\n", {"test 2": "it is not in the plan, which is 1..1"}),
        ("1..1\nok 1 a\nok 1 b\n", {"b (2)": "there is another test with the number 1"}),
        ("ok 1 a\n", {"plan": "there is no plan: it ended before its time"}),
        ("1..1\n1..1\nok 1\n", {"plan": "there is more than one plan"}),
        ("ok 1\n1..2\nok 2\n", {"plan": "the plan is between the tests"}),
        ("1..9\nok 1 a\nBail out! no disk\nok 2 b\n", {"Bail out!": "no disk"}),
        ("    1..2\n    bail out!\n", {"subtest > Bail out!": "it gave up"}),
        ("1..999999999\nok 1\n", {"plan": "999999998 tests of 1..999999999 were not reported"}),
        ("    ok 1 - a\nok 1 - outer\n1..1\n", {"outer > plan": "there is no plan: it ended before its time"}),
    ],
)
def test_what_does_not_agree_with_itself_is_an_error(text: str, errors: dict[str, str]) -> None:
    found = tap.read(text.encode())
    assert {each.id: each.message for each in found if each.outcome is Outcome.ERROR} == errors


def test_a_yaml_block_that_never_ends_hides_no_test() -> None:
    assert _outcomes("1..2\nok 1 a\n  ---\nok 2 b\n") == {"a": "passed", "test 2": "error"}


def test_other_output_is_passed_over() -> None:
    assert _outcomes("hello\n  indented\n      more\nokay\n1..1\npragma +strict\nok 1 a\n") == {"a": "passed"}


@pytest.mark.parametrize("data", [b"", b"hello\n", b"# only a comment\n", b"\xff\xfe\x00"])
def test_what_has_no_plan_and_no_test_is_no_tap(data: bytes) -> None:
    with pytest.raises(ReportFormatError, match="no plan and no test"):
        tap.read(data)


def test_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ReportFormatError, match="more than 50 levels"):
        tap.read(b" " * 1_000 + b"ok 1\n")
    monkeypatch.setattr(tap, "MOST_CASES", 1)
    with pytest.raises(ReportFormatError, match="more than 1 tests"):
        tap.read(b"ok\nok\n")
    monkeypatch.setattr(tap, "MOST_BYTES", 1)
    with pytest.raises(ReportFormatError, match="longer than 1 bytes"):
        tap.read(b"ok\n")


_LINES = st.builds(
    "{}{}".format,
    st.sampled_from(["", "  ", "    ", "        ", " "]),
    st.sampled_from(
        [
            "ok",
            "not ok",
            "ok 1 - a",
            "not ok 2 # TODO",
            "ok 3 # SKIP x",
            "1..2",
            "1..0",
            "---",
            "...",
            "# x",
            "}",
            "ok 1 - b {",
            "# Subtest: c",
            "Bail out!",
            "TAP version 14",
            "message: x",
            "1..999999999",
            "text",
        ]
    ),
)


@given(st.binary() | st.lists(_LINES).map(lambda lines: "\n".join(lines).encode()))
def test_whatever_is_read_there_is_nothing_but_a_typed_error(data: bytes) -> None:
    try:
        found = tap.read(data)
    except ReportFormatError:
        return
    assert len({each.id for each in found}) == len(found)


@given(st.lists(st.booleans(), min_size=1, max_size=20), st.data())
def test_a_report_that_is_cut_off_is_never_a_success(oks: list[bool], data: st.DataObject) -> None:
    lines = [f"1..{len(oks)}", *(f"{'ok' if ok else 'not ok'} {number}" for number, ok in enumerate(oks, 1))]
    kept = data.draw(st.integers(1, len(lines) - 1))
    found = tap.read("\n".join(lines[:kept]).encode())
    assert not all(each.outcome.is_success for each in found)
