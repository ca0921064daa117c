"""What running one command gave. Floor: command."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

StopReason = Literal["wall", "idle", "memory", "cancelled", "signal"]
"""Why a command did not end by itself: its wall-clock time, silence, its memory, the caller, or a signal."""

_DEFAULTS: dict[str, Any] = {
    "stdout": "",
    "stderr": "",
    "exit_code": 0,
    "duration": 0.0,
    "timed_out": False,
    "truncated_stdout": False,
    "truncated_stderr": False,
}
TIMED_OUT, NOT_EXECUTABLE, NOT_FOUND, SIGNALLED = 124, 126, 127, 128
"""Exit codes by the convention of shells and timeout(1); a signal N gives ``SIGNALLED + N``."""


@dataclass(frozen=True, slots=True)
class ExecResult:
    """What running one command gave.

    Attributes:
        stdout: What it wrote, as text: UTF-8, with U+FFFD for what is not. Where ``bytes`` are given, they are kept
            in ``stdout_bytes``.
        stderr: The same for stderr.
        exit_code: Its exit code; 124 timed out, 126 not executable, 127 not found, 128+N ended by signal N.
        duration: Seconds from start to end.
        timed_out: Whether it was stopped for the time it took.
        truncated_stdout: Whether ``stdout`` is only the last part of what it wrote.
        truncated_stderr: The same for stderr.
        stop_reason: Why it did not end by itself; None when it did, or when nobody can tell.
        stdout_bytes: Exactly what it wrote. Where that can't be what became ``stdout``, it is made from that.
        stderr_bytes: The same for stderr.
    """

    stdout: str = ""
    stderr: str = ""
    exit_code: int = 0
    duration: float = 0.0
    timed_out: bool = False
    truncated_stdout: bool = False
    truncated_stderr: bool = False
    stop_reason: StopReason | None = None
    stdout_bytes: bytes = field(default=b"", kw_only=True, repr=False)
    stderr_bytes: bytes = field(default=b"", kw_only=True, repr=False)

    def __post_init__(self) -> None:
        for name in ("stdout", "stderr"):
            value: Any = getattr(self, name)
            if not isinstance(value, str | bytes):
                raise TypeError(f"{name} must be a str or bytes, got {value!r}")
            raw = value if isinstance(value, bytes) else getattr(self, f"{name}_bytes")
            if isinstance(value, str) and raw.decode("utf-8", "replace") != value:
                raw = _encoded(name, value)
            object.__setattr__(self, name, raw.decode("utf-8", "replace"))
            object.__setattr__(self, f"{name}_bytes", raw)
        code: Any = self.exit_code
        seconds: Any = self.duration
        if not isinstance(code, int) or isinstance(code, bool):
            raise TypeError(f"exit_code must be an int, got {code!r}")
        if not isinstance(seconds, int | float) or isinstance(seconds, bool):
            raise TypeError(f"duration must be a number of seconds, got {seconds!r}")
        if not 0 <= seconds <= sys.float_info.max:  # NaN is not
            raise ValueError(f"duration must be a finite number of seconds, not negative, got {seconds!r:.30}")
        for name in ("timed_out", "truncated_stdout", "truncated_stderr"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name} must be True or False, got {getattr(self, name)!r}")
        if self.stop_reason is not None and self.stop_reason not in get_args(StopReason):
            raise ValueError(f"stop_reason must be one of {', '.join(get_args(StopReason))}, got {self.stop_reason!r}")
        if self.stop_reason is not None and self.timed_out is not (self.stop_reason in ("wall", "idle")):
            raise ValueError(f"timed_out={self.timed_out} contradicts stop_reason={self.stop_reason!r}")

    @property
    def success(self) -> bool:
        """Whether it ended with 0, and was not stopped for its time."""
        return self.exit_code == 0 and not self.timed_out

    @property
    def combined_output(self) -> str:
        """Stdout, then stderr; on a line of its own where there are both."""
        return "\n".join(text for text in (self.stdout, self.stderr) if text)

    def to_dict(self) -> dict[str, Any]:
        """Its facts and ``success``, as JSON takes them; without ``stop_reason`` and without what is no text."""
        return {**{name: getattr(self, name) for name in _DEFAULTS}, "success": self.success}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ExecResult:
        """Reads what :meth:`to_dict` gave, or some of it: what is missing has its default.

        Raises:
            TypeError, ValueError: Something in it makes no sense, or is no key of it.
        """
        if not isinstance(data, Mapping):
            raise TypeError(f"a result must be a mapping, got {data!r}")
        known = [*_DEFAULTS, "success"]
        for key in data:
            if key not in known:
                near = difflib.get_close_matches(str(key), known, 1)
                meant = f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(known)}"
                raise ValueError(f"{key!r} is no key of a result{meant}")
        result = cls(**{key: value for key, value in data.items() if key != "success"})
        if "success" in data and data["success"] is not result.success:
            raise ValueError(f"success={data['success']!r} contradicts the rest, which says {result.success}")
        return result


def _encoded(name: str, text: str) -> bytes:
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise ValueError(f"{name} is no text that UTF-8 can hold: {error.reason} at {error.start}") from None
