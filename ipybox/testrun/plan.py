"""Which tests share a sandbox, and which go first. Pure. Floor: testrun."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ipybox.testrun.model import Isolation


@dataclass(frozen=True, slots=True)
class Item:
    """A test that was found.

    Attributes:
        id: The framework's name of it.
        path: Its file, absolute.
        line: Line number there, from 1; None if unknown.
    """

    id: str
    path: str
    line: int | None = None

    @property
    def file(self) -> str:
        """The file, as the id names it."""
        return self.id.partition("::")[0]


@dataclass(frozen=True, slots=True)
class Unit:
    """Tests that run in one sandbox, one after the other.

    Attributes:
        items: Which.
        target: What the framework is told to look at.
    """

    items: tuple[Item, ...]
    target: str

    @property
    def ids(self) -> tuple[str, ...]:
        """Names of the tests."""
        return tuple(item.id for item in self.items)

    def target_for_pytest(self, cwd: str) -> str:
        """The same as one of its arguments: in those no path may have brackets, which it takes for parameters.

        Then it is told to look at the directory around them; which of the tests there are meant it knows besides.
        """
        path = self.items[0].path
        if "[" not in path:
            return self.target
        near = os.path.relpath(path, cwd)
        if "[" not in near:
            return near + self.target.removeprefix(path)
        return os.path.dirname(near.partition("[")[0]) or "."

    def without(self, done: Iterable[str]) -> Unit | None:
        """What is left of it, if anything is."""
        gone = set(done)
        left = tuple(item for item in self.items if item.id not in gone)
        return Unit(left, self.target) if left else None

    def of_whole_file(self) -> Unit:
        """The same tests, found by looking at all of their file."""
        return Unit(self.items, self.items[0].path)


def units(items: Sequence[Item], isolation: Isolation) -> list[Unit]:
    """Puts tests together, in the order of their first ones."""
    groups: dict[tuple[str, ...], list[Item]] = {}
    targets: dict[tuple[str, ...], str] = {}
    for item in items:
        _, colons, rest = item.id.partition("::")
        parent = _parent(rest)
        key: tuple[str, ...]
        match isolation:
            case "test":
                key, target = (item.path, item.id), item.path + colons + rest
            case "class" if parent:
                key, target = (item.path, parent), f"{item.path}::{parent}"
            case _:
                key, target = (item.path,), item.path
        groups.setdefault(key, []).append(item)
        targets[key] = target
    return [Unit(tuple(found), targets[key]) for key, found in groups.items()]


def _parent(name: str) -> str:
    """``A::B`` of ``A::B::test[x::y]``."""
    plain, bracket, _ = name.partition("[")
    if bracket and "::" not in plain:
        return ""
    return plain.rpartition("::")[0]


def longest_first(found: Iterable[Unit], durations: Mapping[str, float]) -> list[Unit]:
    """In the order in which they are best begun: what takes longest must not be begun last.

    Args:
        found: The units.
        durations: Seconds that tests took before, by their ids. A test that nothing is known about counts as much as
            those of which something is known do on average.
    """
    known = list(durations.values())
    usual = sum(known) / len(known) if known else 1.0

    def expected(unit: Unit) -> float:
        return sum(durations.get(item.id, usual) for item in unit.items)

    return sorted(found, key=expected, reverse=True)  # stable: else as they were found
