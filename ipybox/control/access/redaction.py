"""Takes out of what is written down what belongs in no log: keys, passwords, environments, code. Floor: control."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

HIDDEN = "[hidden]"
"""What stands in the place of a secret."""

SECRET_NAMES = frozenset(
    {
        "access_key",
        "api_key",
        "apikey",
        "authorization",
        "body",
        "code",
        "cookie",
        "database_url",
        "default_env_vars",
        "env_vars",
        "environment",
        "event",
        "password",
        "proxy_authorization",
        "secret",
        "secret_access_key",
        "secret_hash",
        "secret_key",
        "session_token",
        "set_cookie",
        "token",
        "workspace_url",
        "x_api_key",
    }
)
"""Names of fields whose value is never written, whatever it is."""

_DEEPEST = 6
_MOST_ITEMS = 100
_LONGEST = 16_000
_LONGEST_URL = 1000
_KEY = re.compile(r"(ipybox_[a-z2-7]{12})_[A-Za-z0-9]+", re.IGNORECASE)
_LOOSE_KEY = re.compile(r"(ipybox_[A-Za-z0-9]{1,40})_[A-Za-z0-9]{16,}")
_URL_PASSWORD = re.compile(r"([A-Za-z][A-Za-z0-9+.-]{0,30}://)[^\s\"<>]{0,500}@")
_HEADER = re.compile(
    r"((?:proxy-)?authorization|x-api-key|(?:set-)?cookie)(['\"\\]*\s*[:=,]\s*\(?b?['\"\\]*)"
    r"(?!\[hidden\])(?:(?:bearer|basic|digest|token)\s+)?[^\s'\"\\,;)}\]]+",
    re.IGNORECASE,
)
_BEARER = re.compile(r"\b(bearer|basic)(\s+)[A-Za-z0-9._~+/=-]{12,}", re.IGNORECASE)
_PARAMETER = re.compile(
    r"\b((?:x-amz-(?:signature|security-token|credential)|password|passwd|secret|token|api_key|apikey|secret_access_key)=)"
    r"[^&\s'\"]+",
    re.IGNORECASE,
)
_ENVIRONMENT = re.compile(r"(env_vars['\"\\]*\s*[:=]\s*)(?:mappingproxy\()?\{.*", re.IGNORECASE | re.DOTALL)
"""To the end of the text, as values may hold braces and quotes of their own."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def redacted_text(text: str) -> str:
    """The text without what looks like a key of ours, a password in a URL, a credential, or an environment."""
    text = redacted_line(text)
    text = _HEADER.sub(rf"\1\2{HIDDEN}", text)
    text = _PARAMETER.sub(rf"\1{HIDDEN}", text)
    return _ENVIRONMENT.sub(rf"\1{HIDDEN}", text)


def redacted_line(text: str) -> str:
    """The same for a finished line, which stays JSON if it is: only keys, passwords in URLs and bearer tokens."""
    if "ipybox_" in text.lower():
        text = _LOOSE_KEY.sub(rf"\1_{HIDDEN}", _KEY.sub(rf"\1_{HIDDEN}", text))
    if "://" in text:
        text = _URL_PASSWORD.sub(rf"\1{HIDDEN}@", text)
    return _BEARER.sub(rf"\1\2{HIDDEN}", text)


def redacted(value: Any, *, deepest: int = _DEEPEST) -> Any:
    """The value with nothing secret in it, as plain data: what is none of JSON becomes text."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return _cut(value)
    if isinstance(value, bytes):
        return _cut(value[: _LONGEST + _LONGEST_URL].decode("utf-8", "backslashreplace"))
    if deepest <= 0:
        return "…"
    if isinstance(value, Mapping):
        return {
            redacted_text(str(name)): HIDDEN if is_secret_name(str(name)) else redacted(each, deepest=deepest - 1)
            for name, each in list(value.items())[:_MOST_ITEMS]
        }
    if isinstance(value, list | tuple | set | frozenset):
        return [redacted(each, deepest=deepest - 1) for each in list(value)[:_MOST_ITEMS]]
    return _cut(str(value))


def is_secret_name(name: str) -> bool:
    """Whether the value of a field of that name is never written."""
    return name.lower().replace("-", "_") in SECRET_NAMES


def printable(text: str) -> str:
    r"""The text on one line: what breaks lines, moves a cursor or turns writing around is shown as ``\x0a``."""
    return _CONTROL.sub(_escaped, text)


def _cut(text: str) -> str:
    # A little more is looked at than is kept, so that no password is cut off from the '@' by which it is known.
    shown = redacted_text(text[: _LONGEST + _LONGEST_URL])
    return shown if len(shown) <= _LONGEST else f"{shown[:_LONGEST]}…"


def _escaped(match: re.Match[str]) -> str:
    number = ord(match[0])
    return f"\\x{number:02x}" if number < 256 else f"\\u{number:04x}"
