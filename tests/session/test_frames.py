"""Frames: whole ones come out whole however they arrive, and what is none is found out before it is kept."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipybox.session.answers import code_result, command_result, file_entries
from ipybox.session.frames import BODY_LIMIT, HEAD_LIMIT, Decoder, FrameError, frame, optional, texts, value

JSON = st.dictionaries(st.text(max_size=5), st.none() | st.booleans() | st.integers() | st.text(max_size=5), max_size=4)


@given(st.lists(st.tuples(JSON, st.binary(max_size=40)), max_size=5), st.integers(1, 30))
def test_frames_come_out_as_they_went_in(sent: list[tuple[dict[str, Any], bytes]], step: int) -> None:
    data = b"".join(frame(head, body) for head, body in sent)
    decoder, found = Decoder(), []
    for start in range(0, len(data), step):
        found += list(decoder.feed(data[start : start + step]))
    assert found == sent


@given(st.binary(max_size=200))
def test_anything_at_all_is_a_frame_or_an_error(data: bytes) -> None:
    try:
        for head, body in Decoder().feed(data):
            assert isinstance(head, dict)
            assert isinstance(body, bytes)
    except FrameError:
        pass


@pytest.mark.parametrize("sizes", [(HEAD_LIMIT + 1, 0), (0, BODY_LIMIT + 1), (2**32 - 1, 2**32 - 1)])
def test_a_frame_that_is_too_large_is_refused_by_its_length(sizes: tuple[int, int]) -> None:
    with pytest.raises(FrameError, match="too large"):
        list(Decoder().feed(struct.pack("!II", *sizes)))


@pytest.mark.parametrize("text", [b"", b"[]", b"1", b"{", b"[" * 100_000, b'{"a": ' * 100_000, b"\xff"])
def test_what_is_no_json_object_is_refused(text: bytes) -> None:
    with pytest.raises(FrameError):
        list(Decoder().feed(struct.pack("!II", len(text), 0) + text))


def test_too_much_is_not_sent() -> None:
    with pytest.raises(FrameError):
        frame({}, bytes(BODY_LIMIT + 1))


def test_values_are_of_the_very_type() -> None:
    head = {"text": "a", "number": 1, "flag": True, "nothing": None, "env": {"a": 1}}
    assert value(head, "text", str) == "a"
    assert value(head, "number", float) == 1.0
    assert optional(head, "nothing", str) is None
    for name, kind in (("text", int), ("flag", int), ("number", bool), ("missing", str), ("flag", float)):
        with pytest.raises(FrameError, match=name):
            value(head, name, kind)
    with pytest.raises(FrameError, match="env"):
        texts(head, "env")


COMMAND: dict[str, Any] = {"exit_code": 0, "execution_time": 1, "timed_out": False, "truncated": False, "stdout": 1}
CODE: dict[str, Any] = {**COMMAND, "result": None, "error": None, "rich": [], "state_lost": False}
ENTRY = {"name": "a", "path": "a", "is_dir": False, "is_link": False, "size": 1, "mode": 1, "modified": 1.5}


def test_answers_are_read() -> None:
    assert command_result(COMMAND, b"ab").stdout == "a"
    assert code_result(CODE, b"ab").stderr == "b"
    assert file_entries({"entries": [ENTRY]})[0].name == "a"


@pytest.mark.parametrize("name", list(COMMAND))
@pytest.mark.parametrize("wrong", ["x", None, -1.5, [], 2**70])
def test_answers_with_anything_else_in_them_are_refused(name: str, wrong: Any) -> None:
    if (name, wrong) in (("execution_time", -1.5), ("execution_time", 2**70), ("exit_code", 2**70)):
        return  # a number is a number
    for read, answer in ((command_result, COMMAND), (code_result, CODE)):
        with pytest.raises(FrameError):
            read({**answer, name: wrong}, b"ab")


@pytest.mark.parametrize("rich", [[1], [{}], ["x"], [{"type": "a", "format": "b", "data": 5, "metadata": {}}]])
def test_what_is_shown_has_to_be_text(rich: list[Any]) -> None:
    with pytest.raises(FrameError):
        code_result({**CODE, "rich": rich}, b"ab")


@pytest.mark.parametrize("name", list(ENTRY))
def test_an_entry_needs_all_its_facts(name: str) -> None:
    with pytest.raises(FrameError):
        file_entries({"entries": [{**ENTRY, name: None}]})
