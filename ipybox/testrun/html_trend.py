"""The last runs as a picture in a page of HTML, and as a table for whoever does not see it. Floor: testrun."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from ipybox.testrun.seconds import finite, shown
from ipybox.testrun.trend import TrendPoint, percent
from ipybox.testrun.visible_text import visible_line

_WIDTH = 640
_HEIGHT = 150
_TOP = 18
_BOTTOM = 18
_MOST = 60
"""Runs that fit into the picture."""


def trend_html(trend: Sequence[TrendPoint]) -> str:
    """A picture, with one bar for each of the last 60 runs, and a table of the same; empty without runs."""
    points = trend[-_MOST:]
    return f"{_picture(points)}\n{_table(points)}" if points else ""


def _picture(points: Sequence[TrendPoint]) -> str:
    most = max(1, max(point.total for point in points))
    step = min(_WIDTH / len(points), 48.0)
    bars = "".join(_bar(point, index * step, step, most) for index, point in enumerate(points))
    base = _HEIGHT - _BOTTOM
    width = max(step * len(points), 1)
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-labelledby="trend-title trend-text">'
        f'<title id="trend-title">Results of the last {len(points)} runs</title>'
        f'<desc id="trend-text">{escape(_in_words(points))}</desc>'
        '<defs><pattern id="hatch" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
        '<line class="hatch" x1="0" y1="0" x2="0" y2="6"/></pattern></defs>'
        f'{bars}<line class="axis" x1="0" x2="{width:.1f}" y1="{base}" y2="{base}"/>'
        f'<text x="0" y="{_HEIGHT - 4}">older</text>'
        f'<text x="{width:.1f}" y="{_HEIGHT - 4}" text-anchor="end">latest</text></svg>'
    )


def _bar(point: TrendPoint, left: float, step: float, most: int) -> str:
    room = _HEIGHT - _TOP - _BOTTOM
    height = room * point.total / most
    bad = min(max(height * point.failed / point.total, 4.0), max(height, 4.0)) if point.failed else 0.0
    width = step * 0.72
    x = left + (step - width) / 2
    base = float(_HEIGHT - _BOTTOM)
    good = max(height - bad, 0.0)
    parts = [f"<g><title>{escape(_one_in_words(point))}</title>"]
    if good:
        parts.append(f'<rect class="ok" x="{x:.1f}" y="{base - good:.1f}" width="{width:.1f}" height="{good:.1f}"/>')
    if bad:
        place = f'x="{x:.1f}" y="{base - good - bad:.1f}" width="{width:.1f}" height="{bad:.1f}"'
        parts.append(f'<rect class="no" {place}/><rect fill="url(#hatch)" {place}/>')
        if step >= 20:
            y = base - good - bad - 4
            parts.append(f'<text class="bar" x="{x + width / 2:.1f}" y="{y:.1f}">{point.failed} ✗</text>')
    return "".join([*parts, "</g>"])


def _in_words(points: Sequence[TrendPoint]) -> str:
    failing = sum(1 for point in points if point.failed)
    clean = len(points) - failing
    return f"{clean} of {len(points)} runs succeeded. The latest: {_one_in_words(points[-1])}. A table follows."


def _one_in_words(point: TrendPoint) -> str:
    return f"{_when(point)}: {point.failed} of {point.total} did not succeed, in {shown(point.duration)}"


def _when(point: TrendPoint) -> str:
    return visible_line(point.started_at)[:16].replace("T", " ") or f"run {point.run_id}"


def _table(points: Sequence[TrendPoint]) -> str:
    rows = "".join(
        f'<tr><th scope="row">{escape(_when(point))}</th>'
        f'<td class="n">{point.total}<td class="n">{percent(point.success_rate)}<td class="n">{point.failed}'
        f'<td class="n">{point.flaky}<td class="n">{len(point.newly_failing)}<td class="n">{len(point.newly_fixed)}'
        f'<td class="n">{finite(point.duration):.1f}</tr>\n'
        for point in reversed(points)
    )
    names = ("Tests", "Success", "Failed", "Flaky", "Newly failing", "Newly fixed", "Seconds")
    header = "".join(f'<th scope="col" class="n">{name}</th>' for name in names)
    return (
        '<details class="more"><summary>The last runs as a table</summary><div class="scroll" tabindex="0" '
        'role="region" aria-label="Table of the last runs"><table><caption>The latest run first</caption>'
        f'<thead><tr><th scope="col">Started (UTC)</th>{header}</tr></thead>'
        f"<tbody>\n{rows}</tbody></table></div></details>"
    )
