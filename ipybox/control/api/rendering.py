"""Answers that may be large, written in pieces with turns of others between them. Floor: control."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from fastapi.responses import Response
from pydantic import BaseModel, TypeAdapter

from ipybox.control.json_text import JsonText, dumped
from ipybox.control.records import ExecutionEvent, Page

MEDIA_TYPE = "application/json"
_PIECE = 256 * 1024
"""Characters after which others have their turn."""
_STEP = 2048
"""Characters that a piece counts for besides its own, as it was made as well."""


_anything: TypeAdapter[Any] = TypeAdapter(Any)


def fields_of(model: BaseModel) -> dict[str, Any]:
    """What a body has, with values that are text as they are, which the framework would read to write them."""
    return {name: _fields(getattr(model, name)) for name in type(model).model_fields}


def event_fields(record: ExecutionEvent) -> dict[str, Any]:
    """What an ``EventAnswer`` has."""
    return {"seq": record.seq, "kind": record.kind, "data": record.data, "at": record.at}


def page_fields(items: Iterable[Any], page: Page[Any], *, limit: int, offset: int) -> dict[str, Any]:
    """What a list has that is read page by page."""
    return {
        "items": items,
        "total": page.total,
        "limit": limit,
        "offset": offset,
        "has_more": page.next_cursor is not None,
        "next_cursor": page.next_cursor,
    }


def json_of(value: Any, *, ascii: bool = False) -> str:
    """JSON of what such a body has, at once."""
    return dumped(value, ascii=ascii, other=_as_json)


async def rendered(body: BaseModel | Mapping[str, Any], status: int = 200) -> Response:
    """An answer with that body; lists in it may be iterators, which make their items one by one."""
    return Response(await encoded(body), status_code=status, media_type=MEDIA_TYPE)


async def encoded(body: BaseModel | Mapping[str, Any]) -> bytes:
    """The body, as it travels."""
    parts, size = [], 0
    for piece in _pieces(fields_of(body) if isinstance(body, BaseModel) else body):
        parts.append(piece.encode())
        size += len(piece) + _STEP
        if size >= _PIECE:
            await asyncio.sleep(0)
            size = 0
    return b"".join(parts)


def _as_json(value: Any) -> Any:
    """As the framework has it, such as a time."""
    return _anything.dump_python(value, mode="json")


def _fields(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return fields_of(value)
    if isinstance(value, list) and value and isinstance(value[0], BaseModel):
        return [fields_of(each) for each in value]
    return value


def _pieces(value: Any) -> Iterator[str]:
    if isinstance(value, JsonText):
        yield from _cut(value.text)
    elif isinstance(value, str) and len(value) > _PIECE:
        yield '"'
        for part in _cut(value):
            yield json_of(part)[1:-1]
        yield '"'
    elif isinstance(value, Mapping) and any(map(_is_large, value.values())):
        for number, (name, each) in enumerate(value.items()):
            yield f"{',' if number else '{'}{json_of(name)}:"
            yield from _pieces(each)
        yield "}"
    elif _is_series(value):
        yield "["
        for number, each in enumerate(value):
            if number:
                yield ","
            yield from _pieces(each)
        yield "]"
    else:
        yield json_of(value)


def _is_large(value: Any) -> bool:
    return isinstance(value, JsonText) or (isinstance(value, str) and len(value) > _PIECE) or _is_series(value)


def _is_series(value: Any) -> bool:
    return isinstance(value, Iterator) or (isinstance(value, list) and bool(value) and isinstance(value[0], Mapping))


def _cut(text: str) -> Iterator[str]:
    for begin in range(0, len(text), _PIECE):
        yield text[begin : begin + _PIECE]
