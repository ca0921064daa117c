"""The page is readable by itself, says what happened, and nothing that tests wrote is more than text in it."""

from __future__ import annotations

import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from html.parser import HTMLParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipybox.testrun.html_report import POLICY, to_html
from ipybox.testrun.html_style import STYLE
from ipybox.testrun.model import RunReport
from ipybox.testrun.outcome import Outcome
from ipybox.testrun.trend import TrendPoint
from ipybox.testrun.visible_text import visible, visible_line
from tests.testrun.reports import NASTY, REPORTS, case, one_of_each, report

VOID = {"meta", "input", "br", "hr", "img", "link", "base", "embed", "source"}
CLOSED_BY_THE_NEXT = {"dt", "dd", "li", "tr", "td"}
ALLOWED = set(
    re.findall(
        r"\w+",
        "html head meta title style body a header h1 h2 h3 h4 p span ul li b dl dt dd nav main section details summary "
        "div pre table caption thead tbody tr th td small fieldset legend label input "
        "svg desc defs pattern line g rect text",
    )
)
TREND = tuple(
    TrendPoint(
        run_id=number,
        started_at=f"2026-03-{number + 1:02d}T12:00:00+00:00",
        duration=float(number),
        counts={Outcome.PASSED: 10 + number, **({Outcome.FAILED: number} if number % 2 else {})},
        newly_failing=("a",) if number % 2 else (),
    )
    for number in range(1, 6)
)


