"""The hostile tests, what is to become of them, and projects that are made of them.

They are in ``adversarial``, as ordinary data: nothing there is called like a test. Above each test is what it is to be
told as::

    # = outcome in phase: part of the message [signal N]

and what is left out there may be anything, but for the phase of a success, which has none.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from ipybox.testrun.model import CaseResult

_ALL = Path(__file__).with_name("adversarial")
_EXPECTED = re.compile(r"# (=|or) (\w+)(?: in (\w+))?(?:: (.*?))?(?: \[(signal|exit) (\d+)\])?$")
_TEST = re.compile(r"\s*(?:async )?def (test_\w+)")


@dataclass(frozen=True)
class Hostile:
    """A test, and what is to become of it.

    Attributes:
        file: Its file, relative to the project.
        name: Its function.
        outcome: What it is to be told as.
        phase: In which phase; empty for any.
        message: Part of the message.
        signal: By which signal it ended.
        exit_code: What it exited with.
        other: What it may be told as as well, where that depends on the version of Python, on installed plugins, or on
            which of two limits is met first.
    """

    file: str
    name: str
    outcome: str
    phase: str = ""
    message: str = ""
    signal: int | None = None
    exit_code: int | None = None
    other: Hostile | None = None

    def is_about(self, result: CaseResult) -> bool:
        """Whether a result is one of this test's."""
        file, _, rest = result.id.partition("::")
        return file == self.file and rest.partition("[")[0].rpartition("::")[2] == self.name

    def check(self, result: CaseResult) -> None:
        """Asserts that a result says the truth."""
        told = f"{result.outcome} in {result.phase}: {result.message[:300]}"
        if self.other is not None and result.outcome == self.other.outcome and self.other.message in result.message:
            self.other.check(result)
            return
        assert result.outcome == self.outcome, told
        assert result.phase == self.phase or not self.phase, told
        assert not result.phase or not result.outcome.is_success, told
        assert self.message in result.message, told
        assert self.signal is None or result.signal == self.signal, told
        assert self.exit_code is None or result.exit_code == self.exit_code, told
        assert result.attempts == 1, told


def hostile(kind: str) -> list[Hostile]:
    """All of one directory."""
    found = []
    for source in _sources(kind):
        expected: list[Hostile] = []
        for line in source.read_text(encoding="utf-8").splitlines():
            said = _EXPECTED.match(line.strip())
            if said is not None:
                sign, outcome, phase, message, fact, number = said.groups()
                one = Hostile(
                    file=_name(source),
                    name="",
                    outcome=outcome,
                    phase=phase or "",
                    message=message or "",
                    signal=int(number) if fact == "signal" else None,
                    exit_code=int(number) if fact == "exit" else None,
                )
                expected = [one] if sign == "=" else [*expected, one]
            test = _TEST.match(line)
            if test is None or not expected:
                continue
            other = replace(expected[1], name=test[1]) if len(expected) > 1 else None
            found.append(replace(expected[0], name=test[1], other=other))
            expected = []
    return found


def make_project(directory: Path, kind: str) -> None:
    """Writes the files of one directory, under names that are those of tests."""
    # A plugin of ours for other tests, which wraps every call of a test: what is replaced is then told in other words.
    (directory / "pytest.ini").write_text("[pytest]\naddopts = -p no:schemathesis\n")
    for source in _sources(kind):
        (directory / _name(source)).write_bytes(source.read_bytes())


def _sources(kind: str) -> list[Path]:
    return sorted(path for path in (_ALL / kind).glob("*.py") if path.name != "__init__.py")


def _name(source: Path) -> str:
    return "conftest.py" if source.name == "conftest_.py" else f"test_{source.name}"
