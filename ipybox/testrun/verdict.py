"""What became of the tests of one sandbox, from what it told and from how it ended. Pure. Floor: testrun."""

from __future__ import annotations

import signal as signals
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

from ipybox.exit_status import ExitStatus
from ipybox.testrun.model import CaseResult, Phase
from ipybox.testrun.outcome import Outcome
from ipybox.testrun.plan import Item, Unit

_TEXT = 70_000
"""Characters of each text that are taken from a sandbox."""
_TOLD = frozenset(
    (
        Outcome.PASSED,
        Outcome.FAILED,
        Outcome.ERROR,
        Outcome.SKIPPED,
        Outcome.XFAILED,
        Outcome.XPASSED,
        Outcome.OUT_OF_MEMORY,
    )
)
"""What a sandbox can say itself; the rest is for those outside of it to say."""


@dataclass
class Account:
    """Follows one sandbox.

    Attributes:
        unit: What it was asked to run.
        results: What it has told so far, by id.
        running: The test that has begun and not come to its end.
        is_complete: Whether it said that there is no more to come.
    """

    unit: Unit
    results: dict[str, CaseResult] = field(default_factory=dict)
    running: str | None = None
    is_complete: bool = False
    _reasons: list[str] = field(default_factory=list)
    _output: dict[str, str] = field(default_factory=dict)
    _items: dict[str, Item] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._items = {item.id: item for item in self.unit.items}

    def take(self, message: Mapping[str, Any]) -> CaseResult | None:
        """Takes one message; returns the result that is in it, if one is."""
        match message.get("kind"):
            case "start":
                self.running = str(message["id"])
            case "result" if message.get("id") == self.running:
                self.running = None
                return self._result(message)
            case "not_collected":
                self._reasons.append(str(message["details"]))
                self._output = {name: str(message.get(name, "")) for name in ("stdout", "stderr")}
            case "end":
                self.is_complete = True
        return None

    def _result(self, message: Mapping[str, Any]) -> CaseResult | None:
        item = self._item(str(message["id"]))
        if item is None:
            return None
        outcome = Outcome(message["outcome"])
        phase = message.get("phase", "")
        result = _case(
            item,
            outcome if outcome in _TOLD else Outcome.ERROR,
            phase=phase if phase in get_args(Phase) else "",
            message=str(message.get("message", "")),
            details=str(message.get("details", "")),
            stdout=str(message.get("stdout", "")),
            stderr=str(message.get("stderr", "")),
            duration=float(message.get("duration", 0.0)),
        )
        self.results[item.id] = result
        return result

    def _item(self, name: str) -> Item | None:
        return self._items.get(name)

    @property
    def pending(self) -> tuple[Item, ...]:
        """The tests without a result."""
        return tuple(item for item in self.unit.items if item.id not in self.results)

    @property
    def was_not_found(self) -> bool:
        """Whether it ended in order, said nothing against it, and yet some tests were not there."""
        return self.is_complete and bool(self.pending) and not self._reasons and not self.results

    def close(
        self,
        status: ExitStatus,
        *,
        from_outside: bool = False,
        timed_out: float | None = None,
        tampered: bool = False,
        stdout: str = "",
        stderr: str = "",
    ) -> tuple[CaseResult, ...]:
        """Says what became of those that the sandbox itself said nothing of, as far as its end tells.

        Those that had not begun when another one ended the sandbox stay pending: they have a claim to one of their own.

        Args:
            status: How it ended.
            from_outside: Whether neither its code nor we did that.
            timed_out: Seconds after which we ended it, if so.
            tampered: Whether something else than reports came on its private line.
            stdout: The last that it wrote there.
            stderr: The last that it wrote there.
        """
        running = self._item(self.running) if self.running is not None else None
        if running is None and self.results and not self._reasons:
            return ()  # those that have run ended it for the others
        culprits = (running,) if running is not None else self.pending
        phase: Phase = "call" if running is not None else "collect"
        facts: dict[str, Any] = {}
        if tampered:
            outcome, message = Outcome.ERROR, "it wrote to the line on which results are reported: nothing is known"
            phase = "call"
        elif timed_out is not None:
            what = "" if running is not None else "importing its file "
            outcome, message = Outcome.TIMEOUT, f"{what}took longer than {timed_out:g} s"
        elif from_outside:
            outcome, message = Outcome.INFRASTRUCTURE_ERROR, "its sandbox was ended from outside"
        elif status.reason == "memory":
            outcome, message = Outcome.OUT_OF_MEMORY, status.detail
            facts = {"signal": status.signal}
        elif self.is_complete and running is not None:
            outcome, message = Outcome.ERROR, "the session ended before there was a result"
            facts = {"details": "\n".join(self._reasons)}
        elif self.is_complete:
            outcome, message = Outcome.ERROR, _first_line(self._reasons) or "it was not found in a fresh sandbox"
            facts = {"details": "\n".join(self._reasons), **self._output}
            phase = "collect"
        elif status.signal is not None:
            outcome, message = Outcome.CRASHED, f"its process was ended by {_name(status.signal)}"
            facts = {"signal": status.signal}
        else:
            message = f"its process exited with {status.code} before there was a result"
            outcome, facts = Outcome.CRASHED, {"exit_code": status.code}
        texts = {"stdout": stdout, "stderr": stderr, **facts}
        found = tuple(_case(item, outcome, phase=phase, message=message, **texts) for item in culprits)
        self.results.update((result.id, result) for result in found)
        return found


def infrastructure_error(item: Item, reason: str) -> CaseResult:
    """Of a test that there was no sandbox for."""
    return _case(item, Outcome.INFRASTRUCTURE_ERROR, message=reason)


def not_collected(message: Mapping[str, Any]) -> CaseResult:
    """Of a file that can't be imported."""
    details = str(message.get("details", ""))
    name = str(message["id"])
    return _case(
        Item(name, name),
        Outcome.ERROR,
        phase="collect",
        message=_first_line([details]) or "it can't be collected",
        details=details,
        stdout=str(message.get("stdout", "")),
        stderr=str(message.get("stderr", "")),
    )


def skipped_file(message: Mapping[str, Any]) -> CaseResult:
    """Of a file that is skipped as a whole."""
    name, reason = str(message["id"]), str(message.get("message", ""))
    return _case(Item(name, name), Outcome.SKIPPED, phase="collect", message=reason.removeprefix("Skipped: "))


def _case(item: Item, outcome: Outcome, **facts: Any) -> CaseResult:
    for name in ("message", "details", "stdout", "stderr"):
        text = facts.get(name, "")
        if len(text) > _TEXT:
            facts[name] = text[-_TEXT:]
    return CaseResult(id=item.id, outcome=outcome, file=item.file, line=item.line, **facts)


def _first_line(texts: list[str]) -> str:
    """What went wrong, in one line: the first one that pytest marks, but for the place of a syntax error."""
    lines = [line.rstrip() for text in texts for line in text.splitlines() if line.strip()]
    marked = [line.removeprefix("E ").strip() for line in lines if line.startswith("E ")]
    if marked and marked[0].startswith('File "'):
        return next((line for line in marked if line.partition(":")[0].endswith("Error")), marked[0])
    return (marked or [line.strip() for line in lines[-1:]] or [""])[0]


def _name(number: int) -> str:
    try:
        return signals.Signals(number).name
    except ValueError:
        return f"signal {number}"
