"""Bodies of answers are written in pieces, and large values are copied as they are."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Callable
from typing import Any, get_args

import pytest

from ipybox.control.api import context, rendering
from ipybox.control.api.answers import EventAnswer, Message
from ipybox.control.api.rendering import encoded, event_fields, fields_of
from ipybox.control.api.streams import encoded as as_event
from ipybox.control.json_text import JsonText, dumped, plain
from ipybox.control.records import ExecutionEvent
from tests.control.made import NOW

LARGE = JsonText('{"a":[1,"\u2028é"]}')


async def other_turns(work: Callable[[], Any]) -> tuple[Any, int]:
    """What comes of it, and how often others had their turn meanwhile."""
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.ensure_future(count())
    result = await work()
    counting.cancel()
    return result, turns


def test_text_is_copied_wherever_it_is() -> None:
    value = {"a": LARGE, "b": [LARGE, {"c": 1}], "d": "x"}
    assert json.loads(dumped(value)) == {"a": plain(LARGE), "b": [plain(LARGE), {"c": 1}], "d": "x"}
    assert LARGE.text in dumped(value)
    with pytest.raises(TypeError, match="set is no JSON"):
        dumped({"a": set()})


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "body",
    [
        {},
        {"a": [], "b": {}, "c": None},
        {"items": [{"a": "é" * 600_000, "at": NOW}, {"b": [{"c": 1}]}, {}], "n": 3},
        {"value": LARGE, "text": '"\\\u2028' * 300_000},
    ],
)
async def test_pieces_make_the_same_as_the_whole(body: dict[str, Any]) -> None:
    assert json.loads(await encoded(body)) == json.loads(rendering.json_of(body))


@pytest.mark.asyncio
async def test_others_have_their_turns_while_a_long_list_is_written() -> None:
    items = (fields_of(Message(message=str(number))) for number in range(20_000))
    body, turns = await other_turns(lambda: encoded({"items": items}))
    assert [each["message"] for each in json.loads(body)["items"]] == [str(number) for number in range(20_000)]
    assert turns > 50


@pytest.mark.asyncio
async def test_others_have_their_turns_while_a_long_text_is_written() -> None:
    body, turns = await other_turns(lambda: encoded({"text": "\0" * 5_000_000}))
    assert json.loads(body) == {"text": "\0" * 5_000_000}
    assert turns > 10


@pytest.mark.parametrize("data", [{"text": "a\u2028"}, LARGE])
def test_an_event_is_what_its_schema_says_on_one_line(data: Any) -> None:
    event = ExecutionEvent(execution_id="e", seq=1, kind="display", data=data, at=NOW)
    expected = EventAnswer.of(event).model_dump(mode="json")
    assert json.loads(rendering.json_of(event_fields(event))) == expected
    lines = as_event(event).decode().splitlines()
    assert lines[:2] == ["id: 1", "event: display"]
    assert json.loads(lines[2].removeprefix("data: ")) == expected


def test_no_request_waits_for_a_thread_to_learn_who_asks() -> None:
    """The framework has forty of them, and calls what is no coroutine in one."""
    kinds = (context.Plane, context.Reader, context.Executor, context.Templater, context.Internal, context.Anybody)
    for kind in (*kinds, context.Administrator):
        assert inspect.iscoroutinefunction(get_args(kind)[1].dependency)
