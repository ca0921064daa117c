"""Times that something took, as numbers that can be counted with and as text. Floor: testrun."""

from __future__ import annotations

import math


def finite(value: float) -> float:
    """The value, or 0 for what is no time at all: what is negative, infinite or no number."""
    return float(value) if math.isfinite(value) and value > 0 else 0.0


def shown(value: float) -> str:
    """The value for people, such as ``35 ms``, ``1.20 s`` or ``2 min 5 s``."""
    seconds = finite(value)
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.995:
        return f"{seconds:.2f} s" if seconds < 9.995 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
