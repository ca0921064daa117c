"""What tests wrote can't become Markdown, HTML or a command on GitHub, and the summary is never too large."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipybox.testrun.github import (
    SUMMARY_LIMIT,
    annotation_lines,
    append_summary,
    code_span,
    fenced,
    harmless_log,
    summary_markdown,
)
from ipybox.testrun.model import RunReport
from ipybox.testrun.outcome import Outcome
from ipybox.testrun.trend import TrendPoint
from ipybox.testrun.visible_text import visible, visible_line
from tests.testrun.reports import NASTY, REPORTS, TEXT, case, one_of_each, report

MARKED = st.text(st.sampled_from("`|\\ a<\n\r~"), max_size=15) | TEXT


# ---- summary ----------------------------------------------------------------------------------------------------


def test_a_summary_has_the_counts_the_failures_and_their_details() -> None:
    text = summary_markdown(report(case("test_a", Outcome.FAILED), case("test_b"), case("test_c", Outcome.SKIPPED)))
    assert text.startswith("## Tests: 1 of 3 did not succeed\n")
    assert "| failed | 1 |" in text
    assert "| `tests/test_a.py::test_a` | failed | `it is failed` |" in text
    assert "```text\nTraceback of test_a\nE   assert 1 == 2\n```" in text
    assert "test_b" not in text


def test_a_summary_names_what_is_flaky_what_was_not_run_and_what_could_not_be_had() -> None:
    text = summary_markdown(
        report(case("test_a", flaky=True, attempts=2), not_run=("x",), stopped="enough", notes=("no network",))
    )
    assert "| `tests/test_a.py::test_a` | 2 |" in text
    assert "**1 not run**: `enough`" in text
    assert "- `no network`" in text


@pytest.mark.parametrize(
    ("run", "verdict"),
    [
        (report(), "there were none"),
        (report(case("test_a")), "all 1 succeeded"),
        (report(case("test_a"), interrupted=True), "stopped before the end"),
        (one_of_each(), "no verdict, as 1 of 11 could not be run"),
    ],
)
def test_the_heading_says_how_the_run_went(run: RunReport, verdict: str) -> None:
    assert summary_markdown(run).startswith(f"## Tests: {verdict}\n")


def test_the_trend_is_a_table_with_the_latest_run_first() -> None:
    trend = [
        TrendPoint(run_id=n, started_at=f"2026-03-0{n}T12:00:00", duration=n, counts={Outcome.PASSED: n})
        for n in (1, 2)
    ]
    rows = [line for line in summary_markdown(report(), trend).splitlines() if "2026" in line]
    assert rows == [
        "| `2026-03-02 12:00:00` | 2.0 | 2 | 100% | 0 | 0 |",
        "| `2026-03-01 12:00:00` | 1.0 | 1 | 100% | 0 | 0 |",
    ]


@given(text=MARKED)
def test_any_text_is_one_code_span_in_one_cell(text: str) -> None:
    span = code_span(text)
    assert "\n" not in span
    assert "\r" not in span
    if not visible_line(text).strip():
        assert span == ""
        return
    assert not re.search(r"(?<!\\)\|", span)  # would end the cell
    inner = span.replace("\\|", "|")  # as GitHub does before it looks for spans
    fence = re.match("`+", inner)[0]  # type: ignore[index]
    assert inner.endswith(fence)
    content = inner[len(fence) : -len(fence)]
    assert fence not in re.findall("`+", content)
    stripped = content[1:-1] if content[0] == content[-1] == " " and content.strip() else content
    assert stripped == visible_line(text)


@given(text=MARKED)
def test_any_text_is_one_block_of_code(text: str) -> None:
    first, *lines, last, end = fenced(text).split("\n")
    assert end == ""
    assert first == f"{last}text"
    assert set(last) == {"`"}
    assert not any(line.strip().startswith(last) for line in lines)
    assert "\n".join(lines) == visible(text).replace("\r\n", "\n").replace("\r", "\\x0d").rstrip("\n")


@given(text=MARKED)
def test_a_parser_of_markdown_reads_back_what_was_written(text: str) -> None:
    markdown_it = pytest.importorskip("markdown_it")
    parser = markdown_it.MarkdownIt("commonmark").enable("table")
    table = parser.parse(f"| a | b |\n| --- | --- |\n| {code_span(text)} | x |\n")
    cells = [token.children for token in table if token.type == "inline"]
    assert len(cells) == 4
    expected = [("code_inline", visible_line(text))] if visible_line(text).strip() else []
    assert [(token.type, token.content) for token in cells[2]] == expected
    block, *rest = parser.parse(fenced(text))
    assert rest == []
    assert block.type == "fence"
    assert block.content == visible(text).replace("\r\n", "\n").replace("\r", "\\x0d").rstrip("\n") + "\n"


@settings(max_examples=60, deadline=None)
@given(run=REPORTS)
def test_a_summary_has_no_links_images_or_html_but_our_own(run: RunReport) -> None:
    markdown_it = pytest.importorskip("markdown_it")
    tokens = markdown_it.MarkdownIt("commonmark").enable("table").parse(summary_markdown(run))
    every = [child for token in tokens for child in (token, *(token.children or ()))]
    assert not {"link_open", "image", "html_inline"} & {token.type for token in every}
    for token in every:
        if token.type == "html_block":
            assert re.fullmatch(r"</details>\n|<details><summary>[^<>]*</summary>\n", token.content)
    assert summary_markdown(run).count("<details>") == sum(
        token.type == "html_block" and "<summary>" in token.content for token in every
    )


def test_what_tests_wrote_is_neither_html_nor_markdown() -> None:
    evil = f"<img src=x> [link](javascript:x) **bold** @team {NASTY}"
    run = report(case("x", Outcome.FAILED, id=evil, message=evil, details=""), case("y", Outcome.FAILED, id=evil))
    outside = re.sub(r"(`+)(?!`).*?(?<!`)\1(?!`)", "", summary_markdown(run), flags=re.DOTALL)
    assert "<img" not in outside
    assert "<script" not in outside
    assert "javascript:" not in outside
    assert "@team" not in outside
    assert "**bold" not in outside


def _large() -> RunReport:
    return report(*(case(f"test_{n}", Outcome.FAILED, details="é" * 100_000, message="m" * 900) for n in range(900)))


def test_a_summary_is_never_larger_than_what_github_takes() -> None:
    text = summary_markdown(_large())
    assert len(text.encode()) <= SUMMARY_LIMIT
    assert "... and 700 more" in text


@settings(max_examples=60, deadline=None)
@given(run=REPORTS, limit=st.integers(0, 1500))
def test_a_summary_keeps_to_any_limit_and_says_that_it_is_shortened(run: RunReport, limit: int) -> None:
    whole, text = summary_markdown(run), summary_markdown(run, limit=limit)
    assert len(text.encode()) <= limit
    assert text == whole or not text or text.endswith("shows no more than 1 MiB._\n")


def test_summaries_of_one_step_share_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "summary.md"
    assert append_summary(path, one_of_each())
    assert path.read_text(encoding="utf-8") == summary_markdown(one_of_each())
    path.write_text("x" * (SUMMARY_LIMIT - 600))
    assert append_summary(path, one_of_each())
    assert path.stat().st_size <= SUMMARY_LIMIT
    assert path.read_text().endswith("1 MiB._\n")
    path.write_text("x" * SUMMARY_LIMIT)
    assert not append_summary(path, one_of_each())
    assert path.stat().st_size == SUMMARY_LIMIT


# ---- log --------------------------------------------------------------------------------------------------------


def _parse(line: str) -> tuple[str, dict[str, str], str]:
    """Reads a command as GitHub's runner does."""
    found = re.fullmatch(r"::(\w+)(?: ([^:]*?))?::(.*)", line, flags=re.DOTALL)
    assert found
    properties = dict(each.split("=", 1) for each in (found[2] or "").split(",") if each)
    back = {name: _decode(value) for name, value in properties.items()}
    return found[1], back, _decode(found[3])