class Page(HTMLParser):
    """A page as a parser sees it: its elements, and the text in those that are asked for."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: list[tuple[str, str]] = []
        self.comments = 0
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID | CLOSED_BY_THE_NEXT:
            self.open.append(tag)
        self.texts.append((tag, ""))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in CLOSED_BY_THE_NEXT:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.texts:
            tag, text = self.texts[-1]
            self.texts[-1] = (tag, text + data)

    def handle_comment(self, data: str) -> None:
        self.comments += 1

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def text(self) -> str:
        return " ".join(text for tag, text in self.texts if tag != "style")


def rows(page: Page) -> list[str]:
    """The classes of the rows of the table of all results."""
    return [each["class"] or "" for each in page.all("tr") if "class" in each]


# ---- what it says -----------------------------------------------------------------------------------------------


def test_a_page_has_every_result_with_its_outcome_in_words() -> None:
    run = one_of_each()
    page = Page(to_html(run, TREND))
    assert rows(page) == [f"{result.outcome} flaky" if result.flaky else str(result.outcome) for result in run.results]
    for result in run.results:
        assert result.id in page.text
    for words in ("passed", "failed as expected", "passed unexpectedly", "out of memory", "infrastructure error"):
        assert words in page.text


def test_failures_come_first_with_all_that_is_known_of_them() -> None:
    failed = case(
        "test_bad", Outcome.CRASHED, stdout="it printed", stderr="it complained", signal=11, attempts=3, phase="setup"
    )
    text = to_html(report(case("test_good"), failed))
    page = Page(text)
    for fact in ("Traceback of test_bad", "it printed", "it complained", "signal 11", "3 attempts", "in setup"):
        assert fact in page.text
    assert "tests/test_a.py:7" in page.text
    assert text.index("tests/test_a.py::test_bad") < text.index("tests/test_a.py::test_good")


@pytest.mark.parametrize(
    ("run", "verdict"),
    [
        (report(), "There were no tests"),
        (report(case("a")), "1 test succeeded"),
        (report(case("a"), case("b", Outcome.FAILED)), "1 of 2 tests did not succeed"),
        (report(case("a"), not_run=("b",)), "All of 1 test succeeded, 1 were not run"),
        (report(case("a"), interrupted=True), "Stopped before the end"),
        (one_of_each(), "No verdict: 1 test could not be run"),
    ],
)
def test_the_verdict_is_the_first_thing_on_the_page_and_its_title(run: RunReport, verdict: str) -> None:
    text = to_html(run)
    assert verdict in text[text.index("<title>") : text.index("</title>")]
    assert verdict in text[text.index("<h1>") : text.index("<h1>") + 300]


def test_a_page_has_the_slowest_tests_the_slowest_first() -> None:
    text = to_html(report(*(case(f"test_{n}", duration=float(n)) for n in range(20))))
    slowest = text[text.index('id="slowest"') : text.index('id="results"')]
    assert re.findall(r"test_(\d+)", slowest) == [str(n) for n in range(19, 9, -1)]


def test_a_page_has_notes_flaky_tests_and_those_that_were_not_run() -> None:
    run = report(
        case("test_a", flaky=True, attempts=2), notes=("no network wall",), not_run=("test_z",), stopped="enough"
    )
    page = Page(to_html(run))
    for fact in ("no network wall", "succeeded only on a later attempt", "test_z", "enough"):
        assert fact in page.text


def test_the_trend_is_a_picture_with_words_and_a_table_of_the_same() -> None:
    text = to_html(report(case("test_a")), TREND)
    page = Page(text)
    (picture,) = page.all("svg")
    assert picture["role"] == "img"
    assert set((picture["aria-labelledby"] or "").split()) <= {each.get("id") for _, each in page.tags}
    assert "2 of 5 runs succeeded" in page.text
    assert len(page.all("rect")) == 5 + 2 * 3  # what failed is hatched as well, for who does not see the colour
    assert text.count('<th scope="row">2026-03-') == 5
    assert "<svg" not in to_html(report(case("test_a")))


def test_the_table_can_be_narrowed_to_each_outcome_that_there_is() -> None:
    page = Page(to_html(report(case("a"), case("b", Outcome.FAILED), case("c", flaky=True))))
    assert [each.get("id") for each in page.all("input")] == [None, "only-passed", "only-failed", "only-flaky"]
    assert all(each["type"] == "radio" for each in page.all("input"))
    assert page.all("input")[0].get("checked", "no") is None
    assert not Page(to_html(report(case("a")))).all("input")


# ---- what it is not ---------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(run=REPORTS, trend=st.sampled_from([(), TREND]))
def test_any_report_becomes_a_sound_page_without_anything_that_loads_or_runs(
    run: RunReport, trend: tuple[TrendPoint, ...]
) -> None:
    text = to_html(run, trend)
    text.encode()  # no lone surrogates
    page = Page(text)
    assert page.open == []
    assert page.comments == 0
    assert {tag for tag, _ in page.tags} <= ALLOWED
    for tag, attributes in page.tags:
        assert not {"src", "srcset", "data", "action", "style", "background"} & set(attributes)
        assert not [name for name in attributes if name.startswith("on")]
        if "href" in attributes:
            assert tag == "a"
            assert (attributes["href"] or "").startswith("#")
    assert rows(page) == [f"{each.outcome} flaky" if each.flaky else str(each.outcome) for each in run.results]
    shown = [text for tag, text in page.texts if tag == "pre"]
    expected = [text for each in run.failures for text in (each.details, each.stdout, each.stderr) if text]
    assert [text.strip() for text in shown] == [visible(text).strip() for text in expected]


def test_what_tests_wrote_is_shown_as_it_was() -> None:
    run = report(case("", Outcome.FAILED, id=NASTY, message=NASTY, details=NASTY, stdout=NASTY, stderr=NASTY))
    page = Page(to_html(run))
    assert ("h3", visible_line(NASTY)) in page.texts
    assert [text.strip() for tag, text in page.texts if tag == "pre"] == [visible(NASTY)] * 3
    assert not page.all("script")


def test_a_text_that_begins_with_an_empty_line_keeps_it() -> None:
    # Parsers of HTML drop a line end right after the tag.
    assert '<pre tabindex="0">\n\n  indented' in to_html(report(case("x", Outcome.FAILED, details="\n  indented")))


def test_the_policy_lets_nothing_be_loaded_and_precedes_everything_that_could() -> None:
    text = to_html(one_of_each(), TREND)
    policy = text.index("Content-Security-Policy")
    assert "default-src 'none'" in POLICY
    assert "script-src" not in POLICY
    assert policy < text.index("<title>") < text.index("<style>")
    assert "url(" not in STYLE
    assert "@import" not in STYLE


def test_every_place_that_is_linked_to_exists_once() -> None:
    page = Page(to_html(report(*one_of_each().results, not_run=("x",), notes=("y",)), TREND))
    ids = [each["id"] for _, each in page.tags if "id" in each]
    assert len(ids) == len(set(ids))
    assert {(each["href"] or "")[1:] for each in page.all("a")} <= set(ids)
    assert {each["aria-labelledby"] for each in page.all("section")} <= set(ids)


def test_headings_go_down_one_level_at_a_time_and_tables_have_captions_and_headers() -> None:
    page = Page(to_html(report(*one_of_each().results, not_run=("x",), notes=("y",)), TREND))
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert len(page.all("caption")) == len(page.all("table")) == 4
    assert all(each.get("scope") in ("col", "row") for each in page.all("th"))
    assert page.all("html") == [{"lang": "en"}]


def _brightness(colour: str) -> float:
    parts = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_every_colour_of_text_has_enough_contrast_in_light_and_dark() -> None:
    schemes = re.findall(r":root \{(.*?)\}", STYLE, flags=re.DOTALL)
    assert len(schemes) == 2
    for scheme in schemes:
        colours = dict(re.findall(r"--([\w-]+): (#\w{6})", scheme))
        for text in ("text", "quiet", "link", "good", "bad", "warn"):
            for ground in ("page", "panel"):
                low, high = sorted((_brightness(colours[text]), _brightness(colours[ground])))
                assert (high + 0.05) / (low + 0.05) >= 4.5, (text, ground)
        low, high = sorted((_brightness(colours["text"]), _brightness(colours["bad-panel"])))
        assert (high + 0.05) / (low + 0.05) >= 4.5


def test_ten_thousand_results_make_a_page_of_a_few_megabytes() -> None:
    results = [
        case(f"TestSomething::test_case_{n}[parameter-{n}]", Outcome.PASSED if n % 10 else Outcome.FAILED)
        for n in range(10_000)
    ]
    text = to_html(report(*results))
    assert len(text) < 4_000_000
    assert len(rows(Page(text))) == 10_000


def test_a_page_of_nothing_but_huge_failures_stays_bounded_and_says_what_is_left_out() -> None:
    huge = "x" * 200_000
    results = [case(f"t{n}", Outcome.FAILED, details=huge, stdout=huge, message=huge, id=huge) for n in range(600)]
    text = to_html(report(*results))
    assert len(text) < 8_000_000
    assert "left out, as this report is large" in text
    assert "... and 100 more" in text


# ---- in a browser -----------------------------------------------------------------------------------------------


class Site:
    """A server with one page that takes down what is asked of it."""

    def __init__(self, page: str) -> None:
        asked = self.asked = list[str]()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append(self.path)
                body = page.encode() if self.path == "/report.html" else b""
                self.send_response(200 if body else 404)
                self.send_header("Content-Type", "text/html; charset=utf-8")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *arguments: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/report.html"


@contextmanager
def serving(page: str) -> Iterator[Site]:
    site = Site(page)
    thread = threading.Thread(target=site.server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield site
    finally:
        site.server.shutdown()
        thread.join()
        site.server.server_close()


def _chromium() -> str:
    for name in ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"):
        if found := shutil.which(name):
            return found
    pytest.skip("there is no Chromium here")


def browse(page: str, directory: Path) -> tuple[str, list[str], list[str]]:
    """Opens a page: what became of it, what the console says, and what was asked of the page's server."""
    with serving(page) as site:
        done = subprocess.run(
            [
                _chromium(),
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-background-networking",
                "--enable-logging=stderr",
                f"--user-data-dir={directory}",
                "--virtual-time-budget=3000",
                "--dump-dom",
                site.url,
            ],
            capture_output=True,
            encoding="utf-8",
            timeout=90,
            check=True,
        )
    asked = [path for path in site.asked if path != "/favicon.ico"]  # the browser's own idea
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line], asked


