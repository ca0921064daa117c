"""Types of columns: what a record holds goes into both databases and comes back equal. Floor: control.

Text may hold what PostgreSQL refuses (NUL) and what is no UTF-8 (lone surrogates), as code may print it. Those
characters are escaped by one that hardly anybody uses, so that equal stays equal and everything else is readable.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, get_args, get_type_hints

from sqlalchemy import DateTime, Dialect, String
from sqlalchemy.types import TypeDecorator, TypeEngine

from ipybox.control import json_text

_ESCAPE = "\x1a"
_HARD = re.compile("[\x00\x1a\ud800-\udfff]")
_ESCAPED = re.compile("\x1a([0-9a-f]{4})")
_HINTS: dict[type[Any], Mapping[str, Any]] = {}


def escaped(text: str) -> str:
    """Text that every database takes, different for different texts."""
    if "\0" not in text and _ESCAPE not in text and _is_encodable(text):  # each of them is quick, unlike what follows
        return text
    return _HARD.sub(lambda found: f"{_ESCAPE}{ord(found[0]):04x}", text)


def unescaped(text: str) -> str:
    """What :func:`escaped` was given."""
    if _ESCAPE not in text:
        return text
    return _ESCAPED.sub(lambda found: chr(int(found[1], 16)), text)


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


class EscapedText(TypeDecorator[str]):
    """Any string at all. Sorted by code points on both databases, whatever the locale of their machine."""

    impl = String
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[str]:
        return dialect.type_descriptor(String(collation="C") if dialect.name == "postgresql" else String())

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else escaped(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else unescaped(value)


class JsonText(TypeDecorator[Any]):
    """What ``json.loads`` gives, None included; as text, since ``jsonb`` knows neither NUL nor NaN nor an order."""

    impl = EscapedText
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str:
        return _dumped(dict(value) if isinstance(value, Mapping) else value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> Any:
        return None if value is None else json.loads(value)


class LargeJson(JsonText):
    """The same; what is large stays text, a :class:`~ipybox.control.json_text.JsonText`, both ways."""

    cache_ok = True

    def process_result_value(self, value: str | None, dialect: Dialect) -> Any:
        if value is None or len(value) <= json_text.LARGE:
            return super().process_result_value(value, dialect)
        return json_text.JsonText(value)


class Facts(TypeDecorator[Any]):
    """A dataclass of :mod:`ipybox.control.records`, a tuple of them, or None.

    Args:
        kind: The class.
        many: Whether it is a tuple.
    """

    impl = EscapedText
    cache_ok = True

    def __init__(self, kind: type[Any], many: bool = False) -> None:
        self.kind, self.many = kind, many
        super().__init__()

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        return None if value is None else _dumped(_plain(value))

    def process_result_value(self, value: str | None, dialect: Dialect) -> Any:
        if value is None:
            return None
        found = json.loads(value)
        return tuple(_fact(self.kind, each) for each in found) if self.many else _fact(self.kind, found)


class Texts(TypeDecorator[tuple[str, ...]]):
    """A tuple of strings."""

    impl = EscapedText
    cache_ok = True

    def process_bind_param(self, value: tuple[str, ...] | None, dialect: Dialect) -> str | None:
        return None if value is None else _dumped(list(value))

    def process_result_value(self, value: str | None, dialect: Dialect) -> tuple[str, ...] | None:
        return None if value is None else tuple(json.loads(value))


class Choice(TypeDecorator[Any]):
    """A member of an enumeration, by its value."""

    impl = EscapedText
    cache_ok = True

    def __init__(self, kind: type[StrEnum]) -> None:
        self.kind = kind
        super().__init__()

    def process_bind_param(self, value: StrEnum | None, dialect: Dialect) -> str | None:
        return None if value is None else self.kind(value).value

    def process_result_value(self, value: str | None, dialect: Dialect) -> StrEnum | None:
        return None if value is None else self.kind(value)


class UtcTime(TypeDecorator[datetime]):
    """An aware time, kept in UTC to the microsecond. Raises :class:`ValueError` for one without a time zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.utcoffset() is None:
            raise ValueError(f"a time without a time zone: {value}")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.replace(tzinfo=UTC)  # both give UTC, and SQLite does not say so


def _dumped(value: Any) -> str:
    return json_text.dumped(value)


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return {each.name: _plain(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    if isinstance(value, Mapping):
        return dict(value)
    return value.isoformat() if isinstance(value, datetime) else value


def _fact(kind: type[Any], found: Mapping[str, Any]) -> Any:
    """What a later version has left out of the class is not missed."""
    hints = _HINTS.get(kind) or _HINTS.setdefault(kind, get_type_hints(kind))
    return kind(**{name: _typed(hints[name], value) for name, value in found.items() if name in hints})


def _typed(hint: Any, value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_typed(get_args(hint)[0], each) for each in value)
    if is_dataclass(hint) and isinstance(value, dict):
        return _fact(hint, value)  # type: ignore[arg-type]
    return datetime.fromisoformat(value) if hint is datetime else value