def _decode(text: str) -> str:
    for code, character in (("%0D", "\r"), ("%0A", "\n"), ("%3A", ":"), ("%2C", ","), ("%25", "%")):
        text = text.replace(code, character)
    return text


def test_a_failure_is_an_error_at_its_line() -> None:
    (line,) = annotation_lines(report(case("test_a[x,y:z]", Outcome.TIMEOUT, message="100% of it\nis over")))
    assert line == (
        "::error file=tests/test_a.py,line=7,title=tests/test_a.py%3A%3Atest_a[x%2Cy%3Az]"
        "::timeout: 100%25 of it%0Ais over"
    )


def test_a_flaky_test_is_a_warning_and_one_without_a_file_has_none() -> None:
    (line,) = annotation_lines(report(case("test_a", flaky=True, attempts=3, file="", line=None)))
    assert line == "::warning title=tests/test_a.py%3A%3Atest_a::flaky: succeeded on attempt 3"


def test_more_failures_than_github_shows_are_counted() -> None:
    lines = annotation_lines(report(*(case(f"test_{n}", Outcome.FAILED) for n in range(25))))
    assert len(lines) == 11
    assert lines[-1] == "::notice::15 more tests did not succeed"


@given(run=REPORTS)
def test_each_annotation_is_one_command_whatever_tests_are_called(run: RunReport) -> None:
    for line in annotation_lines(run):
        assert "\n" not in line
        assert "\r" not in line
        kind, properties, _ = _parse(line)
        assert kind in ("error", "warning", "notice")
        assert set(properties) <= {"file", "line", "title"}


@given(text=st.text(st.sampled_from(":#[ a\n\r\t"), max_size=20))
def test_no_line_of_a_harmless_log_is_a_command(text: str) -> None:
    safe = harmless_log(text)
    assert "##[" not in safe
    assert not any(line.strip().startswith("::") for line in re.split(r"[\r\n]", safe))
    assert re.sub(r"\r(?!\n)", "\n", text) == safe.replace("\u200b", "")
