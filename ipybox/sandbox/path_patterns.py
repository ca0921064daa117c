"""Patterns such as ``**/.env`` and what they match in a tree: completely, or not at all. Floor: sandbox.

``*`` is any text within one component, ``**`` any number of components; nothing else is special. A pattern that ends in
``/**`` is the directory before it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ipybox.errors import PolicyError

SCAN_ENTRIES = 200_000
"""How many directory entries all patterns of a policy together may have to be compared with."""

States = frozenset[int]
"""How many components of a pattern a path may have used up."""


def is_pattern(path: str) -> bool:
    """True if a path is a pattern, not one file."""
    return "*" in path


def split_pattern(path: str) -> tuple[str, str]:
    """Splits at the last component before any ``*``: what is plain, what is not."""
    parts = path.split("/")
    plain = next(index for index, part in enumerate(parts) if is_pattern(part))
    return "/".join(parts[:plain]) or ("/" if path.startswith("/") else ""), "/".join(parts[plain:])


class Pattern:
    """One pattern, relative to some directory. Raises ``ValueError`` for one that climbs out of it."""

    def __init__(self, text: str) -> None:
        self.text = text
        parts = [part for part in text.split("/") if part not in ("", ".")]
        if ".." in parts:
            raise ValueError("'..' after a '*'")
        while parts and parts[-1] == "**":
            parts.pop()
        self._parts = [None if part == "**" else _component(part) for part in parts]
        self.start: States = self._with_empty(frozenset({0}))

    @property
    def anywhere(self) -> bool:
        """True if it matches at any depth."""
        return self._parts[:1] == [None]

    def step(self, states: States, name: str) -> States:
        """How far the pattern is after one more component."""
        after = set()
        for state in states:
            if state == len(self._parts):
                continue
            part = self._parts[state]
            if part is None:
                after.add(state)
            elif part.fullmatch(name):
                after.add(state + 1)
        return self._with_empty(frozenset(after))

    def walk(self, relative: str, states: States | None = None) -> States:
        """How far the pattern is after a relative path."""
        states = self.start if states is None else states
        for name in relative.split("/") if relative not in ("", ".") else ():
            states = self.step(states, name)
        return states

    def accepts(self, states: States) -> bool:
        """True if these states are a match."""
        return len(self._parts) in states

    def _with_empty(self, states: States) -> States:
        """Adds what is reached without a component, as ``**`` may be nothing."""
        reached = set(states)
        for state in states:
            while state < len(self._parts) and self._parts[state] is None:
                state += 1
                reached.add(state)
        return frozenset(reached)


def _component(text: str) -> re.Pattern[str]:
    return re.compile(".*".join(re.escape(part) for part in re.split(r"\*+", text)), re.DOTALL)


@dataclass
class Scan:
    """Looks for what patterns match, within one budget of directory entries.

    Args:
        inside: Links are followed only to places at or below these directories.
        skip: Directories that are not looked into.
        limit: More entries than that are a :class:`PolicyError`.
    """

    inside: tuple[str, ...]
    skip: tuple[str, ...] = ()
    limit: int = SCAN_ENTRIES
    seen: int = field(default=0, init=False)

    def matches(self, base: str, patterns: Sequence[tuple[Pattern, States]], where: str) -> Iterator[str]:
        """Every path at or below ``base`` that one of the patterns matches, but nothing below a match.

        Args:
            base: A directory without links in its path.
            patterns: Patterns, and how far each of them is at ``base``.
            where: What is to be blamed when there is too much to look at.

        Links to directories are looked into once, where a pattern would match something there that it does not match
        at the place itself.
        """
        links: set[str] = set()
        starts = dict(patterns)
        pending = [(base, list(patterns))]
        if any(pattern.accepts(states) for pattern, states in patterns):
            yield base
            return
        while pending:
            directory, progress = pending.pop()
            entries = self._entries(directory, where)
            if entries is None:
                yield directory
                continue
            for entry in entries:
                after = [(pattern, pattern.step(states, entry.name)) for pattern, states in progress]
                after = [(pattern, states) for pattern, states in after if states]
                if not after:
                    continue
                if any(pattern.accepts(states) for pattern, states in after):
                    yield entry.path
                elif entry.is_dir(follow_symlinks=False):
                    if not is_below(entry.path, self.skip):
                        pending.append((entry.path, after))
                elif entry.is_symlink() and entry.path not in links:
                    links.add(entry.path)
                    real = os.path.realpath(entry.path)
                    if os.path.isdir(real) and is_below(real, self.inside) and not is_below(real, self.skip):
                        pending.append((real, [each for each in after if not _met(base, real, starts, *each)]))

    def _entries(self, directory: str, where: str) -> list[os.DirEntry[str]] | None:
        """What is in a directory; None when that can't be seen, and sandboxed code could change that."""
        try:
            found = entries_of(directory, where)
        except PermissionError:
            return None
        self.seen += len(found)
        if self.seen > self.limit:
            raise PolicyError(
                where,
                f"more than {self.limit} files and directories would have to be compared with it",
                "start the pattern in a smaller directory, or name the paths",
            )
        return found


def entries_of(directory: str, where: str) -> list[os.DirEntry[str]]:
    """What is in a directory; nothing for one that is gone, or that neither we nor sandboxed code may read.

    Args:
        where: What is to be blamed for a directory that can't be looked into.

    Raises:
        PermissionError: It is closed, but its owner, who sandboxed code is as well, may open it.
        PolicyError: It can't be looked into, for a reason that may not hold inside.
    """
    try:
        with os.scandir(directory) as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except PermissionError:
        if _owner(directory) == os.geteuid():
            raise
        return []
    except OSError as error:
        raise PolicyError(where, f"{directory!r} can't be looked into: {error.strerror}", "move it away") from error


def _owner(path: str) -> int:
    try:
        return os.lstat(path).st_uid
    except OSError:
        return os.geteuid()  # not even that can be seen


def is_below(path: str, directories: Iterable[str]) -> bool:
    """True if a path is one of these directories, or lies in one of them. All of them without ``.`` and links."""
    return any(path == each or path.startswith(each.rstrip("/") + "/") for each in directories)


def _met(base: str, real: str, starts: Mapping[Pattern, States], pattern: Pattern, states: States) -> bool:
    """True if the scan of ``base`` comes to the end of a link anyway, with nothing lost."""
    return is_below(real, [base]) and states <= pattern.walk(os.path.relpath(real, base), starts[pattern])
