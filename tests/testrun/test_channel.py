"""The private line: what was told arrives, and nothing else is taken for it."""

from __future__ import annotations

import builtins
import json
import os
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipybox.testrun.channel import LONGEST, Reader, Value, Write, writer

KEY = b"k" * 32
VALUES = (
    st.text(max_size=12)
    | st.just('\udcff\x00\x1b\u2028"\\')
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.booleans()
    | st.none()
    | st.lists(st.text(max_size=5), max_size=3)
)
MESSAGES = st.dictionaries(st.text(max_size=8), VALUES, max_size=4)


def _sent(messages: list[dict[str, Value]], key: bytes = KEY) -> list[bytes]:
    """Each message as it is sent."""
    read, write = os.pipe()
    try:
        send = writer(write, key)
        frames = []
        for message in messages:
            send(message)
            frames.append(os.read(read, 1 << 20))
        return frames
    finally:
        os.close(read)
        os.close(write)


@given(st.lists(MESSAGES, max_size=4), st.data())
def test_messages_arrive_however_their_bytes_come(messages: list[dict[str, Value]], data: st.DataObject) -> None:
    stream = b"".join(_sent(messages))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    reader, found = Reader(KEY), []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found += reader.feed(stream[start:end])
    assert found == messages
    assert not reader.is_broken


def test_messages_arrive_byte_by_byte() -> None:
    messages: list[dict[str, Value]] = [{"a": 1}, {}, {"b": ["x", "é"]}]
    reader = Reader(KEY)
    assert [each for byte in b"".join(_sent(messages)) for each in reader.feed(bytes([byte]))] == messages


@given(st.lists(MESSAGES, min_size=1, max_size=3), st.data())
def test_a_byte_that_was_changed_is_noticed(messages: list[dict[str, Value]], data: st.DataObject) -> None:
    stream = bytearray(b"".join(_sent(messages)))
    place = data.draw(st.integers(0, len(stream) - 1))
    stream[place] ^= data.draw(st.integers(1, 255))
    reader = Reader(KEY)
    found = reader.feed(bytes(stream))
    assert found == messages[: len(found)]
    assert len(found) < len(messages)
    # A length that was made larger waits for what never comes: then nothing that follows is taken for a message either.
    assert reader.is_broken or reader.feed(bytes(LONGEST + 64)) == []
    assert reader.is_broken


@given(st.lists(MESSAGES, min_size=1, max_size=3), st.integers(0, 2))
def test_a_message_that_comes_again_is_noticed(messages: list[dict[str, Value]], which: int) -> None:
    frames = _sent(messages)
    reader = Reader(KEY)
    assert reader.feed(b"".join(frames)) == messages
    assert reader.feed(frames[which % len(frames)]) == []
    assert reader.is_broken


@given(st.permutations(range(4)))
def test_messages_in_another_order_are_noticed(order: list[int]) -> None:
    messages: list[dict[str, Value]] = [{"n": number} for number in range(4)]
    frames = _sent(messages)
    reader = Reader(KEY)
    found = reader.feed(b"".join(frames[number] for number in order))
    assert found == [{"n": number} for number, place in enumerate(order) if order[: number + 1] == [*range(number + 1)]]
    assert reader.is_broken == (order != [0, 1, 2, 3])


def test_a_message_that_was_left_out_is_noticed() -> None:
    first, _, third = _sent([{"n": 1}, {"n": 2}, {"n": 3}])
    reader = Reader(KEY)
    assert reader.feed(first + third) == [{"n": 1}]
    assert reader.is_broken


def test_a_message_of_somebody_with_another_secret_is_noticed() -> None:
    reader = Reader(KEY)
    assert reader.feed(_sent([{"n": 1}], b"x" * 32)[0]) == []
    assert reader.is_broken


@pytest.mark.parametrize("junk", [b"hello world\n", b"\0" * 100, b"\xff" * 100, b"\0\0\0\x10" + b"x" * 16])
def test_anything_else_is_noticed_and_nothing_is_read_after_it(junk: bytes) -> None:
    reader = Reader(KEY)
    assert reader.feed(junk) == []
    assert reader.is_broken
    assert reader.feed(b"".join(_sent([{"n": 1}]))) == []


@given(st.binary(max_size=200))
def test_no_bytes_without_the_secret_are_a_message(junk: bytes) -> None:
    assert Reader(KEY).feed(junk) == []


def test_a_frame_that_is_too_long_is_not_waited_for() -> None:
    reader = Reader(KEY)
    reader.feed((LONGEST + 1).to_bytes(4, "big"))
    assert reader.is_broken


# ---- the writer -------------------------------------------------------------------------------------------------


@pytest.fixture
def line() -> Iterator[tuple[Write, int]]:
    read, write = os.pipe()
    yield writer(write, KEY), read
    os.close(read)
    os.close(write)


def _told(read: int) -> list[dict[str, Any]]:
    return Reader(KEY).feed(os.read(read, 1 << 20))


def test_a_long_message_is_written_in_as_many_pieces_as_it_takes() -> None:
    read, write = os.pipe()
    os.set_blocking(read, False)
    reader, found = Reader(KEY), []
    child = os.fork()
    if child == 0:
        writer(write, KEY)({"text": "x" * 1_000_000})
        os._exit(0)
    os.close(write)
    os.set_blocking(read, True)
    while data := os.read(read, 65536):
        found += reader.feed(data)
    os.waitpid(child, 0)
    os.close(read)
    assert found == [{"text": "x" * 1_000_000}]


def test_a_child_of_the_process_tells_nothing(line: tuple[Write, int]) -> None:
    send, read = line
    child = os.fork()
    if child == 0:
        send({"a": "lie"})
        os._exit(0)
    os.waitpid(child, 0)
    send({"the": "truth"})
    assert _told(read) == [{"the": "truth"}]


def test_a_text_is_told_by_its_letters_whatever_its_methods_say(line: tuple[Write, int]) -> None:
    class Liar(str):
        __slots__ = ()

        def __str__(self) -> str:
            return "passed"

        def __len__(self) -> int:
            return 0

    line[0]({"outcome": Liar("failed"), "ids": [Liar("a")]})
    assert _told(line[1]) == [{"outcome": "failed", "ids": ["a"]}]


@pytest.mark.parametrize("value", [object(), b"bytes", {}, (1,)])
def test_what_can_not_be_told_is_a_type_error(line: tuple[Write, int], value: Any) -> None:
    with pytest.raises(TypeError):
        line[0]({"value": value})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_number_that_json_does_not_have_is_zero(line: tuple[Write, int], value: float) -> None:
    line[0]({"duration": value})
    assert _told(line[1]) == [{"duration": 0.0}]


def test_what_is_replaced_later_does_not_change_what_is_told(
    line: tuple[Write, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def lie(*_: object, **__: object) -> Any:
        raise AssertionError("somebody asked")

    with monkeypatch.context() as patch:
        patch.setattr(json, "dumps", lie)
        patch.setattr(os, "write", lie)
        patch.setattr(os, "getpid", lie)
        patch.setattr(builtins, "kind", lie, raising=False)
        patch.setattr(json.encoder, "encode_basestring_ascii", lie)
        line[0]({"a": ["é"], "b": 1, "c": None, "d": True, "e": 0.5})
    assert _told(line[1]) == [{"a": ["é"], "b": 1, "c": None, "d": True, "e": 0.5}]


def test_nobody_who_listens_is_an_os_error() -> None:
    read, write = os.pipe()
    send = writer(write, KEY)
    os.close(read)
    with pytest.raises(OSError, match="Broken pipe"):
        send({})
    os.close(write)
