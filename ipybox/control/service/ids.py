"""Names of sessions and executions, as the model has them. Floor: control."""

from __future__ import annotations

import hashlib
import secrets
from datetime import UTC, datetime

_DIGITS = "abcdefghijklmnopqrstuvwxyz0123456789"


def now() -> datetime:
    """The time, aware, in UTC."""
    return datetime.now(UTC)


def session_id() -> str:
    """Such as ``sess_20261121_k3v9x0qa``."""
    return f"sess_{now():%Y%m%d}_{_random(8)}"


def execution_id() -> str:
    """Such as ``exec_20261121174500_k3v9x0qa``."""
    return f"exec_{now():%Y%m%d%H%M%S}_{_random(8)}"


def planned_id(kind: str, owner: str, key: str) -> str:
    """The name of what a request with an idempotency key makes: the same one whenever it is asked again.

    So that a server that was killed after it made something, and before it noted the answer, finds it again.
    """
    number = int.from_bytes(hashlib.sha256(f"{kind}\0{owner}\0{key}".encode()).digest(), "big")
    text = ""
    while len(text) < 24:
        number, digit = divmod(number, len(_DIGITS))
        text += _DIGITS[digit]
    return f"{kind}_{text}"


def _random(length: int) -> str:
    return "".join(secrets.choice(_DIGITS) for _ in range(length))
