"""Messages survive their frames, and no frame does more harm than a ValueError."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ipybox.kernel_mgr import wire
from ipybox.kernel_mgr.wire import Message

# Lone low surrogates included: that is how file names that are no UTF-8 look in Python.
TEXT = st.text(st.characters(codec="utf-8") | st.sampled_from("\udc80\udfff\0\n\u2028€😀"), max_size=12)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)
OBJECTS = st.dictionaries(TEXT, JSON, max_size=4)
MESSAGES = st.builds(
    Message,
    st.sampled_from(["shell", "iopub", "stdin", "control"]),
    header=OBJECTS,
    parent=OBJECTS,
    metadata=OBJECTS,
    content=OBJECTS,
    buffers=st.lists(st.binary(max_size=20), max_size=4),
    sequence=st.integers(0, 2**64 - 1),
)
NUMBERS = st.integers(0, 300) | st.sampled_from([2**31, 2**32, 2**63, 2**64 - 1])


def encoded(message: Message) -> bytes:
    assert message.sequence is not None
    return wire.numbered(message.sequence, wire.frame(message.channel, message.parts()))


def framed(*parts: bytes) -> bytes:
    return wire.numbered(0, wire.frame("iopub", parts))


def words(*numbers: int) -> bytes:
    return b"".join(number.to_bytes(8, "little") for number in numbers)


def refuse_or_read(data: bytes) -> None:
    try:
        message = wire.decode(data)
    except ValueError:
        return
    for part in (message.header, message.parent, message.metadata, message.content):
        assert isinstance(part, dict)
    assert all(isinstance(text, str) for text in (message.channel, message.id, message.type, message.parent_id))
    assert all(isinstance(buffer, bytes) for buffer in message.buffers)


@settings(deadline=None, max_examples=50)
@given(MESSAGES)
@example(Message("iopub", {"msg_id": "ü\udc80"}, content={"text": "\udcff" * 3}, buffers=[b""], sequence=0))
def test_a_message_survives_its_frame(message: Message) -> None:
    assert wire.decode(encoded(message)) == message


@settings(deadline=None, max_examples=50)
@given(st.text(st.characters(codec="ascii"), max_size=12), st.lists(st.binary(max_size=12), min_size=4, max_size=12))
def test_parts_survive_their_frame_byte_for_byte(channel: str, parts: list[bytes]) -> None:
    name, again = wire.unframe(wire.frame(channel, parts))
    assert (name, [bytes(part) for part in again]) == (channel, parts)


def test_parts_are_not_copied_out_of_their_frame() -> None:
    frame = wire.frame("iopub", [b"{}"] * 4 + [b"x" * 100])
    assert wire.unframe(frame)[1][4].obj is frame


@pytest.mark.parametrize("buffers", [0, 1, 993, 995, 5_000])
def test_whatever_can_be_framed_can_be_read_again(buffers: int) -> None:
    # Kernel code chooses how many buffers its messages have.
    message = Message("iopub", {}, buffers=[b"x"] * buffers, sequence=1)
    assert wire.decode(encoded(message)) == message


@settings(deadline=None, max_examples=150)
@given(st.binary(max_size=200))
@example(b"")
@example(b"\0" * 8)
@example(b"\xff" * 64)
def test_arbitrary_bytes_are_refused_with_a_value_error(data: bytes) -> None:
    refuse_or_read(data)


@settings(deadline=None, max_examples=50)
@given(MESSAGES, st.data())
def test_a_damaged_frame_is_read_or_refused_with_a_value_error(message: Message, data: st.DataObject) -> None:
    frame = bytearray(encoded(message))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(frame) - 1))
        match data.draw(st.sampled_from(["set", "cut", "drop", "insert"])):
            case "set":
                frame[at] = data.draw(st.integers(0, 255))
            case "cut":
                del frame[max(at, 1) :]
            case "drop":
                del frame[at]
                frame = frame or bytearray(1)
            case "insert":
                frame[at:at] = data.draw(st.binary(min_size=1, max_size=9))
    refuse_or_read(bytes(frame))


@settings(deadline=None, max_examples=150)
@given(NUMBERS, st.lists(NUMBERS, max_size=12), st.binary(max_size=120))
@example(6, [56, 56, 56, 56, 56, 56], b"")
@example(1_000, [0] * 5, b"")
def test_offsets_that_lie_are_refused_with_a_value_error(count: int, offsets: list[int], rest: bytes) -> None:
    refuse_or_read(words(0, count, *offsets) + rest)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.binary(max_size=30) | JSON.map(wire.pack), min_size=4, max_size=6))
def test_parts_that_are_no_json_objects_are_refused_with_a_value_error(parts: list[bytes]) -> None:
    refuse_or_read(framed(*parts))


@pytest.mark.parametrize(
    "part",
    [
        b"",
        b"[]",
        b"null",
        b"1",
        b'"text"',
        b"{",
        b'{"a": }',
        b"\xff\xfe",
        b"\x00\xd8",
        b"\xef\xbb\xbf{}x",
        b'{"a": ' + b"1" * 10_000 + b"}",
        b'{"a": ' * 100_000,
        b"[" * 100_000,
    ],
    ids=lambda part: f"{part[:8]!r}x{len(part)}",
)
def test_a_part_that_is_no_json_object_is_refused_with_a_value_error(part: bytes) -> None:
    for place in range(4):
        parts = [b"{}"] * 4
        parts[place] = part
        with pytest.raises(ValueError):
            wire.decode(framed(*parts))


def test_bytes_that_are_no_utf_8_become_replacement_characters() -> None:
    assert wire.unpack(b'{"text": "a\xffb"}') == {"text": "a\ufffdb"}


@settings(deadline=None, max_examples=50)
@given(OBJECTS)
def test_packed_json_is_utf_8_and_says_the_same(value: dict[str, Any]) -> None:
    packed = wire.pack(value)
    packed.decode("utf-8")
    assert json.loads(packed) == value
    assert wire.unpack(memoryview(packed)) == value


def test_a_frame_from_a_client_has_no_journal_number() -> None:
    message = wire.request("shell", "execute_request", {"code": "1"}, session="s", message_id="m")
    channel, parts = wire.unframe(wire.frame(message.channel, message.parts()))
    assert channel == "shell"
    assert [wire.unpack(part) for part in parts] == [message.header, {}, {}, {"code": "1"}]


def test_a_request_has_everything_that_a_kernel_asks_for() -> None:
    message = wire.request("shell", "execute_request", {}, session="s", message_id="m", parent={"msg_id": "p"})
    assert (message.id, message.type, message.parent_id) == ("m", "execute_request", "p")
    assert set(message.header) == {"msg_id", "msg_type", "session", "username", "date", "version"}
    assert message.header["session"] == "s"


def test_requests_without_an_id_get_one_each() -> None:
    ids = {wire.request("shell", "x", {}, session="s").id for _ in range(100)}
    assert len(ids) == 100


def test_a_message_without_ids_has_empty_ones() -> None:
    message = Message("iopub", {})
    assert (message.id, message.type, message.parent_id) == ("", "", "")