@pytest.mark.soak
def test_a_browser_shows_the_page_and_loads_runs_and_complains_about_nothing(tmp_path: Path) -> None:
    attack = (
        "</pre></details></style></title><img src='/evil.png' onerror='console.error(1)'>"
        "<script>console.error(2); document.title = 'owned'</script><link rel=stylesheet href=/evil.css>"
        "<iframe src=/evil.html></iframe><meta http-equiv=refresh content='0;url=/evil'>"
    )
    # The witness would see it: a page without our care runs and loads all of that.
    _, complaints, asked = browse(f"<!DOCTYPE html><title>x</title>{attack.replace('</style></title>', '')}", tmp_path)
    assert complaints
    assert "/evil.png" in asked

    failed = case("x", Outcome.FAILED, id=attack, message=attack, details=attack, stdout=attack, file=attack)
    run = replace(one_of_each(), results=(failed, *one_of_each().results), notes=(attack,), framework=attack)
    shown, complaints, asked = browse(to_html(run, TREND), tmp_path)
    assert complaints == []
    assert asked == ["/report.html"]
    page = Page(re.sub(r"</(?:dt|dd|li|tr|td)>", "", shown))
    assert ("h3", attack) in page.texts
    assert rows(page) == rows(Page(to_html(run, TREND)))
    assert not page.all("script") + page.all("img") + page.all("iframe")
