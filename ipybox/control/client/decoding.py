"""JSON of a server as dataclasses: checked, and tolerant of what newer servers say besides. Floor: control."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import MISSING, fields
from datetime import datetime
from functools import cache
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


class UnexpectedAnswerError(ValueError):
    """An answer is not what it should be; says where."""


def decoded(kind: type[T], data: Any, where: str = "answer") -> T:
    """An object of a dataclass from what ``json.loads`` gave.

    Fields that the dataclass does not have are ignored. Raises :class:`UnexpectedAnswerError` for a field that is
    missing and has no default, or that is of another type.
    """
    value: T = _object(kind, data, where)
    return value


@cache
def _shape(kind: type) -> dict[str, tuple[Any, bool]]:
    hints = get_type_hints(kind)
    return {
        each.name: (hints[each.name], each.default is MISSING and each.default_factory is MISSING)
        for each in fields(kind)
    }


def _object(kind: Any, data: Any, where: str) -> Any:
    if not isinstance(data, dict):
        raise UnexpectedAnswerError(f"{where} should be an object, and is {_named(data)}")
    values = {}
    for name, (hint, is_needed) in _shape(kind).items():
        if name in data:
            values[name] = _value(hint, data[name], f"{where}.{name}")
        elif is_needed:
            raise UnexpectedAnswerError(f"{where} has no {name!r}")
    return kind(**values)


def _value(hint: Any, data: Any, where: str) -> Any:
    if hint is Any:
        return data
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        if data is None and type(None) in arguments:
            return None
        (hint,) = (each for each in arguments if each is not type(None))
        return _value(hint, data, where)
    if origin is tuple:
        if isinstance(data, list):
            return tuple(_value(arguments[0], each, where) for each in data)
    elif origin is Mapping:
        if isinstance(data, dict):
            return {name: _value(arguments[1], each, f"{where}.{name}") for name, each in data.items()}
    elif hint is datetime:
        return _time(data, where)
    elif hint is float:
        if isinstance(data, int | float) and not isinstance(data, bool):
            return float(data)
    elif hint in (str, int, bool):
        if type(data) is hint:
            return data
    else:
        return _object(hint, data, where)
    raise UnexpectedAnswerError(f"{where} is {_named(data)}, which it should not be")


def _time(data: Any, where: str) -> datetime:
    try:
        return datetime.fromisoformat(data)
    except (TypeError, ValueError):
        raise UnexpectedAnswerError(f"{where} should be a time, and is {_named(data)}") from None


def _named(data: Any) -> str:
    return "null" if data is None else type(data).__name__
