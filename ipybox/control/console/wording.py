"""Times, sizes and names as people read them. Pure. Floor: control."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, urlencode

from ipybox.control.json_text import LARGE, JsonText
from ipybox.control.states import ExecutionStatus, InstallStatus, SessionStatus
from ipybox.testrun.visible_text import visible, visible_line

_STEPS = ((86400, "d"), (3600, "h"), (60, "min"))
_UNITS = ("KiB", "MiB", "GiB", "TiB")
_LOOKS = {
    SessionStatus.CREATING: "busy",
    SessionStatus.RUNNING: "good",
    SessionStatus.COMPLETED: "quiet",
    SessionStatus.FAILED: "bad",
    SessionStatus.TIMEOUT: "quiet",
    SessionStatus.TERMINATED: "quiet",
}
_EXECUTION_LOOKS = {
    ExecutionStatus.PENDING: "busy",
    ExecutionStatus.RUNNING: "busy",
    ExecutionStatus.COMPLETED: "good",
    ExecutionStatus.FAILED: "bad",
    ExecutionStatus.TIMEOUT: "warn",
    ExecutionStatus.CRASHED: "bad",
}
_WORD_LOOKS = {
    "healthy": "good",
    "active": "good",
    "warm": "good",
    "warming up": "busy",
    "degraded": "warn",
    "draining": "warn",
    "unhealthy": "bad",
    "failed": "bad",
    "revoked": "bad",
    "expired": "warn",
    InstallStatus.INSTALLING: "busy",
    InstallStatus.PENDING: "busy",
    InstallStatus.COMPLETED: "good",
}


def ago(then: datetime, now: datetime | None = None) -> str:
    """Such as ``3 min ago`` or ``in 2 h``."""
    seconds = ((now or datetime.now(UTC)) - then).total_seconds()
    size = abs(seconds)
    if size < 1:
        return "now"
    text = f"{int(size)} s"
    for step, unit in _STEPS:
        if size >= step:
            text = f"{int(size // step)} {unit}"
            break
    return f"{text} ago" if seconds > 0 else f"in {text}"


def moment(then: datetime) -> str:
    """The time itself, in UTC."""
    return f"{then.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def seconds(value: float) -> str:
    """A duration: ``12 ms``, ``3.4 s``, ``2 min 5 s``."""
    if not math.isfinite(value):
        return "-"
    if value < 1:
        return f"{value * 1000:.0f} ms"
    if value < 60:
        return f"{value:.1f}".removesuffix(".0") + " s"
    minutes, rest = divmod(int(value), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    return f"{hours // 24} d {hours % 24} h"


def size(count: int) -> str:
    """Bytes: ``512 B``, ``1.5 MiB``."""
    if count < 1024:
        return f"{count} B"
    power = min((count.bit_length() - 1) // 10, len(_UNITS))
    value = count / 1024**power
    return f"{value:.0f} {_UNITS[power - 1]}" if value == int(value) else f"{value:.1f} {_UNITS[power - 1]}"


def look(status: str) -> str:
    """Class of the badge of a status, which says it in words as well."""
    if isinstance(status, SessionStatus):
        return _LOOKS[status]
    if isinstance(status, ExecutionStatus):
        return _EXECUTION_LOOKS[status]
    return _WORD_LOOKS.get(status, "quiet")


def pretty(value: Any) -> str:
    """JSON as one reads it, or the beginning of what is large; what characters mislead is escaped."""
    if isinstance(value, JsonText):
        return f"{visible(value.text[:LARGE])}\n... and {len(value.text) - LARGE} characters more"
    return visible(json.dumps(value, indent=2, ensure_ascii=False))


def words(value: Any) -> str:
    """A word of a program's own, such as ``server_restarted``, as people write it."""
    return str(value).replace("_", " ")


def url(*parts: str, **query: Any) -> str:
    """A URL of the console; each part is percent-encoded as a whole, and what is None or empty is left out."""
    path = "/".join(["/console", *(quote(part, safe="") for part in parts)])
    asked: list[tuple[str, str]] = []
    for name, value in query.items():
        asked += [(name, str(each)) for each in (value if isinstance(value, list | tuple) else [value]) if each]
    return f"{path}?{urlencode(asked, quote_via=quote, safe='')}" if asked else path


FILTERS: Mapping[str, Any] = {
    "ago": ago,
    "moment": moment,
    "seconds": seconds,
    "size": size,
    "look": look,
    "pretty": pretty,
    "words": words,
    "visible": visible,
    "line": visible_line,
}
