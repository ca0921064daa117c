"""From runs to one table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median, quantiles

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks.plan import Figure, Row, SideName
from benchmarks.rounds import Results, Run

_HEADINGS = ("", "ipybox", "p95", "peer", "p95", "raw", "ipybox/peer", "by round", "ipybox/raw")
_NOTHING = "-"
_ENOUGH_FOR_P95 = 20
_WIDTH = 132
"""A narrower table can't be read; pipes and files have no width."""


@dataclass(frozen=True, slots=True)
class Report:
    """The table, and what has to be said about it."""

    lines: list[tuple[str, ...]]
    notes: list[str]

    def markdown(self) -> str:
        """As a Markdown table, with the notes as a list."""
        rows = [_HEADINGS, ("---", *("---:" for _ in _HEADINGS[1:])), *self.lines]
        table = "\n".join("| " + " | ".join(_indented(cell) for cell in row) + " |" for row in rows)
        return table + "\n\n" + "\n".join(f"- {note}" for note in self.notes) + "\n"

    def show(self) -> None:
        """On the terminal."""
        table = Table(box=SIMPLE_HEAD)
        for number, heading in enumerate(_HEADINGS):
            table.add_column(heading, justify="right" if number else "left", no_wrap=True)
        for line in self.lines:
            table.add_row(*line)
        console = Console(highlight=False, markup=False)
        console.width = max(console.width, _WIDTH)
        console.print(table)
        for note in self.notes:
            console.print(f"* {note}")


def report(figures: Sequence[Figure], results: Results, *, quick: bool) -> Report:
    """Puts everything that was measured into one table."""
    lines: list[tuple[str, ...]] = []
    notes: list[str] = []
    for figure in figures:
        runs = results[figure.name]
        size = figure.quick_size if quick else figure.size
        lines += [_line(row, size, runs) for row in figure.rows]
        for side, of_side in runs.items():
            notes += _troubles(figure, side, of_side)
    return Report(lines, notes)


def _line(row: Row, size: int, runs: dict[SideName, list[Run]]) -> tuple[str, ...]:
    title = row.title.format(size=f"{size:,}") + (f", {row.unit}" if row.unit else "")
    ours, peers, raws = (_values(row, runs.get(side, [])) for side in ("ipybox", "peer", "raw"))
    medians = [_summary(row, size, values) for values in (ours, peers, raws)]
    if row.kind != "compared":
        return (title, medians[0], "", medians[1], "", medians[2], "", "", "")
    ratios = _ratio(ours, peers), _pairs(ours, peers), _ratio(ours, raws)
    return (title, medians[0], _p95(ours), medians[1], _p95(peers), medians[2], *ratios)


def _values(row: Row, runs: Sequence[Run]) -> list[list[float]]:
    """A row's values, in its unit, by round."""
    return [[value * row.factor for value in run.values.get(row.key, [])] for run in runs]


def _summary(row: Row, size: int, rounds: Sequence[Sequence[float]]) -> str:
    values = [value for of_round in rounds for value in of_round]
    if not values:
        return _NOTHING
    if row.kind == "sum":
        return f"{sum(values):,.0f}"
    if row.kind == "share":
        return f"{sum(values):,.0f} of {size * len(values):,}"
    if row.kind == "range":
        low, high = _number(min(values)), _number(max(values))
        return low if low == high else f"{low}..{high}"
    return _number(median(values))


def _p95(rounds: Sequence[Sequence[float]]) -> str:
    values = [value for of_round in rounds for value in of_round]
    if len(values) < _ENOUGH_FOR_P95:
        return _NOTHING
    return _number(quantiles(values, n=20, method="inclusive")[-1])


def _ratio(ours: Sequence[Sequence[float]], theirs: Sequence[Sequence[float]]) -> str:
    """Ratio of the medians of everything."""
    mine, other = ([value for of_round in side for value in of_round] for side in (ours, theirs))
    return _number(median(mine) / median(other)) if mine and other and median(other) else _NOTHING


def _pairs(ours: Sequence[Sequence[float]], theirs: Sequence[Sequence[float]]) -> str:
    """Extremes of the ratios of the medians of each round: what the machine's noise does to the ratio."""
    ratios = [median(mine) / median(other) for mine, other in zip(ours, theirs, strict=False) if mine and other]
    return f"{_number(min(ratios))}..{_number(max(ratios))}" if ratios else _NOTHING


def _number(value: float) -> str:
    """Three digits that mean something."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    if abs(value) >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if abs(value) >= 0.1 or not value else f"{value:.3f}"


def _troubles(figure: Figure, side: SideName, runs: Sequence[Run]) -> list[str]:
    counts = Counter(trouble for run in runs for trouble in run.troubles)
    rounds = f"{len(runs)} round{'s' if len(runs) > 1 else ''}"
    return [f"{side}, {figure.name}: {count} x in {rounds}: {trouble}" for trouble, count in counts.items()]


def _indented(cell: str) -> str:
    """Markdown drops leading spaces."""
    text = cell.lstrip(" ")
    return "&nbsp;" * (len(cell) - len(text)) + text.replace("|", "\\|")
