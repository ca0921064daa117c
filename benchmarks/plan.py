"""What is measured: figures, the rows that they fill, and the record that a run of one keeps.

Standard library only: the peer's interpreter imports this as well.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pkgutil import iter_modules
from typing import IO, TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from benchmarks.sides import Side

SideName = Literal["ipybox", "peer", "raw"]
ALL: tuple[SideName, ...] = ("ipybox", "peer", "raw")
GATEWAYS: tuple[SideName, ...] = ("ipybox", "peer")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A line of the table.

    Attributes:
        key: Under which a run records its values.
        title: What the line says; ``{size}`` is the figure's size.
        unit: Of the numbers in the table.
        factor: From what is recorded (seconds, bytes) to the unit.
        kind: What the table shows of all rounds. ``compared``: median, p95 and ratios; ``median``: only that; ``sum``;
            ``share``: the sum, of the size times the rounds; ``range``: the extremes.
    """

    key: str
    title: str
    unit: str = ""
    factor: float = 1.0
    kind: Literal["compared", "median", "sum", "share", "range"] = "compared"


class Record:
    """What one run of a figure on one side found; each entry leaves the process at once, as a line of JSON.

    Args:
        out: Where to.
        started_at: When the process was started, on the clock of ``time.monotonic``.
    """

    def __init__(self, out: IO[str], started_at: float) -> None:
        self._out = out
        self.started_at = started_at

    def add(self, key: str, value: float) -> None:
        """Adds a value to a row."""
        self._write({"key": key, "value": value})

    def trouble(self, text: str) -> None:
        """Notes what went wrong."""
        self._write({"trouble": text})

    @contextmanager
    def tolerance(self) -> Iterator[None]:
        """What fails in here is noted, and the run goes on."""
        try:
            yield
        except TimeoutError:
            self.trouble("hangs")
        except Exception as error:
            lines = str(error).splitlines() or [""]
            self.trouble(f"{type(error).__name__}: {lines[0][:200]}".rstrip(": "))

    def _write(self, entry: dict[str, str | float]) -> None:
        self._out.write(json.dumps(entry) + "\n")
        self._out.flush()


Work = Callable[["Side", int, Record], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """Something that is measured: the same work on every side.

    Attributes:
        name: For the command line.
        rows: What it fills.
        work: Does it, once per round and side.
        sides: Where it makes sense.
        size: How often, how many or how much; passed to the work.
        quick_size: The same in a hurry.
        timeout: Seconds after which one run counts as hanging.
    """

    name: str
    rows: tuple[Row, ...]
    work: Work
    sides: tuple[SideName, ...]
    size: int
    quick_size: int
    timeout: float


_figures: dict[str, Figure] = {}


def figure(
    name: str,
    *rows: Row,
    sides: tuple[SideName, ...] = ALL,
    size: int = 1,
    quick_size: int = 1,
    timeout: float = 120.0,
) -> Callable[[Work], Work]:
    """Registers a figure; the decorated coroutine function is its work."""

    def register(work: Work) -> Work:
        if name in _figures:
            raise ValueError(f"two figures named {name!r}")
        _figures[name] = Figure(
            name=name, rows=rows, work=work, sides=sides, size=size, quick_size=quick_size, timeout=timeout
        )
        return work

    return register


def all_figures() -> dict[str, Figure]:
    """Every figure of every module in ``benchmarks.figures``, by name."""
    package = import_module("benchmarks.figures")
    for module in sorted(found.name for found in iter_modules(package.__path__)):
        import_module(f"benchmarks.figures.{module}")
    return dict(_figures)
