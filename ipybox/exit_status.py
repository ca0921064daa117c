"""How a process ended, in one value that prints as a sentence. Floor: base."""

from __future__ import annotations

import signal as signals
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

ExitReason = Literal["exited", "signalled", "memory", "restarted", "unknown"]


def of_system_exit(code: object) -> int:
    """The exit code that ``raise SystemExit(code)`` leads to; 1 for what is no number, and is to be shown."""
    if code is None:
        return 0
    if not isinstance(code, int):
        return 1
    return code & 0xFF if code.bit_length() < 64 else 0xFF  # as CPython does it


@dataclass(frozen=True, slots=True)
class ExitStatus:
    """How a process ended.

    Attributes:
        reason: ``exited`` by itself; ``signalled``; ``memory`` when it was killed for the memory it used;
            ``restarted`` when somebody restarted it; ``unknown``.
        code: Exit code, for ``exited``.
        signal: Signal number, for ``signalled`` and ``memory``.
        detail: More about it in words, such as the limit that was hit.
    """

    reason: ExitReason
    code: int | None = None
    signal: int | None = None
    detail: str = ""

    @classmethod
    def from_returncode(cls, returncode: int) -> ExitStatus:
        """Reads a ``subprocess`` return code, where negative numbers are signals."""
        if returncode < 0:
            return cls("signalled", signal=-returncode)
        return cls("exited", code=returncode)

    def to_dict(self) -> dict[str, Any]:
        """The JSON shape in which a gateway tells its clients."""
        return {"reason": self.reason, "code": self.code, "signal": self.signal, "detail": self.detail}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ExitStatus:
        """Reads what :meth:`to_dict` wrote; anything unreadable is ``unknown``."""
        reason, code, signal = data.get("reason"), data.get("code"), data.get("signal")
        detail = str(data.get("detail") or "")
        code = code if type(code) is int else None
        signal = signal if type(signal) is int else None
        match reason:
            case "exited" if code is not None:
                return cls("exited", code=code, detail=detail)
            case "signalled" if signal is not None:
                return cls("signalled", signal=signal, detail=detail)
            case "memory":
                return cls("memory", signal=signal, detail=detail)
            case "restarted":
                return cls("restarted", detail=detail)
        return cls("unknown", detail=detail)

    @property
    def signal_name(self) -> str | None:
        """``SIGKILL`` and the like; None when no signal was involved."""
        if self.signal is None:
            return None
        try:
            return signals.Signals(self.signal).name
        except ValueError:
            return f"signal {self.signal}"

    def __str__(self) -> str:
        match self.reason:
            case "exited":
                text = f"exit code {self.code}"
            case "signalled":
                text = f"killed by {self.signal_name}"
            case "memory":
                text = "killed for its memory use"
            case "restarted":
                text = "restarted"
            case _:
                text = "gone for an unknown reason"
        return f"{text} ({self.detail})" if self.detail else text
